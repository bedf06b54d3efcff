"""Where SMDRescaleHook will rescale, before the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smd_mmdet.config.rescaling import RescaleSettings, StartSettings
from smd_mmdet.config.schedule import followed

__all__ = ['Rescaling', 'rescaling_of']


@dataclass(frozen=True)
class Rescaling:
    """Where weights are rescaled.

    Args:
        changes: The changes of the rate that are followed: 'none', 'steps' or 'all'.
        followed: Whether the weights are rescaled in front of a step of the optimizer
            because the rate changes there, shape (steps,). If ``changes`` is 'none',
            where a hook with default settings would rescale them.
        starts: The steps in front of which layers are put at their equilibrium.
        max_factor: Bound of the factor of one such move; 1 if no hook makes them.
    """

    changes: str
    followed: np.ndarray
    starts: Sequence[int] = ()
    max_factor: float = 1.0

    @property
    def kind(self) -> str:
        """Which of the two forecasts of a stage is the config's own."""
        return 'plain' if self.changes == 'none' else 'rescaled'

    @property
    def assumptions(self) -> list[str]:
        """On what changes of the rate the forecast with rescaling rests."""
        told = {
            'none': [],
            'steps': [
                'SMDRescaleHook rescales where the rate drops in a step, held still '
                'before it and after it, and at no other change'
            ],
            'all': [
                'SMDRescaleHook(continuous=True) rescales at every change of the rate'
            ],
        }
        return [
            f'{line}: stages are judged by the forecast with rescaling'
            for line in told[self.changes]
        ]


def rescaling_of(
    hooks: Sequence[RescaleSettings], lr: np.ndarray, every: int
) -> Rescaling:
    """What the hooks of a config will do to its weights.

    Args:
        hooks: Settings of every SMDRescaleHook.
        lr: Learning rate of every iteration, shape (iterations,).
        every: Iterations that make a step of the optimizer.

    Returns:
        Where they rescale.
    """
    following = [hook for hook in hooks if hook.at_lr_drops]
    continuous = any(hook.continuous for hook in following)
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
        # The first iteration whose rate is not above that of the iteration before.
        still = np.flatnonzero(np.diff(lr) <= 0)
        begin = int(still[0]) + 1 if len(still) else len(lr)
    first = begin + start.measure
    last = begin + start.measure * start.repeats
    return range(first, min(last + 1, len(lr)), start.measure)
