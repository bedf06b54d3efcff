"""The optimizer of a config, as far as the theory asks for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import OPTIMIZERS

from smd_mmdet._text import one_line
from smd_mmdet.monitor.readers import reader_for, settings_of
from smd_mmdet.theory import THEORIES, Theory, weight_decay_for

from .errors import SettingError
from .settings import check_angular_update, number, section
from .types import names_class, type_name

__all__ = ['Optimizer', 'build_optimizer', 'optimizer_settings', 'read_optimizer']

_HERE = 'optim_wrapper.optimizer'
_PARAMWISE = 'optim_wrapper.paramwise_cfg'
_DEFAULT = 'DefaultOptimWrapperConstructor'
_OURS = 'SMDOptimWrapperConstructor'


@dataclass(frozen=True)
class Optimizer:
    """What the theory asks for of an optimizer.

    Args:
        name: Name of its class.
        theory: Name of the theory that holds under it, or 'none'.
        lr: Learning rate η of the config.
        weight_decay: Weight decay λ of scale-invariant weights.
        momentum: Momentum α; β₁ of Adam's kind.
        custom_keys: Multipliers of η and λ, by the part of a parameter's name that
            they are meant for.
        assumptions: What of the config is left out, a sentence each.
    """

    name: str
    theory: str
    lr: float
    weight_decay: float
    momentum: float
    custom_keys: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()

    @property
    def known(self) -> Theory | None:
        """What is known of the equilibrium under this optimizer."""
        return THEORIES.get(self.theory)

    @property
    def comes_to_equilibrium(self) -> bool:
        """Whether there is an equilibrium, and the way to it is known."""
        return self.known is not None and self.known.norm_law and self.weight_decay > 0

    def multipliers(self, layer: str) -> tuple[float, float]:
        """What a layer's learning rate and weight decay are multiplied by.

        Of the keys that are part of the layer's name the longest counts, and of
        those as long the first in the alphabet, as in MMEngine.

        Args:
            layer: Name of the parameter.

        Returns:
            The two multipliers.
        """
        for key in sorted(sorted(self.custom_keys), key=len, reverse=True):
            if key in layer:
                return self.custom_keys[key]
        return 1.0, 1.0


def read_optimizer(config: Config) -> Optimizer:
    """Read the optimizer of a config, with the keys of our constructor applied.

    Args:
        config: The config.

    Returns:
        The optimizer.

    Raises:
        SettingError: If there is none with a learning rate, if there are several, or
            if a setting is no number.
    """
    wrapper = section(config, 'optim_wrapper')
    found = optimizer_settings(config)
    paramwise = section(wrapper, _PARAMWISE)
    for key in ('lr', 'weight_decay', 'momentum'):
        number(found.get(key, 0.0), f'{_HERE}.{key}')
    if found['lr'] == 0:
        raise SettingError(f'{_HERE}.lr is 0: weights do not move, nothing to plan')
    built = build_optimizer(found)
    lr, weight_decay, momentum = settings_of(built.param_groups[0])
    optimizer = Optimizer(
        name=type_name(found),
        theory=reader_for(built).theory,
        lr=lr,
        weight_decay=weight_decay,
        momentum=momentum,
        custom_keys=_custom_keys(paramwise),
    )
    if optimizer.known is not None and momentum >= 1:
        raise SettingError(f'{_HERE}.momentum must be < 1, got {momentum:g}')
    return _apply_paramwise(optimizer, wrapper.get('constructor', _DEFAULT), paramwise)


def optimizer_settings(config: Config) -> dict:
    """The settings of the one optimizer of a config.

    Args:
        config: The config.

    Returns:
        ``optim_wrapper.optimizer``.

    Raises:
        SettingError: If there is none with a learning rate, or several.
    """
    found = section(config, 'optim_wrapper').get('optimizer')
    if not isinstance(found, dict) or 'lr' not in found:
        raise SettingError(
            'optim_wrapper.optimizer needs a type and an lr; several optimizers cannot '
            'be planned'
        )
    return found


class _Unknown(torch.optim.Optimizer):
    """Stands for an optimizer of a package that is not imported here."""


def build_optimizer(settings: Mapping) -> torch.optim.Optimizer:
    """Build the optimizer that a config asks for, around one parameter of its own.

    Args:
        settings: ``optim_wrapper.optimizer``.

    Returns:
        The optimizer; where its type is not known here, one that has nothing but its
        learning rate and momentum.

    Raises:
        SettingError: If it cannot be built.
    """
    weight = [torch.nn.Parameter(torch.zeros(1))]
    kind = settings.get('type')
    try:
        if isinstance(kind, type) or OPTIMIZERS.get(str(kind)) is not None:
            return OPTIMIZERS.build(dict(settings, params=weight))
    except Exception as fault:  # whatever an optimizer makes of its settings
        raise SettingError(
            f'{_HERE}: {type(fault).__name__}: {one_line(fault)}'
        ) from fault
    lr = number(settings['lr'], f'{_HERE}.lr')
    momentum = number(settings.get('momentum', 0.0), f'{_HERE}.momentum')
    return _Unknown(weight, {'lr': lr, 'momentum': momentum})


def _custom_keys(paramwise: Mapping) -> dict[str, tuple[float, float]]:
    """``custom_keys`` with the two multipliers of each."""
    path = f'{_PARAMWISE}.custom_keys'
    keys = section(paramwise, path)
    found = {}
    for key in keys:
        here = f'{path}.{key}'
        if not isinstance(key, str):
            raise SettingError(f'{here}: its name must be a text')
        if not isinstance(keys[key], Mapping):
            raise SettingError(f'{here} must be a dict, got {keys[key]!r:.80}')
        rate, decay = (
            number(keys[key].get(name, 1.0), f'{here}.{name}')
            for name in ('lr_mult', 'decay_mult')
        )
        found[key] = rate, decay
    return found


def _apply_paramwise(
    optimizer: Optimizer, constructor: Any, paramwise: Mapping
) -> Optimizer:
    """The optimizer as its constructor sets it up for scale-invariant weights."""
    decay, assumptions = optimizer.weight_decay, []
    if names_class(constructor, _OURS):
        if (factor := paramwise.get('scale_invariant_decay_mult')) is not None:
            decay *= number(factor, f'{_PARAMWISE}.scale_invariant_decay_mult')
        if (angle := paramwise.get('angular_update')) is not None:
            return _with_one_angle(optimizer, angle)
    elif (name := type_name(constructor)) != _DEFAULT:
        assumptions.append(
            f'{name} may give layers rates of their own: the plan is for those '
            'with the rate of the config'
        )
    assumptions += [
        f'layers named {key!r} have lr × {rate:g} and weight decay × {decay:g}:'
        f' their Δ* is {math.sqrt(rate * decay):.3g} times that below'
        for key, (rate, decay) in optimizer.custom_keys.items()
        if rate * decay != 1
    ]
    return replace(optimizer, weight_decay=decay, assumptions=tuple(assumptions))


def _with_one_angle(optimizer: Optimizer, angle: Any) -> Optimizer:
    """The optimizer whose weight decay gives every layer the same Δ*.

    Δ* goes with the product of learning rate and weight decay, so a layer whose rate
    is multiplied has its weight decay divided by as much.
    """
    check_angular_update(optimizer.theory)
    number(angle, f'{_PARAMWISE}.angular_update')
    try:
        decay = weight_decay_for(angle, optimizer.lr, optimizer.momentum)
    except ValueError as error:
        raise SettingError(f'paramwise_cfg: {error}') from None
    keys = {
        key: (rate, 1 / rate if rate else 0.0)
        for key, (rate, _) in optimizer.custom_keys.items()
    }
    return replace(optimizer, weight_decay=float(decay), custom_keys=keys)
