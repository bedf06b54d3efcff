"""The weight decay that gives scale-invariant weights an angular update."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch.optim import Optimizer

from smd_mmdet.config.errors import SettingError
from smd_mmdet.monitor.readers import settings_of
from smd_mmdet.theory import Theory

__all__ = ['DecayByAngle', 'set_when_training_begins']

_KEY = 'paramwise_cfg.angular_update'


class DecayByAngle:
    """Sets the weight decay of parameter groups from their learning rate.

    MMEngine may multiply the rates after the optimizer was built (``auto_scale_lr``),
    so the decay is set a second time when training begins. A run that is resumed has
    groups of its checkpoint by then, whose decay is left as it is.

    Args:
        angle: The angular update that is wanted, radians per iteration.
        optimizer: The optimizer, with its groups split.
        law: What is known of its equilibrium.
        names: Name of each parameter, by its id.

    Raises:
        SettingError: If a scale-invariant weight has a learning rate of 0.
    """

    def __init__(
        self,
        angle: float,
        optimizer: Optimizer,
        law: Theory,
        names: Mapping[int, str],
    ) -> None:
        self._angle, self._law = angle, law
        self._groups = [g for g in optimizer.param_groups if g['scale_invariant']]
        # The rate that the decay of each group was last set from.
        self._rates: list[float | None] = [None] * len(self._groups)
        for group in self._groups:
            if group['lr'] == 0:
                reason = ' (lr_mult=0)' * bool(optimizer.defaults['lr'])
                raise SettingError(
                    f'{_KEY}: {names[id(group["params"][0])]} has a learning rate of 0'
                    f'{reason}: no weight decay gives it an angular update; leave it '
                    'out by paramwise_cfg.exclude'
                )

    def set(self) -> None:
        """Set the weight decay of the groups, where their rate has changed.

        Raises:
            SettingError: If there is no weight decay that does it.
        """
        for i, group in enumerate(self._groups):
            # A scheduler keeps the rate that it starts from.
            rate = group.get('initial_lr', group['lr'])
            if rate != self._rates[i]:
                self._set_one(group, rate)
                self._rates[i] = rate

    def _set_one(self, group: dict, rate: float) -> None:
        angle, law = self._angle, self._law
        lr, _, momentum = settings_of({**group, 'lr': rate})
        try:
            decay = float(law.weight_decay_for(angle, lr, momentum))
        except ValueError as error:
            raise SettingError(f'paramwise_cfg: {error}') from None
        if law.decay(lr, decay, momentum) >= 1:
            raise SettingError(
                f'{_KEY}={angle!r} takes a weight decay of {decay:.3g}, which at lr '
                f'{rate:.3g} leaves nothing of a weight; choose a smaller angle (usual '
                'are 1e-4 to 1e-1)'
            )
        group['weight_decay'] = decay
        print_log(
            f'smd: weight decay {decay:.4g} of {len(group["params"])} scale-invariant '
            f'weights for an angular update of {angle:.4g} rad/iteration at lr '
            f'{rate:.4g}',
            logger='current',
            level=logging.INFO,
        )


def set_when_training_begins(wrapper: OptimWrapper, decays: DecayByAngle) -> None:
    """Set decays anew when the Runner calls the wrapper, before the first iteration.

    The rates are scaled and schedulers built by then, whether or not a hook of ours
    is there to do it.

    Args:
        wrapper: The wrapper of the optimizer.
        decays: What sets the decays of its groups.
    """
    begin = wrapper.initialize_count_status

    def initialize_count_status(*args: Any, **kwargs: Any) -> None:
        decays.set()
        begin(*args, **kwargs)

    wrapper.initialize_count_status = initialize_count_status
