"""Learning rates as a run used them, and which of their changes are steps."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch.optim import Optimizer

from smd_mmdet.config.optimizer import optimizer_settings
from smd_mmdet.config.schedule import Span, learning_rates, spans

if TYPE_CHECKING:
    from mmengine.runner import Runner

__all__ = ['RateHistory', 'planned_stages', 'schedule_of']


def schedule_of(runner: Runner) -> tuple[np.ndarray, np.ndarray]:
    """Learning rate and momentum of every iteration of a run, as its config has them.

    Returns:
        Two arrays with a value per iteration. They are empty, with a warning in the
        log, if the schedule cannot be told: one of the user's own, say.
    """
    from mmengine.runner import EpochBasedTrainLoop

    try:
        return learning_rates(
            runner.cfg,
            iterations=runner.max_iters,
            iters_per_epoch=len(runner.train_dataloader),
            by_epoch=isinstance(runner.train_loop, EpochBasedTrainLoop),
            lr=_first_rate(runner),
        )
    except Exception as fault:
        runner.logger.warning(f'smd: the schedule to come is not known: {fault}')
        return np.empty(0), np.empty(0)


def _first_rate(runner: Runner) -> float:
    """The learning rate of the config, as AutoScaleLR scales it.

    The schedulers begin from the scaled rate, and where they end is not scaled (an
    ``eta_min``, say): so their rates are not the config's by a factor.
    """
    lr = float(optimizer_settings(runner.cfg)['lr'])
    # MMEngine's FlexibleRunner leaves it to its strategy.
    scaling = getattr(runner, 'auto_scale_lr', None) or runner.cfg.get('auto_scale_lr')
    scaling = scaling or {}
    if not scaling.get('enable', False):
        return lr
    images = runner.world_size * runner.train_dataloader.batch_size
    return lr * images / scaling['base_batch_size']


def planned_stages(runner: Runner) -> list[Span]:
    """The stages of a run, as its config has them; empty if they are not known."""
    return spans(*schedule_of(runner))


class RateHistory:
    """The last two learning rates that each parameter group used.

    Args:
        runner: The run.
        optimizer: Its optimizer.
        groups: Indices of the parameter groups to watch.
    """

    def __init__(
        self, runner: Runner, optimizer: Optimizer, groups: Iterable[int]
    ) -> None:
        self._runner = runner
        self._optimizer = optimizer
        # The rates of the last iteration but one and of the last, by group.
        self._used: dict[int, tuple[float | None, float | None]] = {
            group: (None, None) for group in sorted(set(groups))
        }

    @functools.cached_property
    def _schedule(self) -> np.ndarray:
        return schedule_of(self._runner)[0]

    def now(self, group: int) -> float:
        """Learning rate of a group in the iteration that comes."""
        return float(self._optimizer.param_groups[group]['lr'])

    def drops(self, continuous: bool = False) -> dict[int, float]:
        """The groups whose rate changes with the iteration that comes.

        Args:
            continuous: Whether every change counts, up or down. Else only steps
                count: the rate falls after it held still, and holds still again.

        Returns:
            Old rate / new rate, by index of the group.
        """
        found = {}
        for group, (before, last) in self._used.items():
            now = self.now(group)
            if last is None or now == last or not (now > 0 and last > 0):
                continue
            step = now < last and before == last and not self._goes_on(now / last)
            if continuous or step:
                found[group] = last / now
        return found

    def warmed_up(self) -> bool:
        """Whether no rate rises any more."""
        return all(
            last is not None and self.now(group) <= last
            for group, (_, last) in self._used.items()
        )

    def advance(self) -> None:
        """Count the iteration that comes as one that used its rates."""
        for group, (_, last) in self._used.items():
            self._used[group] = last, self.now(group)

    def _goes_on(self, ratio: float) -> bool:
        """Whether the schedule moves at the next iteration too, as a cosine does."""
        schedule, t = self._schedule, self._runner.iter
        if not 0 < t < len(schedule) - 1 or schedule[t - 1] <= 0:
            return False
        as_planned = abs(schedule[t] / schedule[t - 1] / ratio - 1) < 1e-6
        return as_planned and schedule[t + 1] != schedule[t]

    def state(self, group: int) -> list[float | None]:
        """The rates of a group, for a checkpoint."""
        return list(self._used[group])

    def resume(self, states: Mapping[int, Iterable[float | None]]) -> None:
        """Go on from a checkpoint.

        Args:
            states: What :meth:`state` returned, by index of the group. For a group
                that is not there the schedule tells which rates were used.
        """
        for group in self._used:
            if group in states:
                before, last = states[group]
                self._used[group] = before, last
            else:
                now = self.now(group)
                self._used[group] = self._planned(-2, now), self._planned(-1, now)

    def _planned(self, offset: int, now: float) -> float | None:
        schedule, t = self._schedule, self._runner.iter
        if t + offset < 0 or t >= len(schedule) or schedule[t] <= 0:
            return None
        if schedule[t + offset] == schedule[t]:
            return now
        return now * float(schedule[t + offset] / schedule[t])
