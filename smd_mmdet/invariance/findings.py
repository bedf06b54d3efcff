"""What a walk through the graph finds out about each parameter, and its verdict."""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

from torch import nn

from .degrees import PerChannel, Value

__all__ = ['Findings', 'Norm', 'ScaleInvariance']


@dataclasses.dataclass(frozen=True)
class ScaleInvariance:
    """What the structure of a model says about one parameter.

    Args:
        name: Dotted name of the parameter.
        invariant: Whether the loss does not depend on the scale of the parameter.
        norm: Dotted name of the module that normalizes the parameter. None if the
            parameter is not invariant, or is so by construction (weight
            standardization), or is normalized by a function that belongs to no module.
        reason: Why, in one sentence.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from smd_mmdet.invariance import find_scale_invariant
        >>> model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3))
        >>> find_scale_invariant(model, torch.randn(8, 4))[0]
        ScaleInvariance(name='0.weight', invariant=True, norm='1',
                        reason='normalized by 1')
    """

    name: str
    invariant: bool
    norm: str | None
    reason: str


class Norm(NamedTuple):
    """A normalization that removes the scale of a parameter.

    Args:
        name: Dotted name of the module; where no module is a norm, the operation and
            the module that it runs in.
        is_module: Whether it is a module of the model.
    """

    name: str
    is_module: bool


@dataclasses.dataclass
class Findings:
    """Findings about the parameters, each of which is known by its ``id``.

    Args:
        trained: Parameters that training changes.
        reached: Parameters that an output of the forward pass depends on.
        failed: Why a parameter is not scale-invariant. Its case has ended then: it is
            not followed any further, and the first reason is kept.
        norms: The norms that remove the scale of a parameter, in the order of the
            forward pass (the keys of a dict; its values mean nothing).
        constructed: Where arithmetic removes the scale of a parameter without a norm,
            as weight standardization does.
        cancelled: What removes a parameter itself, not only its scale: a norm behind
            a bias, a factor of 0.
    """

    trained: set[int]
    reached: set[int] = dataclasses.field(default_factory=set)
    failed: dict[int, str] = dataclasses.field(default_factory=dict)
    norms: dict[int, dict[Norm, None]] = dataclasses.field(default_factory=dict)
    constructed: dict[int, str] = dataclasses.field(default_factory=dict)
    cancelled: dict[int, str] = dataclasses.field(default_factory=dict)

    def fail(self, parameter: int, reason: str) -> None:
        """End the case of a parameter."""
        self.failed.setdefault(parameter, reason)

    def fail_all(self, values: Iterable[Value], reason: str) -> None:
        """End the case of every parameter that the values depend on.

        The cause of a value's missing degree, where there is one, goes before
        ``reason``.
        """
        for value in values:
            for parameter, degree in value.degrees.items():
                own = degree.cause if isinstance(degree, PerChannel) else reason
                self.fail(parameter, own)

    def normalize(self, parameter: int, norm: Norm) -> None:
        """Note that a norm removes the scale of a parameter."""
        self.norms.setdefault(parameter, {})[norm] = None

    def cancel(self, parameter: int, what: str) -> None:
        """Note what removes a parameter altogether."""
        self.cancelled.setdefault(parameter, what)

    def is_open(self, parameter: int) -> bool:
        """Whether nothing is found yet that decides a parameter's case."""
        decided = (self.failed, self.norms, self.cancelled)
        return not any(parameter in found for found in decided)

    def verdict(self, name: str, parameter: nn.Parameter) -> ScaleInvariance:
        """Sum up what is found about one parameter.

        Args:
            name: Dotted name of the parameter.
            parameter: The parameter.

        Returns:
            Whether it is scale-invariant, and why.
        """
        p = id(parameter)
        if p in self.trained and p in self.reached and p not in self.failed:
            if p in self.norms:
                return _normalized(name, list(self.norms[p]))
            if p in self.constructed:
                reason = f'normalized by construction: {self.constructed[p]}'
                return ScaleInvariance(name, True, None, reason)
        return ScaleInvariance(name, False, None, self._reason_against(p))

    def _reason_against(self, parameter: int) -> str:
        if parameter not in self.trained:
            return 'frozen: requires_grad=False'
        if parameter not in self.reached:
            return 'not reached: no output of the forward pass depends on it'
        if parameter in self.failed:
            return self.failed[parameter]
        if parameter in self.cancelled:
            return f'without effect: {self.cancelled[parameter]} removes it'
        return 'without effect on the output'


def _normalized(name: str, norms: list[Norm]) -> ScaleInvariance:
    first, *others = norms
    reason = f'normalized by {first.name}'
    if others:
        some = ', '.join(norm.name for norm in others[:3])
        reason += f' and {len(others)} more: {some}'
        reason += ', ...' if len(others) > 3 else ''
    module = next((norm.name for norm in norms if norm.is_module), None)
    return ScaleInvariance(name, True, module, reason)
