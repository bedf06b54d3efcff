"""The records of a run under way: from the monitor to the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smd_mmdet.invariance import ScaleInvariance
from smd_mmdet.monitor.monitor import SphericalMotionMonitor
from smd_mmdet.records import FOLDER, RecordWriter
from smd_mmdet.stages import WARMUP

from .lock import Hold, holds
from .metadata import output_variances, run_metadata
from .progress import Progress
from .rates import planned_stages
from .runs import model_of

if TYPE_CHECKING:
    from mmengine.runner import Runner

__all__ = ['UNWRITTEN_WINDOWS', 'Columns', 'Recording', 'begin_recording']

# How many pieces of records are kept in memory while the disk refuses them.
UNWRITTEN_WINDOWS = 200

Columns = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


class Recording:
    """Keeps the records of a run, in the one process that does so.

    What the monitor has measured goes to the disk and to :class:`.Progress`. What the
    disk refuses stays in memory and is tried again with the next windows.

    Args:
        runner: The run.
        entries: The measured weights.
        monitor: What measures them.
        progress: What shows where the layers stand.
        resumed_at: The first iteration that this run measures of a run that it
            resumes; the rows from there on are dropped. None for a new run, which
            sets the records of an earlier one aside.
        held: What keeps others from writing to the run's folder; None if nothing does.
    """

    def __init__(
        self,
        runner: Runner,
        entries: Sequence[ScaleInvariance],
        monitor: SphericalMotionMonitor,
        progress: Progress,
        resumed_at: int | None,
        held: Hold | None = None,
    ) -> None:
        self.monitor = monitor
        self.progress = progress
        self._logger = runner.logger
        self._work_dir = runner.work_dir
        self._model = model_of(runner)
        self._entries = entries
        self._resumed_at = resumed_at
        self._held = held
        self._metadata = run_metadata(runner, self._model, entries, monitor)
        self._unwritten: list[dict[str, np.ndarray]] = []
        # What adds columns to rows.
        self._more: Columns | None = None
        # None until the disk has taken the metadata.
        self._writer: RecordWriter | None = None
        self._write()

    def collect(self, wait: bool = True) -> None:
        """Take over the windows that the monitor has closed.

        Args:
            wait: Whether to wait for windows on their way from the device.

        Raises:
            RuntimeError: If another monitor of this process has taken the folder.
            Exception: The monitor's fault, if it has one.
        """
        if not (wait or self.monitor.ready or self.monitor.fault):
            return
        self._check_folder()
        rows = self.monitor.collect(wait)
        if len(rows['iter']):
            if self._more is not None:
                rows |= self._more(rows)
            self.progress.look(rows, self.monitor.theory)
            self._unwritten.append(rows)
            self._write()
        if self.monitor.fault is not None:
            raise self.monitor.fault

    def state_dict(self) -> dict | None:
        """The window under way, for a checkpoint; None where measuring has failed.

        Reading it waits for the device, and with it for the windows that are closed,
        which are written.
        """
        self.note_variances()
        state = None if self.monitor.fault else self.monitor.state_dict()
        self.collect(wait=False)
        return state

    def note_variances(self) -> None:
        """Keep the variances that batch norm has of the layers' outputs by now."""
        for name, variance in output_variances(self._model, self._entries).items():
            self._metadata['layers'][name]['output_variance'] = variance
        self.describe({})

    def add_columns(self, more: Columns) -> None:
        """Have columns added to all rows from now on.

        Args:
            more: Called with rows, window by window, it returns columns by name.
        """
        self._more = more

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Keep more facts about the run, as plain values, beside its records."""
        self._check_folder()
        self._metadata.update(facts)
        if self._writer is not None:
            self._writer.describe(self._metadata)

    def end(self) -> None:
        """Write what is left, the window under way included."""
        self.monitor.end_window()
        self.note_variances()
        self.collect()
        if self._writer is not None:
            self._writer.merge()

    def _check_folder(self) -> None:
        if self._held is not None and not holds(self._work_dir, self._held):
            raise RuntimeError(
                f'another monitor of this process writes records to {self._work_dir}'
            )

    def _write(self) -> None:
        """Write what waits to be written, as far as the disk takes it."""
        try:
            if self._writer is None:
                self._writer = self._open()
            while self._unwritten:
                self._writer.append(self._unwritten[0])
                del self._unwritten[0]
        except OSError as fault:
            self._keep_for_later(fault)

    def _open(self) -> RecordWriter:
        writer = RecordWriter(self._work_dir, self._metadata, self._resumed_at)
        if writer.set_aside:
            self._logger.info(
                f'smd: records of an earlier run are now in {writer.set_aside}'
            )
        for path in writer.unreadable:
            self._logger.warning(
                f'smd: records that cannot be read are now in {path}: their iterations '
                'are missing'
            )
        return writer

    def _keep_for_later(self, fault: OSError) -> None:
        lost = self._unwritten[:-UNWRITTEN_WINDOWS]
        del self._unwritten[:-UNWRITTEN_WINDOWS]
        told = f'{len(self._unwritten)} pieces are kept in memory to try again'
        if lost:
            told += f'; those up to iteration {lost[-1]["iter"][-1]} are lost'
        self._logger.warning(
            f'smd: records cannot be written, training goes on: {fault} ({told})'
        )


def begin_recording(
    runner: Runner,
    entries: Sequence[ScaleInvariance],
    monitor: SphericalMotionMonitor,
    saved: dict | None,
    visualize: bool,
    held: Hold | None = None,
) -> Recording:
    """Open the records of a run that begins, or go on with those of a resumed one.

    Args:
        runner: The run.
        entries: The measured weights.
        monitor: What measures them; it takes up the window that was under way.
        saved: That window, from the checkpoint; None where there is none.
        visualize: Whether window means go to the Visualizer.
        held: What keeps others from writing to the run's folder; None if nothing does.
    """
    stages = planned_stages(runner)
    warmup = [span.end for span in stages if span.stage.number == WARMUP]
    monitor.warmup = max(warmup, default=0)
    resumed_at = None
    if runner.iter > 0:
        under_way = (s for s in stages if s.start <= runner.iter < s.end)
        number = next((span.stage.number for span in under_way), 0)
        _take_up_window(runner, monitor, saved, number)
        resumed_at = monitor.window_start
    progress = Progress(runner, entries, stages, monitor.window, visualize)
    recording = Recording(runner, entries, monitor, progress, resumed_at, held)
    invariant = sum(entry.invariant for entry in entries)
    runner.logger.info(
        f'smd: {len(entries)} weights are measured at every iteration, {invariant} '
        f'of them scale-invariant; records in {Path(runner.work_dir, FOLDER)}'
    )
    return recording


def _take_up_window(
    runner: Runner, monitor: SphericalMotionMonitor, saved: dict | None, stage: int
) -> None:
    """Go on with the saved window; begin one in the given stage if it does not fit."""
    if saved is None or saved['iteration'] > runner.iter:
        monitor.start_at(runner.iter, stage)
        return
    try:
        monitor.load_state_dict(saved)
    except (ValueError, KeyError) as fault:
        monitor.start_at(runner.iter, saved['stages'])
        runner.logger.warning(f'smd: a new window begins at the resume: {fault}')
