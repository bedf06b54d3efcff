"""The control of the angular update in a run of MMEngine's Runner."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.dist import is_main_process

from smd_mmdet.config.control import EQUILIBRIUM, ControlSettings
from smd_mmdet.control import Replay
from smd_mmdet.control.factors import Factors, above_epsilon
from smd_mmdet.control.regulator import Regulator
from smd_mmdet.control.response import ClippedSteps, Response
from smd_mmdet.control.timetable import Ahead, Timetable
from smd_mmdet.control.wanted import Wanted
from smd_mmdet.theory import Theory

from .columns import ControlColumns
from .parallel import computed_in_main
from .rates import schedule_of
from .rescalable import Rescalable
from .rescaling import rescale_weights
from .runs import accumulated

if TYPE_CHECKING:
    from mmengine.runner import Runner

__all__ = ['Control', 'source_of']

# What :class:`.Wanted` takes.
Source = str | np.ndarray | Replay


def source_of(runner: Runner, settings: ControlSettings) -> Source:
    """What a run's settings want, for every step of its optimizer.

    Args:
        runner: The run.
        settings: Its settings.

    Raises:
        SettingError: If no step can have a wanted Δ, or a run to be repeated has no
            records, or too few.
    """
    if settings.equilibrium:
        return EQUILIBRIUM
    every, iterations = accumulated(runner), runner.max_iters
    steps = -(-iterations // every)
    if settings.run is not None:
        return settings.replay(iterations, steps)
    from mmengine.runner import EpochBasedTrainLoop

    angles = settings.per_iteration(
        iterations,
        len(runner.train_dataloader),
        isinstance(runner.train_loop, EpochBasedTrainLoop),
        runner.cfg.get('default_scope'),
    )
    # A step is made at the last of its iterations.
    last = np.minimum(np.arange(1, steps + 1) * every, iterations) - 1
    return angles[last]


class Control:
    """Sets the angular update of a run's weights.

    Args:
        runner: The run.
        targets: Its weights, and what follows them.
        law: What is known of the optimizer's equilibrium.
        settings: What is wanted, and how often it is looked at.
        source: What :func:`source_of` has made of it.
        clipped: Who is told of the clipping of each step.

    Attributes:
        columns: What is told to the records, in the process that keeps them.
    """

    def __init__(
        self,
        runner: Runner,
        targets: Rescalable,
        law: Theory,
        settings: ControlSettings,
        source: Source,
        clipped: ClippedSteps,
    ) -> None:
        weights, optimizer = targets.weights, targets.optimizer
        self._accumulated = accumulated(runner)
        done = runner.iter // self._accumulated
        self._targets, self._every = targets, settings.every
        self._times = Timetable(
            optimizer,
            weights,
            Wanted(source, list(weights), law),
            settings.every,
            self._rates_ahead(runner),
            done,
        )
        # The main process decides for all.
        self._regulator: Regulator | None = None
        if is_main_process():
            self._regulator = Regulator(
                optimizer, law, weights, settings.every, done, clipped
            )
        self.columns = ControlColumns(list(weights))
        # Whether the optimizer has made a step that was not counted yet.
        self._stepped = False
        self._named: set[str] = set()

    @property
    def names(self) -> list[str]:
        """Names of the weights whose angular update is set."""
        return list(self._targets.groups)

    def after_iteration(self, runner: Runner) -> None:
        """Note whether the iteration has made a step."""
        self._stepped = runner.optim_wrapper.should_update()

    def before_iteration(self, runner: Runner) -> None:
        """Rescale, where it is time; all processes must call this."""
        if self._stepped:
            self._stepped = False
            if self._times.advance():
                self._control(runner)
        if self.columns.wanted_by_records:
            self.columns.note_wanted(runner.iter + 1, self._times.wanted_now())

    def stop(self) -> None:
        """Measure no more."""
        if self._regulator is not None:
            self._regulator.detach()

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint."""
        regulator = None if self._regulator is None else self._regulator.state_dict()
        return {
            'names': list(self._targets.groups),
            'every': self._every,
            'times': self._times.state_dict(),
            'regulator': regulator,
            'stepped': self._stepped,
            'named': sorted(self._named),
            'columns': self.columns.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            ValueError: If it is of other layers or of another ``every``.
        """
        if state['names'] != list(self._targets.groups):
            raise ValueError('the saved control has other layers')
        if state['every'] != self._every:
            raise ValueError(f'the saved control has every={state["every"]}')
        if self._regulator is not None and state['regulator'] is not None:
            self._regulator.load_state_dict(state['regulator'])
        self._times.load_state_dict(state['times'])
        self._stepped, self._named = state['stepped'], set(state['named'])
        self.columns.load_state_dict(state['columns'])

    def _control(self, runner: Runner) -> None:
        wanted, ahead = self._times.plan()
        decided, response = computed_in_main(lambda: self._decide(wanted, ahead))
        new = set(decided.left_alone) - self._named
        first = not self._named
        self._named |= {'', *decided.left_alone}
        applied: Mapping[str, float] = {}
        if decided.factors or new:
            applied = rescale_weights(
                runner,
                self._targets,
                decided.factors,
                'control of Δ',
                decided.left_alone,
                response,
                # One line for each of thousands of controls would tell nothing.
                logging.INFO if first or new else logging.DEBUG,
            )
        if self._regulator is not None:
            self._regulator.applied(applied, response)
        if self.columns.wanted_by_records:
            self.columns.note_factors(runner.iter + 1, applied)

    def _decide(
        self, wanted: np.ndarray, ahead: np.ndarray
    ) -> tuple[Factors, Response | None]:
        if self._regulator is None:  # computed_in_main does not call it there
            raise RuntimeError('only the main process decides')
        found, response = self._regulator.decide(wanted, ahead, self._times.done)
        targets = self._targets
        return above_epsilon(found, targets.model, targets.dependents), response

    def _rates_ahead(self, runner: Runner) -> Ahead | None:
        """The schedule of the config by step; None where it is not known."""
        schedule, every = schedule_of(runner)[0], self._accumulated
        if not len(schedule):
            return None

        def ahead(done: int, steps: int) -> np.ndarray:
            last = (done + 1 + np.arange(steps)) * every - 1
            rates = schedule[last.clip(max=len(schedule) - 1)]
            now = schedule[min(done * every, len(schedule) - 1)]
            return rates / now if now > 0 else np.ones(steps)

        return ahead
