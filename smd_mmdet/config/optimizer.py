"""The optimizer of a config, as far as the theory asks for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import OPTIMIZERS

from smd_mmdet._text import one_line
from smd_mmdet.monitor.readers import reader_for, settings_of
from smd_mmdet.theory import THEORIES, Theory

from .errors import SettingError
from .paramwise import Paramwise, read_paramwise
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
        lr: Learning rate η at the beginning, with what AutoScaleLR makes of it.
        weight_decay: Weight decay λ of scale-invariant weights.
        momentum: Momentum α; β₁ of Adam's kind.
        paramwise: What the config says of single weights.
        base_decay: Weight decay that the config gives to all weights.
        same_angle: Whether λ is set so that every layer has the same Δ*.
        clipping: 'norm' or 'value', if the config clips gradients by that; else ''.
        max_norm: The norm to which it clips them.
        assumptions: What of the config is left out, a sentence each.
    """

    name: str
    theory: str
    lr: float
    weight_decay: float
    momentum: float
    paramwise: Paramwise = field(default_factory=Paramwise)
    base_decay: float = 0.0
    same_angle: bool = False
    clipping: str = ''
    max_norm: float | None = None
    assumptions: tuple[str, ...] = ()

    @property
    def known(self) -> Theory | None:
        """What is known of the equilibrium under this optimizer.

        Nothing is where gradients are clipped by value: that bends them.
        """
        return None if self.clipping == 'value' else THEORIES.get(self.theory)

    @property
    def comes_to_equilibrium(self) -> bool:
        """Whether there is an equilibrium, and the way to it is known."""
        return self.known is not None and self.known.norm_law and self.weight_decay > 0

    @property
    def clips(self) -> bool:
        """Whether the config clips gradients in a way that changes the law."""
        return self.clipping == 'norm' and self.known is not None and self.known.clips

    def multipliers(self, layer: str, shape: Sequence[int] = ()) -> tuple[float, float]:
        """What a layer's learning rate and weight decay are multiplied by.

        Args:
            layer: Name of the parameter.
            shape: Its shape; without one it is taken for no depthwise convolution.

        Returns:
            Its learning rate over η, and its weight decay over λ.
        """
        rate, decay = self.paramwise.of(layer, shape)
        if self.paramwise.leaves_out(layer):
            lost = self.weight_decay == 0
            return rate, 0.0 if lost else decay * self.base_decay / self.weight_decay
        if self.same_angle:
            return rate, 1 / rate if rate else 0.0
        return rate, decay


def read_optimizer(config: Config, lr_factor: float = 1.0) -> Optimizer:
    """Read the optimizer of a config, with the keys of our constructor applied.

    Args:
        config: The config.
        lr_factor: What AutoScaleLR multiplies the learning rate by.

    Returns:
        The optimizer.

    Raises:
        SettingError: If there is none with a learning rate, if there are several, or
            if a setting is no number.
    """
    wrapper = section(config, 'optim_wrapper')
    found = optimizer_settings(config)
    for key in ('lr', 'weight_decay', 'momentum'):
        number(found.get(key, 0.0), f'{_HERE}.{key}')
    if found['lr'] == 0:
        raise SettingError(f'{_HERE}.lr is 0: weights do not move, nothing to plan')
    constructor = wrapper.get('constructor', _DEFAULT)
    ours = names_class(constructor, _OURS)
    clipping, max_norm = _read_clipping(wrapper)
    built = build_optimizer(found)
    lr, weight_decay, momentum = settings_of(built.param_groups[0])
    optimizer = Optimizer(
        name=type_name(found),
        theory=reader_for(built).theory,
        lr=lr * lr_factor,
        weight_decay=weight_decay,
        momentum=momentum,
        paramwise=read_paramwise(wrapper, found, ours),
        base_decay=weight_decay,
        clipping=clipping,
        max_norm=max_norm,
    )
    if optimizer.known is not None and momentum >= 1:
        raise SettingError(f'{_HERE}.momentum must be < 1, got {momentum:g}')
    if ours:
        optimizer = _as_ours_sets_it(optimizer, section(wrapper, _PARAMWISE))
    said = optimizer.paramwise.told(optimizer.same_angle)
    if not ours and (name := type_name(constructor)) != _DEFAULT:
        said = (
            f'{name} may give layers rates of their own: the plan is for those '
            'with the rate of the config',
            *said,
        )
    return replace(optimizer, assumptions=said)


