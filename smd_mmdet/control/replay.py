"""The angular updates that a run has recorded, to be followed by another run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from smd_mmdet.records import Records, RecordsError, read_records

__all__ = ['Replay', 'read_replay']


@dataclass(frozen=True)
class Replay:
    """Recorded angular updates, window by window.

    Args:
        source: Folder of the run.
        ends: Last iteration of each window, rising; shape (windows,).
        layers: Root mean square Δ of each layer in each window, by its name; shape
            (windows,), radians.
        median: Median over all recorded layers, which stands for a layer that the run
            has no values of.
        pace: Iterations of the run that go by in a step of the one that follows it.

    Example:
        >>> ends, angles = np.array([50, 100]), np.array([1e-2, 4e-3])
        >>> run = Replay('work_dirs/a', ends, {'conv1.weight': angles}, angles / 2)
        >>> run.at(np.array([0, 49, 50, 99]), ['conv1.weight', 'other']).tolist()
        [[0.01, 0.005], [0.01, 0.005], [0.004, 0.002], [0.004, 0.002]]

        A run of 20 steps goes through it at five times the pace:

        >>> run.over(20).at(np.array([9, 10]), ['conv1.weight']).tolist()
        [[0.01], [0.004]]
    """

    source: str
    ends: np.ndarray
    layers: dict[str, np.ndarray]
    median: np.ndarray
    pace: float = 1.0

    @property
    def length(self) -> int:
        """The last iteration that was recorded."""
        return int(self.ends[-1])

    def over(self, steps: int) -> Replay:
        """The same, stretched or shortened to another number of steps."""
        return self.at_pace(self.length / steps)

    def at_pace(self, pace: float) -> Replay:
        """The same, with another number of its iterations in a step."""
        return replace(self, pace=pace)

    def at(self, steps: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """The angular updates of some steps; after the last window, those of it.

        Args:
            steps: Numbers of the steps, counted from 0.
            names: Names of the layers.

        Returns:
            Shape (steps, layers).
        """
        # Step t makes the run's iteration t + 1; the middle of a longer or shorter
        # step tells the window, so that no rounding puts it into the next one.
        middle = (np.asarray(steps) + 0.5) * self.pace
        window = np.searchsorted(self.ends, middle).clip(max=len(self.ends) - 1)
        columns = [self.layers.get(name, self.median)[window] for name in names]
        return np.stack(columns, axis=1)


def read_replay(work_dir: str | os.PathLike) -> Replay:
    """Read the angular updates of a run, of its scale-invariant weights.

    A window in which a layer did not turn has the median of the others; one in which
    none did, what the window before has.

    Args:
        work_dir: The run's folder, which has ``smd/*.parquet``.

    Returns:
        The angular updates.

    Raises:
        RecordsError: If there are no records, they cannot be read, or nothing in them
            turns.

    Example:
        >>> from smd_mmdet.records import RecordWriter
        >>> rows = dict(iter=[50, 50], count=[50, 50], layer=['a', 'b'], stage=[0, 0])
        >>> rows |= dict(angular_update_mean=[3e-3, 1e-3])
        >>> rows |= dict(angular_update_var=[16e-6, 0.0])
        >>> RecordWriter('run').append(rows)
        >>> run = read_replay('run')
        >>> run.at(np.array([0]), ['a', 'c']).round(6).tolist()
        [[0.005, 0.003]]
    """
    records = read_records(work_dir)
    records.require(['angular_update_mean', 'angular_update_var'])
    ends, names, angles = _by_window(records)
    angles = np.where((angles > 0) & (angles <= np.pi / 2), angles, np.nan)
    known = np.isfinite(angles)
    if not known.any():
        raise RecordsError(
            f'{records.source}: no scale-invariant weight that turns is recorded'
        )
    some = known.any(axis=1)
    median = np.full(len(ends), np.nan)
    median[some] = np.nanmedian(angles[some], axis=1)
    # Where nothing turned, the window before it counts, or else the first one that did.
    held = np.maximum.accumulate(np.where(some, np.arange(len(ends)), -1))
    median = median[np.where(held < 0, np.argmax(some), held)]
    filled = np.where(known, angles, median[:, None])
    layers = {name: filled[:, i] for i, name in enumerate(names) if known[:, i].any()}
    return Replay(str(work_dir), ends, layers, median)


def _by_window(records: Records) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Ends of the windows, names of the layers, Δ_rms of shape (windows, layers)."""
    facts = records.metadata.get('layers', {})
    of_layers = {
        name: columns
        for name, columns in records.by_layer()
        if facts.get(name, {}).get('invariant', True)
    }
    ends = np.unique([end for c in of_layers.values() for end in c['iter']])
    angles = np.full((len(ends), len(of_layers)), np.nan)
    for i, columns in enumerate(of_layers.values()):
        squares = columns['angular_update_mean'] ** 2 + columns['angular_update_var']
        squares = np.where(columns['count'] > 0, squares, np.nan)
        angles[np.searchsorted(ends, columns['iter']), i] = np.sqrt(squares)
    return ends.astype(np.int64), list(of_layers), angles
