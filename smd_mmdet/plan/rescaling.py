"""Where SMDRescaleHook of a config will rescale, before it is trained."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from mmengine.config import Config

from smd_mmdet.config.rescaling import RescaleSettings, StartSettings
from smd_mmdet.config.schedule import followed, type_name

# Keys that MMEngine takes out of a hook's settings.
_NOT_ITS_OWN = ('type', 'priority', '_scope_')


@dataclass(frozen=True)
class Rescaling:
    """Where weights are rescaled.

    Args:
        changes: The changes of the rate that are followed: 'none', 'steps' or 'all'.
        followed: By step of the optimizer, whether its change of the rate is; for
            'none' as the hook would follow it if it were there.
        starts: Steps in front of which layers are put at their equilibrium.
        max_factor: Bounds one such factor; 1 where no hook does so.
    """

    changes: str
    followed: np.ndarray
    starts: Sequence[int] = ()
    max_factor: float = 1.0

    @property
    def kind(self) -> str:
        """Which of the two forecasts of a stage is the config's own."""
        return 'plain' if self.changes == 'none' else 'rescaled'


def rescaling_of(
    config: Config, lr: np.ndarray, every: int, assumptions: list[str]
) -> Rescaling:
    """What the hooks of a config do to its weights.

    Args:
        config: The config.
        lr: Learning rate of every iteration.
        every: Iterations that make a step of the optimizer.
        assumptions: Gets a line on the changes that are followed.

    Raises:
        SettingError: If a hook has a bad setting.
    """
    hooks = [
        RescaleSettings.of(
            **{key: found[key] for key in found if key not in _NOT_ITS_OWN}
        )
        for found in config.get('custom_hooks') or []
        if isinstance(found, dict) and type_name(found) == 'SMDRescaleHook'
    ]
    following = [hook for hook in hooks if hook.at_lr_drops]
    continuous = any(hook.continuous for hook in following)
    if following:
        assumptions.append(
            (
                'SMDRescaleHook(continuous=True) rescales at every change of the rate'
                if continuous
                else 'SMDRescaleHook rescales where the rate drops in a step, held '
                'still before it and after it, and at no other change'
            )
            + ': stages are judged by the forecast with rescaling'
        )
    steps = len(lr) // every
    by_step = followed(lr, continuous)[: steps * every].reshape(steps, every)
    start = next((hook.start for hook in hooks if hook.start), None)
    return Rescaling(
        changes='all' if continuous else 'steps' if following else 'none',
        followed=np.any(by_step, axis=1),
        starts=[t // every for t in _phase_ends(start, lr)] if start else (),
        max_factor=start.max_factor if start else 1.0,
    )


def _phase_ends(start: StartSettings, lr: np.ndarray) -> range:
    """Iterations in front of which a measuring phase ends."""
    begin = start.begin
    if begin is None:
        # The first at which the rate does not rise; there is none before the second.
        still = np.flatnonzero(np.diff(lr) <= 0)
        begin = int(still[0]) + 1 if len(still) else len(lr)
    first = begin + start.measure
    last = begin + start.measure * start.repeats
    return range(first, min(last + 1, len(lr)), start.measure)
