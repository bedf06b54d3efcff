"""The controller of a training loop in plain torch."""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import Optimizer

from smd_mmdet._arguments import whole_number
from smd_mmdet._text import did_you_mean
from smd_mmdet.invariance import find_dependents
from smd_mmdet.monitor.readers import groups_of
from smd_mmdet.rescale import apply, unwrapped

from .applying import plan_what_fits
from .factors import Factors, above_epsilon, law_of
from .regulator import Regulator
from .response import Response
from .timetable import Timetable
from .wanted import Wanted

__all__ = ['AngularUpdateController']

T = TypeVar('T')

# Optimizers that have a controller. Two of them would undo each other's work.
_controlled: weakref.WeakSet[Optimizer] = weakref.WeakSet()


class AngularUpdateController:
    """Sets the angle through which steps turn scale-invariant weights.

    The norm of such a weight changes nothing that the network computes, but the angle Δ
    follows it. So every few steps each weight is multiplied by what brings the mean
    square of Δ over the steps to come to the wanted one, and with it everything that
    follows: running statistics of norms, biases before them, momentum. Outputs stay
    what they are, up to the norms' ε; training does not, which is the purpose.

    Δ is measured by the monitor at every step, without waiting for the device; a
    control waits once. A weight that few or very different steps tell of is moved
    little, no weight is multiplied by more than 4 at once, and one in front of batch
    norm is not shrunk until the norm's ε counts. What is known ahead, an array of
    angles or the decay of the norm itself, is taken into account.

    In data-parallel training every process has a controller, and the first one decides.

    Args:
        model: The model, wrapped for DDP or not.
        optimizer: SGD, with Nesterov momentum or not, AdamW, or NAdam with decoupled
            decay.
        names: Names of scale-invariant weights, as
            :func:`~smd_mmdet.invariance.find_scale_invariant` finds them.
        angular_update: Wanted Δ, root mean square, in radians per step: a number; an
            array with one for each step; a function of the step's number, counted from
            0; 'equilibrium' for Δ* of the rate and decay of each step; or the folder of
            a run with records, whose Δ is repeated step by step. After the last value
            it stays.
        every: Steps from one measurement to the next. The fewer, the closer Δ comes to
            what is wanted, and the more often the device is waited for.
        inputs: Positional arguments of one forward pass to observe; see
            :func:`~smd_mmdet.invariance.find_dependents`.

    Attributes:
        steps: Steps that are done.
        left_alone: Why weights were left alone or held back at the last control, by
            name.
        fault: What made the controller stop, or None.

    Raises:
        ValueError: On a wanted Δ that no step can have, a bad setting, an optimizer
            without theory or with a controller already, or a weight that cannot be
            rescaled; the message names it.

    Example:
        >>> import torch
        >>> from torch.nn import functional as F
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 2)
        ... )
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> controller = AngularUpdateController(model, optimizer, ['0.weight'], 0.01)
        >>> for _ in range(61):
        ...     images, labels = torch.randn(16, 3, 8, 8), torch.randint(2, (16,))
        ...     optimizer.zero_grad()
        ...     F.cross_entropy(model(images), labels).backward()
        ...     before = model[0].weight.detach().flatten().clone()
        ...     optimizer.step()
        ...     after = model[0].weight.detach().flatten().clone()
        ...     factors = controller.step()
        >>> angle = torch.acos(F.cosine_similarity(before, after, dim=0)).item()
        >>> 0.005 < angle < 0.02
        True
        >>> controller.detach()
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        names: Iterable[str] | str,
        angular_update: object,
        every: int = 20,
        inputs: Sequence | Tensor | None = None,
    ) -> None:
        whole_number(every, 'every')
        law = law_of(optimizer)
        self._model, self._optimizer = unwrapped(model), optimizer
        weights = _weights(self._model, optimizer, names)
        wanted = Wanted(angular_update, list(weights), law)
        self._dependents = find_dependents(self._model, inputs)
        for name in weights:
            if reason := self._dependents.refused.get(name, 'it is not used'):
                raise ValueError(f'names: {name} cannot be rescaled: {reason}')
        if optimizer in _controlled:
            raise ValueError(
                'optimizer: it has a controller already; detach() that one first'
            )
        self.left_alone: Mapping[str, str] = {}
        self.fault: Exception | None = None
        self._every = every
        self._times = Timetable(optimizer, weights, wanted, every)
        # In the process that decides; None in the others, and after detach().
        self._regulator: Regulator | None = None
        if not _rank():
            self._regulator = Regulator(optimizer, law, weights, every)
        _controlled.add(optimizer)

    @property
    def steps(self) -> int:
        """Steps that are done."""
        return self._times.done

    def note_clipping(
        self, total_norm: Tensor, max_norm: float, norm_type: float = 2.0
    ) -> None:
        """Tell by how much the gradients of the step to come have been clipped.

        Where it is told before every step, what clipping does to Δ is known ahead.

        Args:
            total_norm: Norm of all gradients before, which
                ``torch.nn.utils.clip_grad_norm_`` returns.
            max_norm: The largest norm that they may have.
            norm_type: Which norm that is.
        """
        if self._regulator is not None:
            self._regulator.clipped.note_clipping(total_norm, max_norm, norm_type)

    def step(self) -> Mapping[str, float]:
        """Count a step of the optimizer, and rescale where it is time.

        Call it after each ``optimizer.step()``, whether a gradient scaler has skipped
        that or not.

        Returns:
            The factor of each weight that was rescaled, by name; mostly empty.

        Raises:
            ValueError: If a function of the step gives an angle that cannot be.
        """
        if self.fault is not None or not self._times.advance():
            return {}
        wanted, ahead = self._times.plan()
        try:
            return self._control(wanted, ahead)
        except Exception as fault:
            self._give_up(fault)
            return {}

    def detach(self) -> None:
        """End the control; the weights stay as they are."""
        if self._regulator is not None:
            self._regulator.detach()
        self._regulator = None
        _controlled.discard(self._optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint."""
        regulator = None if self._regulator is None else self._regulator.state_dict()
        return {
            'every': self._every,
            'times': self._times.state_dict(),
            'regulator': regulator,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`, once the optimizer has loaded its own.

        Raises:
            ValueError: If it is of other layers or of another ``every``.
        """
        if state['every'] != self._every:
            raise ValueError(
                f'the saved state has every={state["every"]}, this one {self._every}'
            )
        if self._regulator is not None and state['regulator'] is not None:
            self._regulator.load_state_dict(state['regulator'])
        self._times.load_state_dict(state['times'])

    def _control(self, wanted: np.ndarray, ahead: np.ndarray) -> Mapping[str, float]:
        decided, response = _in_first(lambda: self._decide(wanted, ahead))
        planned = plan_what_fits(
            self._model,
            self._optimizer,
            decided,
            self._dependents,
            response=response,
        )
        apply(planned.multiplications)
        if self._regulator is not None:
            self._regulator.applied(planned.factors, response)
        self.left_alone = planned.left_alone
        return planned.factors

    def _decide(
        self, wanted: np.ndarray, ahead: np.ndarray
    ) -> tuple[Factors, Response | None]:
        if self._regulator is None:
            return Factors(), None
        found, response = self._regulator.decide(wanted, ahead, self.steps)
        return above_epsilon(found, self._model, self._dependents), response

    def _give_up(self, fault: Exception) -> None:
        self.fault = fault
        self.detach()
        with contextlib.suppress(RuntimeWarning):
            warnings.warn(
                f'the control of Δ stopped at step {self.steps}, training goes on: '
                f'{type(fault).__name__}: {fault}',
                RuntimeWarning,
                stacklevel=3,
            )


def _weights(
    model: nn.Module, optimizer: Optimizer, names: Iterable[str] | str
) -> dict[str, nn.Parameter]:
    """The weights by name; refuses what the model or the optimizer does not have."""
    names = [names] if isinstance(names, str) else list(names)
    known = dict(model.named_parameters())
    for name in names:
        if name not in known:
            hint = did_you_mean(str(name), known)
            raise ValueError(
                f'names: the model has no parameter {name!r}' + f'; {hint}' * bool(hint)
            )
    weights = {name: known[name] for name in names}
    if not weights:
        raise ValueError('names: there is no scale-invariant weight to control')
    pairs = zip(weights, groups_of(optimizer, weights.values()), strict=True)
    if unknown := [name for name, group in pairs if group is None]:
        raise ValueError(f'names: the optimizer does not train {unknown[0]}')
    return weights


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _in_first(compute: Callable[[], T]) -> T:
    """What the first process computes, in all processes of a training."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() < 2:
        return compute()
    value: list[Any] = [None, None]
    if not _rank():
        try:
            value[0] = compute()
        except Exception as fault:
            value[1] = f'{type(fault).__name__}: {fault}'
    dist.broadcast_object_list(value)
    if value[1] is not None:
        raise RuntimeError(value[1])
    found: T = value[0]
    return found
