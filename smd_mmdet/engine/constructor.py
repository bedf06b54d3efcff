"""Sorts parameters into scale-invariant groups and the rest."""

import logging
from dataclasses import replace

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from smd_mmdet import theory
from smd_mmdet.config.errors import SettingError
from smd_mmdet.config.settings import check_angular_update
from smd_mmdet.monitor.readers import reader_for

from .groups import split_groups
from .layers import choose_layers, find_layers

_KEYS = ('scale_invariant_decay_mult', 'angular_update', 'include', 'exclude')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SMDOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's default constructor, with scale-invariant weights in own groups.

    The optimizer is built as MMEngine builds it, every key of ``paramwise_cfg``
    included; then each parameter group is split in two, and the groups of
    scale-invariant weights are marked by ``group['scale_invariant'] = True``. Unless
    asked to by one of the keys below it changes no setting, so training is the same
    to the bit.

    Args:
        optim_wrapper_cfg: As for MMEngine's constructor.
        paramwise_cfg: MMEngine's keys, and

            - ``scale_invariant_decay_mult`` (float): multiplies the weight decay of
              scale-invariant weights.
            - ``angular_update`` (float): the equilibrium angular update wanted of
              them, radians per iteration; sets their weight decay, once, from the
              learning rate of the config (SGD only).
            - ``include``, ``exclude`` (list[str]): names or patterns of parameters
              to count, or not to count, as scale-invariant.

    Raises:
        SettingError: On a bad value of one of these keys.

    Example:
        >>> optim_wrapper = dict(
        ...     constructor='SMDOptimWrapperConstructor',
        ...     paramwise_cfg=dict(angular_update=1.45e-3, norm_decay_mult=0.))
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        paramwise_cfg = dict(paramwise_cfg or {})
        self._options = {key: paramwise_cfg.pop(key, None) for key in _KEYS}
        self._check_options()
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper for a model, wrapped for DDP or not."""
        model = getattr(model, 'module', model)
        wrapper = super().__call__(model)
        entries = find_layers(model)
        chosen = choose_layers(
            entries, self._options['include'], self._options['exclude']
        )
        wrapper.scale_invariance = _as_chosen(entries, chosen)
        parameters = dict(model.named_parameters())
        wrapper.split = split_groups(
            wrapper.optimizer, [parameters[entry.name] for entry in chosen]
        )
        if self._options['angular_update'] is not None:
            check_angular_update(reader_for(wrapper.optimizer).theory)
        for group in wrapper.optimizer.param_groups:
            if group['scale_invariant']:
                self._set_decay(group)
        return wrapper

    def _check_options(self) -> None:
        given = [key for key in _KEYS[:2] if self._options[key] is not None]
        if len(given) > 1:
            raise SettingError(
                'paramwise_cfg: scale_invariant_decay_mult and angular_update both '
                'set the weight decay of scale-invariant weights; leave one out'
            )
        for key in given:
            value = self._options[key]
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value < float('inf'):
                raise SettingError(
                    f'paramwise_cfg.{key} must be a number >= 0, got {value!r}'
                )

    def _set_decay(self, group: dict) -> None:
        if (factor := self._options['scale_invariant_decay_mult']) is not None:
            if 'weight_decay' not in group:
                raise SettingError(
                    'paramwise_cfg.scale_invariant_decay_mult: the optimizer has no '
                    'weight decay; leave the key out'
                )
            group['weight_decay'] *= factor
        if (angle := self._options['angular_update']) is None:
            return
        try:
            decay = theory.weight_decay_for(angle, group['lr'], group['momentum'])
        except ValueError as error:
            raise SettingError(f'paramwise_cfg: {error}') from None
        if decay * group['lr'] >= 1 - group['momentum']:
            raise SettingError(
                f'paramwise_cfg.angular_update={angle!r} takes a weight decay of '
                f'{decay:.3g}, which at lr {group["lr"]:.3g} leaves nothing of a '
                'weight; choose a smaller angle (usual are 1e-4 to 1e-1)'
            )
        group['weight_decay'] = float(decay)
        print_log(
            f'smd: weight decay {decay:.4g} of {len(group["params"])} scale-invariant '
            f'weights for an angular update of {angle:.4g} rad/iteration at lr '
            f'{group["lr"]:.4g}',
            logger='current',
            level=logging.INFO,
        )


def _as_chosen(entries: list, chosen: list) -> list:
    """The entries with the user's word put in the place of the structure's."""
    names = {entry.name for entry in chosen}
    said = 'paramwise_cfg says so'
    return [
        entry
        if entry.invariant is (entry.name in names)
        else replace(entry, invariant=not entry.invariant, norm=None, reason=said)
        for entry in entries
    ]
