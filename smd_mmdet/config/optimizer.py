"""What of a config's optimizer the theory asks for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mmengine.config import Config

from smd_mmdet.monitor.readers import reader_for, settings_of
from smd_mmdet.theory import THEORIES, Theory, weight_decay_for

from .errors import SettingError
from .schedule import build_optimizer, optimizer_settings, type_name
from .settings import check_angular_update, number, section


@dataclass
class Optimizer:
    """What of the optimizer the theory asks for."""

    name: str
    theory: str
    lr: float
    weight_decay: float
    momentum: float
    custom_keys: dict[str, dict]
    # One Δ* for all layers, whatever their rate: angular_update of our constructor.
    one_angle: bool = False

    @property
    def known(self) -> Theory | None:
        """What is known of the equilibrium under it."""
        return THEORIES.get(self.theory)

    @property
    def comes_to_equilibrium(self) -> bool:
        """Whether there is one, and the way to it is known."""
        return self.known is not None and self.known.norm_law and self.weight_decay > 0

    def multipliers(self, layer: str) -> tuple[float, float]:
        """lr_mult and decay_mult of a parameter, by MMEngine's rule.

        Under ``angular_update`` the decay goes with 1/rate.
        """
        keys = sorted(sorted(self.custom_keys), key=len, reverse=True)
        for key in keys:
            if key in layer:
                found = self.custom_keys[key]
                rate = found.get('lr_mult', 1.0)
                if self.one_angle:
                    return rate, 1 / rate if rate else 0.0
                return rate, found.get('decay_mult', 1.0)
        return 1.0, 1.0


def read_optimizer(config: Config, assumptions: list[str]) -> Optimizer:
    """The optimizer of a config, with the keys of our constructor applied.

    Args:
        config: The config.
        assumptions: Gets a line for what the plan leaves out.

    Raises:
        SettingError: If there is none with a learning rate, or several.
    """
    wrapper = section(config, 'optim_wrapper')
    found = optimizer_settings(config)
    paramwise = section(wrapper, 'optim_wrapper.paramwise_cfg')
    here = 'optim_wrapper.optimizer'
    for key in ('lr', 'weight_decay', 'momentum'):
        number(found.get(key, 0.0), f'{here}.{key}')
    if found['lr'] == 0:
        raise SettingError(f'{here}.lr is 0: weights do not move, nothing to plan')
    built = build_optimizer(found)
    lr, weight_decay, momentum = settings_of(built.param_groups[0])
    optimizer = Optimizer(
        name=type_name(found),
        theory=reader_for(built).theory,
        lr=lr,
        weight_decay=weight_decay,
        momentum=momentum,
        custom_keys=dict(section(paramwise, 'paramwise_cfg.custom_keys')),
    )
    _apply_paramwise(optimizer, wrapper, paramwise, assumptions)
    return optimizer


def _apply_paramwise(
    optimizer: Optimizer, wrapper: Mapping, paramwise: Mapping, assumptions: list[str]
) -> None:
    constructor = wrapper.get('constructor', 'DefaultOptimWrapperConstructor')
    if constructor == 'SMDOptimWrapperConstructor':
        if (factor := paramwise.get('scale_invariant_decay_mult')) is not None:
            optimizer.weight_decay *= factor
        if (angle := paramwise.get('angular_update')) is not None:
            check_angular_update(optimizer.theory)
            optimizer.one_angle = True
            optimizer.weight_decay = float(
                weight_decay_for(angle, optimizer.lr, optimizer.momentum)
            )
    elif constructor != 'DefaultOptimWrapperConstructor':
        assumptions.append(
            f'{constructor} may give layers rates of their own: the plan is for those '
            'with the rate of the config'
        )
    if optimizer.one_angle:
        return
    for key, found in optimizer.custom_keys.items():
        rate, decay = found.get('lr_mult', 1.0), found.get('decay_mult', 1.0)
        if rate * decay != 1:
            assumptions.append(
                f'layers named {key!r} have lr × {rate:g} and weight decay × {decay:g}:'
                f' their Δ* is {math.sqrt(rate * decay):.3g} times that below'
            )
