"""What a run says of itself while it goes on: a line in the log, scalars by name."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from mmengine.hooks import LoggerHook

from smd_mmdet._text import one_line
from smd_mmdet.checks import CONTROLLED, IN_EQUILIBRIUM, Standing, standing
from smd_mmdet.config.schedule import Span
from smd_mmdet.invariance import ScaleInvariance
from smd_mmdet.monitor.quantities import QUANTITIES

from .runs import accumulated

if TYPE_CHECKING:
    from mmengine.runner import Runner

__all__ = ['RECENT_ITERATIONS', 'Progress', 'scalars', 'summary']

# The layers' standing is judged over so many iterations: over fewer, L is noisy.
RECENT_ITERATIONS = 200


class Progress:
    """Follows where the layers stand, and shows it.

    Args:
        runner: The run.
        entries: The measured weights.
        stages: The stages of the run's schedule; empty if they are not known.
        window: Steps per window of the monitor.
        visualize: Whether window means go to the Visualizer.
    """

    def __init__(
        self,
        runner: Runner,
        entries: Sequence[ScaleInvariance],
        stages: Sequence[Span],
        window: int,
        visualize: bool,
    ) -> None:
        self.interval = _logging_interval(runner, window)
        self._runner = runner
        self._invariant = [entry.name for entry in entries if entry.invariant]
        self._stage_ends = [span.end for span in stages]
        self._visualize = visualize
        self._recent: deque[dict[str, np.ndarray]] = deque(
            maxlen=max(1, RECENT_ITERATIONS // window)
        )
        # What was found last in this stage; the states of the layers have a memory.
        self._standing: Standing | None = None
        # Whether that has not been in the log yet.
        self._news = False

    def look(self, rows: dict[str, np.ndarray], law: str) -> None:
        """Judge where the layers stand, from the newest windows of this stage.

        Args:
            rows: Columns of the records, with the rows of one window or more.
            law: The optimizer's name in :data:`.THEORIES`, or 'none'.
        """
        last = int(rows['iter'][-1])
        newest = {key: values[rows['iter'] == last] for key, values in rows.items()}
        if self._recent and self._recent[-1]['stage'][0] != newest['stage'][0]:
            self._recent.clear()
            self._standing = None
        self._recent.append(newest)
        columns = {
            key: np.concatenate([window[key] for window in self._recent])
            for key in newest
        }
        ends = (end for end in self._stage_ends if end >= last)
        self._standing = standing(
            columns,
            next(ends, self._runner.max_iters) - last,
            np.isin(newest['layer'], self._invariant),
            accumulated(self._runner),
            before=self._standing,
            law=law,
        )
        self._news = True
        if self._visualize:
            self._show(scalars(newest, self._standing), last)

    def tell(self) -> None:
        """Write a line to the log, if there is something new to say."""
        if self._standing is not None and self._news:
            self._runner.logger.info(summary(self._standing))
            self._news = False

    def _show(self, values: dict[str, float], iteration: int) -> None:
        try:
            self._runner.visualizer.add_scalars(values, iteration)
        except Exception as fault:  # a backend's: its disk, its network
            self._visualize = False
            self._runner.logger.warning(
                'smd: the Visualizer takes no scalars, records go on: '
                f'{type(fault).__name__}: {fault}'
            )


def _logging_interval(runner: Runner, window: int) -> int:
    """Iterations between two lines of MMEngine's; a window where it writes none."""
    return next(
        (hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)),
        window,
    )


def summary(standing: Standing) -> str:
    """One line about where the layers stand.

    Args:
        standing: What the newest windows tell.

    Returns:
        How many layers are in which state, the spread of Δ/Δ*, how many iterations at
        the present rate the last layer is away from equilibrium, and how often
        gradients were clipped.
    """
    if standing.wanted_ratio is not None:
        return _of_control(standing, standing.wanted_ratio)
    counts = standing.counts()
    here = counts.pop(IN_EQUILIBRIUM, 0)
    parts = [f'smd: {here} of {len(standing.layer)} layers in equilibrium']
    parts += [f'{number} {state}' for state, number in sorted(counts.items())]
    line = ', '.join(parts)
    ratio = standing.angular_update_ratio
    known = np.isfinite(ratio)
    if known.any():
        lowest = int(np.nanargmin(np.where(known, ratio, np.inf)))
        line += (
            f'; median Δ/Δ* {np.median(ratio[known]):.3f}, lowest {ratio[lowest]:.3f} '
            f'({one_line(standing.layer[lowest])})'
        )
    waiting = standing.iterations[np.isfinite(standing.iterations)]
    if waiting.size and waiting.max() > 0:
        line += f'; the last one needs {waiting.max():,.0f} iterations more'
    return line + _of_clipping(standing)


def _of_control(standing: Standing, ratio: np.ndarray) -> str:
    """One line about how near layers are to what a controller wants of them."""
    known = np.isfinite(ratio)
    line = (
        f'smd: {standing.near_wanted} of {known.sum()} layers within 10 % of the '
        'wanted angular update'
    )
    counts = standing.counts()
    counts.pop(CONTROLLED, None)
    line += ''.join(f', {number} {state}' for state, number in sorted(counts.items()))
    if known.any():
        with np.errstate(divide='ignore'):
            furthest = int(np.nanargmax(np.abs(np.log(ratio))))
        line += (
            f'; median Δ/wanted {np.median(ratio[known]):.3f}, furthest '
            f'{ratio[furthest]:.3f} ({one_line(standing.layer[furthest])})'
        )
    return line + _of_clipping(standing)


def _of_clipping(standing: Standing) -> str:
    if not standing.clipped_share > 0:
        return ''
    return f'; {standing.clipped_share:.0%} of steps clipped'


def scalars(rows: dict[str, np.ndarray], standing: Standing) -> dict[str, float]:
    """Values of one window by the names under which they are shown.

    Args:
        rows: Columns of the records, one row per layer.
        standing: Where these layers stand.

    Returns:
        ``smd/<quantity>/<layer>`` to value, ``smd/layers/<state>`` to the number of
        layers in that state, and ``smd/clipped_share``. Values that are not finite are
        left out.
    """
    values = {quantity: rows[f'{quantity}_mean'] for quantity in QUANTITIES} | {
        'angular_update_ratio': standing.angular_update_ratio,
        'weight_norm_ratio': standing.weight_norm_ratio,
        'iterations_to_equilibrium': standing.iterations,
    }
    if standing.wanted_ratio is not None:
        values['angular_update_over_wanted'] = standing.wanted_ratio
    shown = {
        f'smd/{quantity}/{layer}': float(value)
        for quantity, of_layers in values.items()
        for layer, value in zip(rows['layer'], of_layers, strict=True)
        if np.isfinite(value)
    }
    if np.isfinite(standing.clipped_share):
        shown['smd/clipped_share'] = standing.clipped_share
    for state, number in standing.counts().items():
        shown[f'smd/layers/{state.replace(" ", "_")}'] = float(number)
    return shown
