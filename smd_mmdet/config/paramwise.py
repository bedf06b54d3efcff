"""Multipliers of the learning rate and the weight decay of single weights.

They follow MMEngine's DefaultOptimWrapperConstructor, as far as the name and the shape
of a weight tell what it is.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .errors import SettingError
from .settings import check_patterns, flag, number, section

__all__ = ['Paramwise', 'read_paramwise']

_HERE = 'optim_wrapper.paramwise_cfg'
_MULTIPLIERS = (
    *('bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'flat_decay_mult'),
    *('dwconv_decay_mult', 'dcn_offset_lr_mult'),
)
# What a key of custom_keys may set beside its multipliers and still be planned.
_SETTINGS = {'lr': 'lr_mult', 'weight_decay': 'decay_mult'}


@dataclass(frozen=True)
class Paramwise:
    """What a config says of single weights.

    Args:
        custom_keys: Multipliers of learning rate and weight decay, by the part of a
            parameter's name that they are meant for; zeros where the key has settings
            that are not planned.
        multipliers: Those of MMEngine's keys that are given, by the key.
        left_out: Names or patterns of weights not to count as scale-invariant.
        assumptions: What is not planned, a sentence each.
    """

    custom_keys: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    multipliers: Mapping[str, float] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    assumptions: tuple[str, ...] = ()

    def of(self, name: str, shape: Sequence[int] = ()) -> tuple[float, float]:
        """The multipliers of one weight.

        Of the custom keys that are part of the name the longest counts, and of those
        as long the first in the alphabet; where there is one, nothing else counts.

        Args:
            name: Name of the parameter.
            shape: Its shape; without one it is taken for no depthwise convolution.

        Returns:
            What its learning rate and its weight decay are multiplied by.
        """
        for key in sorted(sorted(self.custom_keys), key=len, reverse=True):
            if key in name:
                return self.custom_keys[key]
        module, _, own = name.rpartition('.')
        rate, decays = 'bias_lr_mult', ['bias_decay_mult', 'flat_decay_mult']
        if own != 'bias':
            # A vector that is no bias is the scale of a normalization layer.
            rate, decays = '', ['norm_decay_mult', 'flat_decay_mult']
            if len(shape) != 1:
                depthwise = len(shape) == 4 and shape[1] == 1
                decays = ['dwconv_decay_mult'] if depthwise else []
        if 'conv_offset' in module:  # of a deformable convolution
            decays = []
            if 'dcn_offset_lr_mult' in self.multipliers or own == 'bias':
                rate = 'dcn_offset_lr_mult'
        decay = next((d for d in decays if d in self.multipliers), '')
        return self.multipliers.get(rate, 1.0), self.multipliers.get(decay, 1.0)

    def leaves_out(self, name: str) -> bool:
        """Whether a weight does not count as scale-invariant by the user's word.

        Args:
            name: Name of the parameter, or a part of it that stands for all with it.

        Returns:
            Whether it is named, is below what is named, or a pattern fits.
        """
        return any(
            fnmatch.fnmatchcase(name, pattern) or name.startswith(f'{pattern}.')
            for pattern in self.left_out
        )

    @property
    def rates(self) -> list[float]:
        """The multipliers of the learning rate that weights may have, but 1."""
        found = {rate for rate, _ in self.custom_keys.values()}
        keys = ('bias_lr_mult', 'dcn_offset_lr_mult')
        found |= {self.multipliers[key] for key in keys if key in self.multipliers}
        return sorted(found - {0.0, 1.0})

    def told(self, same_angle: bool) -> tuple[str, ...]:
        """What to say of weights whose Δ* is not the one that is planned.

        Args:
            same_angle: Whether weight decay is set so that all have the same.

        Returns:
            A sentence each.
        """
        if same_angle:
            return self.assumptions
        kinds = {
            f'layers named {key!r}': pair for key, pair in self.custom_keys.items()
        }
        if (decay := self.multipliers.get('dwconv_decay_mult')) is not None:
            kinds['depthwise convolutions (dwconv_decay_mult)'] = 1.0, decay
        return self.assumptions + tuple(
            f'{kind} have lr × {rate:g} and weight decay × {decay:g}: their Δ* is '
            f'{math.sqrt(rate * decay):.3g} times that below'
            for kind, (rate, decay) in kinds.items()
            if rate * decay != 1 and not any(kind in a for a in self.assumptions)
        )


def read_paramwise(wrapper: Mapping, base: Mapping, ours: bool) -> Paramwise:
    """Read ``paramwise_cfg``.

    Args:
        wrapper: ``optim_wrapper`` of a config.
        base: ``optim_wrapper.optimizer``.
        ours: Whether it is our constructor that reads it.

    Returns:
        What it says.

    Raises:
        SettingError: If a value cannot be, or MMEngine would refuse it.
    """
    settings = section(wrapper, _HERE)
    flag(settings.get('bypass_duplicate'), f'{_HERE}.bypass_duplicate')
    given = [key for key in _MULTIPLIERS if settings.get(key) is not None]
    # MMEngine looks at whether a key is there, and multiplies if it is not None.
    for key in ('bias_decay_mult', 'norm_decay_mult', 'dwconv_decay_mult'):
        if key in settings:
            _needs_decay(base, f'{_HERE}.{key}')
    multipliers = {key: number(settings[key], f'{_HERE}.{key}') for key in given}
    if base.get('weight_decay') is None:
        multipliers.pop('flat_decay_mult', None)
    keys = section(settings, f'{_HERE}.custom_keys')
    found, said = {}, []
    for key in keys:
        path = f'{_HERE}.custom_keys.{key}'
        if not isinstance(key, str):
            raise SettingError(f'{path}: its name must be a text')
        if not isinstance(keys[key], Mapping):
            raise SettingError(f'{path} must be a dict, got {keys[key]!r:.80}')
        found[key], others = _custom(keys[key], base, path)
        if others:
            found[key] = 0.0, 0.0
            said.append(
                f'layers named {key!r} have settings of their own '
                f'({", ".join(others)}): they are not planned'
            )
    exclude = check_patterns(f'{_HERE}.exclude', settings.get('exclude'))
    return Paramwise(found, multipliers, exclude if ours else (), tuple(said))


def _needs_decay(base: Mapping, path: str) -> None:
    if base.get('weight_decay') is None:
        raise SettingError(
            f'{path} needs optim_wrapper.optimizer.weight_decay, which is missing'
        )


def _custom(
    settings: Mapping, base: Mapping, path: str
) -> tuple[tuple[float, float], list[str]]:
    """The multipliers of a custom key, and its settings that are not planned."""
    if 'decay_mult' in settings:
        _needs_decay(base, f'{path}.decay_mult')
    planned = (*_SETTINGS, *_SETTINGS.values())
    pair, others = [], [key for key in settings if key not in planned]
    for name, multiplier in _SETTINGS.items():
        value = number(settings.get(multiplier, 1.0), f'{path}.{multiplier}')
        if name in settings:  # MMEngine puts it into the group as it is
            own = number(settings[name], f'{path}.{name}')
            value = own / base[name] if base.get(name) else value
            others += [name] if not base.get(name) else []
        pair.append(value)
    return (pair[0], pair[1]), [str(name) for name in others]
