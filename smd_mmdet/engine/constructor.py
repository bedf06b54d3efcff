"""The optimizer's constructor that sorts scale-invariant weights into own groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from smd_mmdet._arguments import real_number
from smd_mmdet.config.errors import SettingError
from smd_mmdet.config.settings import check_angular_update
from smd_mmdet.invariance import ScaleInvariance
from smd_mmdet.monitor.readers import reader_for
from smd_mmdet.monitor.shards import sharded

from .decay import DecayByAngle, set_when_training_begins
from .groups import split_groups
from .layers import choose_layers, find_layers

__all__ = ['SMDOptimWrapperConstructor']


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SMDOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's default constructor, with scale-invariant weights in own groups.

    The optimizer is built as MMEngine builds it, every key of ``paramwise_cfg``
    included; then each parameter group is split in two, and the groups of
    scale-invariant weights are marked by ``group['scale_invariant'] = True``. Unless
    asked to by one of the keys below it changes no setting, so training is the same
    to the bit.

    Args:
        optim_wrapper_cfg: The config of the wrapper, as for MMEngine's constructor.
        paramwise_cfg: MMEngine's keys, and

            - ``scale_invariant_decay_mult`` (float): multiplies the weight decay of
              scale-invariant weights.
            - ``angular_update`` (float): the equilibrium angular update Δ wanted of
              them, radians per iteration. It sets their weight decay, once, from the
              learning rate of the config, as ``auto_scale_lr`` scales it, for SGD and
              AdamW: under SGD it is λ of Δ = √(2λη/(1 + α)), under AdamW that of
              Δ = √(2λη(1 − β₁)/(1 + β₁)); see
              :meth:`smd_mmdet.theory.Theory.weight_decay_for`.
            - ``include``, ``exclude`` (list[str]): names or patterns of parameters
              to count, or not to count, as scale-invariant.

    Raises:
        SettingError: On a bad value of one of these keys.

    Example:
        In a config:

        >>> optim_wrapper = dict(
        ...     constructor='SMDOptimWrapperConstructor',
        ...     optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4),
        ...     paramwise_cfg=dict(scale_invariant_decay_mult=5.0))

        MMEngine builds the optimizer from that, here for a convolution before batch
        norm and a linear layer:

        >>> from mmengine.optim import build_optim_wrapper
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Linear(8, 2))
        >>> wrapper = build_optim_wrapper(model, optim_wrapper)
        >>> for group in wrapper.optimizer.param_groups:
        ...     shapes = [tuple(p.shape) for p in group['params']]
        ...     print(group['scale_invariant'], group['weight_decay'], shapes)
        True 0.0005 [(8, 3, 3, 3)]
        False 0.0001 [(8,), (8,), (2, 8), (2,)]
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None
    ) -> None:
        if 'optimizer' not in optim_wrapper_cfg:
            raise SettingError(
                'optim_wrapper.optimizer is missing: SMDOptimWrapperConstructor builds '
                'one optimizer; for several take another constructor'
            )
        paramwise_cfg = dict(paramwise_cfg or {})
        decay_mult = paramwise_cfg.pop('scale_invariant_decay_mult', None)
        angular_update = paramwise_cfg.pop('angular_update', None)
        if decay_mult is not None and angular_update is not None:
            raise SettingError(
                'paramwise_cfg: scale_invariant_decay_mult and angular_update both '
                'set the weight decay of scale-invariant weights; leave one out'
            )
        self._decay_mult = _number('scale_invariant_decay_mult', decay_mult)
        self._angular_update = _number('angular_update', angular_update)
        self._include = paramwise_cfg.pop('include', None)
        self._exclude = paramwise_cfg.pop('exclude', None)
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper for a model, wrapped for DDP or not."""
        model = getattr(model, 'module', model)
        wrapper = super().__call__(model)
        if by := sharded([wrapper.optimizer, *model.parameters()]):
            raise SettingError(
                f'optim_wrapper.constructor=SMDOptimWrapperConstructor: {by} has dealt '
                'the parameters out already, and they cannot be put into other '
                'groups; leave constructor out, SMDHook finds the weights itself'
            )
        entries = find_layers(model)
        chosen = choose_layers(entries, self._include, self._exclude)
        wrapper.scale_invariance = _as_chosen(entries, chosen)
        parameters = dict(model.named_parameters())
        wrapper.split = split_groups(
            wrapper.optimizer, [parameters[entry.name] for entry in chosen]
        )
        for group in wrapper.optimizer.param_groups:
            if group['scale_invariant']:
                self._multiply_decay(group)
        if self._angular_update is not None:
            law = check_angular_update(reader_for(wrapper.optimizer).theory)
            names = {id(parameter): name for name, parameter in parameters.items()}
            wrapper.decays = DecayByAngle(
                self._angular_update, wrapper.optimizer, law, names
            )
            wrapper.decays.set()
            set_when_training_begins(wrapper, wrapper.decays)
        return wrapper

    def _multiply_decay(self, group: dict) -> None:
        if self._decay_mult is None:
            return
        if 'weight_decay' not in group:
            raise SettingError(
                'paramwise_cfg.scale_invariant_decay_mult: the optimizer has no '
                'weight decay; leave the key out'
            )
        group['weight_decay'] *= self._decay_mult


def _number(key: str, value: object) -> float | None:
    """A number that is not negative, or None where the key is not given."""
    if value is None:
        return None
    return real_number(value, f'paramwise_cfg.{key}', error=SettingError)


def _as_chosen(
    entries: Sequence[ScaleInvariance], chosen: Sequence[ScaleInvariance]
) -> list[ScaleInvariance]:
    """The entries with the user's word put in the place of the structure's."""
    names = {entry.name for entry in chosen}
    said = 'paramwise_cfg says so'
    return [
        entry
        if entry.invariant is (entry.name in names)
        else replace(entry, invariant=not entry.invariant, norm=None, reason=said)
        for entry in entries
    ]