def _read_clipping(wrapper: Mapping) -> tuple[str, float | None]:
    """By what gradients are clipped, and the norm, as MMEngine's OptimWrapper does."""
    path = 'optim_wrapper.clip_grad'
    clip = section(wrapper, path)
    if not clip:
        return '', None
    kind = clip.get('type', 'norm')
    if kind not in ('norm', 'value'):
        raise SettingError(f"{path}.type must be 'norm' or 'value', got {kind!r:.80}")
    if kind == 'value':
        return kind, None
    if clip.get('max_norm') == math.inf:  # the norm is logged, and nothing clipped
        return '', None
    return kind, number(clip.get('max_norm'), f'{path}.max_norm')


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


def build_optimizer(
    settings: Mapping, multipliers: Sequence[float] = ()
) -> torch.optim.Optimizer:
    """Build the optimizer that a config asks for, around parameters of its own.

    Args:
        settings: ``optim_wrapper.optimizer``.
        multipliers: For each of these there is one more parameter group, with the
            learning rate times that.

    Returns:
        The optimizer; where its type is not known here, one of its name that has
        nothing but its settings.

    Raises:
        SettingError: If it cannot be built.
    """
    groups: list[dict[str, Any]] = [{'params': [torch.nn.Parameter(torch.zeros(1))]}]
    for multiplier in multipliers:
        weight = torch.nn.Parameter(torch.zeros(1))
        groups.append({'params': [weight], 'lr': settings['lr'] * multiplier})
    kind = settings.get('type')
    try:
        if isinstance(kind, type) or OPTIMIZERS.get(str(kind)) is not None:
            return OPTIMIZERS.build(dict(settings, params=groups))
    except Exception as fault:  # whatever an optimizer makes of its settings
        raise SettingError(
            f'{_HERE}: {type(fault).__name__}: {one_line(fault)}'
        ) from fault
    for key in ('lr', 'momentum', 'weight_decay'):
        number(settings.get(key, 0.0), f'{_HERE}.{key}')
    given = {key: value for key, value in settings.items() if key != 'type'}
    if 'betas' not in given:
        given.setdefault('momentum', 0.0)
    stand_in: type[_Unknown] = type(type_name(settings), (_Unknown,), {})
    return stand_in(groups, given)


def _as_ours_sets_it(optimizer: Optimizer, paramwise: Mapping) -> Optimizer:
    """The optimizer as our constructor sets it up for scale-invariant weights."""
    angle = paramwise.get('angular_update')
    factor = paramwise.get('scale_invariant_decay_mult')
    if angle is not None and factor is not None:
        raise SettingError(
            'paramwise_cfg: scale_invariant_decay_mult and angular_update both set the '
            'weight decay of scale-invariant weights; leave one out'
        )
    if angle is not None:
        return _with_one_angle(optimizer, angle)
    if factor is None:
        return optimizer
    factor = number(factor, f'{_PARAMWISE}.scale_invariant_decay_mult')
    return replace(optimizer, weight_decay=optimizer.weight_decay * factor)


def _with_one_angle(optimizer: Optimizer, angle: Any) -> Optimizer:
    """The optimizer whose weight decay gives every layer the same Δ*.

    Δ* goes with the product of learning rate and weight decay, so a layer whose rate
    is multiplied has its weight decay divided by as much.
    """
    law = check_angular_update(optimizer.theory)
    number(angle, f'{_PARAMWISE}.angular_update')
    for key, (rate, _) in optimizer.paramwise.custom_keys.items():
        # Which layers have the name is not known here: a pattern with it is enough.
        left_out = any(key in pattern for pattern in optimizer.paramwise.left_out)
        if rate == 0 and not left_out and not optimizer.paramwise.leaves_out(key):
            raise SettingError(
                f'paramwise_cfg.angular_update: {key} has a learning rate of 0 '
                '(lr_mult=0): no weight decay gives it an angular update; leave it '
                'out by paramwise_cfg.exclude'
            )
    try:
        decay = law.weight_decay_for(angle, optimizer.lr, optimizer.momentum)
    except ValueError as error:
        raise SettingError(f'paramwise_cfg: {error}') from None
    return replace(optimizer, weight_decay=float(decay), same_angle=True)
