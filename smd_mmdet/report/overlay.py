"""Figures of several runs over one another."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from .canvas import (
    COLOURS,
    POINTS,
    STYLE,
    draw_line,
    entry,
    head,
    log_axis,
    new_figure,
    panel_grid,
    save,
    span_of,
    thousands,
)
from .reduce import split_points, time_means
from .run import Motion, Run, short

__all__ = ['draw_overlays']

_DASHES = ('-', '--', '-.', ':')
# Values of each metric by iteration.
Scores = dict[str, dict[int, float]]
# Values of a layer to draw, one per window.
_Take = Callable[[Motion], np.ndarray]


def draw_overlays(runs: Sequence[Run], scores: Sequence[Scores]) -> dict[str, bytes]:
    """Figures of several runs.

    Args:
        runs: The runs to draw over one another.
        scores: The validation scores of each run, as :func:`~.scores.read_scores`
            gives them.

    Returns:
        The content of PNG files by name.
    """
    with mpl.rc_context(STYLE):
        figures = {
            'angular_update.png': _angles(runs, lambda layer: layer.angle, 'Δ'),
            'equilibrium.png': _angles(runs, lambda layer: layer.ratio, 'Δ/Δ*'),
            'weight_norm.png': _norms(runs),
            'scores.png': _scores(runs, scores),
        }
    return {name: save(figure) for name, figure in figures.items() if figure}


def _styles(number: int) -> list[dict[str, Any]]:
    """Styles of lines, told apart by their colours, and in grey by their dashes."""
    return [
        dict(color=COLOURS[i % len(COLOURS)], ls=_DASHES[i % len(_DASHES)])
        for i in range(number)
    ]


def _entries(runs: Sequence[Run]) -> list[Line2D]:
    """An entry of the legend for each run."""
    styles = _styles(len(runs))
    return [
        entry(run.name, style['color'], 1.8, style['ls'])
        for run, style in zip(runs, styles, strict=True)
    ]


def _over_time(axes: Axes, runs: Sequence[Run], parts: int = 9) -> None:
    """An axis of iterations that is as long as the longest run.

    Args:
        axes: The axes to change.
        runs: The runs that are drawn on them.
        parts: Most parts into which the ticks divide it.
    """
    axes.set_xlim(0, 1.02 * max(run.last_iter for run in runs))
    axes.xaxis.set_major_locator(MaxNLocator(parts))
    axes.xaxis.set_major_formatter(thousands)
    axes.set_xlabel('iteration')


def _angles(runs: Sequence[Run], take: _Take, name: str) -> Figure | None:
    """The median layer of each run, over the range of the middle four fifths.

    Args:
        runs: The runs to draw.
        take: Gives the values of a layer: Δ or Δ/Δ*.
        name: Name of the values.
    """
    columns = [_columns(run, take) for run in runs]
    spread = [(m, np.nanquantile(rows, [0.1, 0.5, 0.9], axis=0)) for m, rows in columns]
    span = span_of([line for _, lines in spread for line in lines], 0.01)
    if span is None:
        return None
    figure = new_figure()
    axes = figure.subplots()
    for (middle, lines), style in zip(spread, _styles(len(runs)), strict=True):
        if not len(middle):
            continue  # nothing is known of this run
        low, median, high = lines
        axes.fill_between(middle, low, high, color=style['color'], alpha=0.18, lw=0)
        axes.plot(middle, median, lw=1.6, **style)
    legend = _entries(runs)
    if _equilibrium(axes, runs, name):
        legend.append(entry('Δ*' if name == 'Δ' else 'equilibrium', 'black', 1.2))
    log_axis(axes, *span)
    _over_time(axes, runs)
    axes.set_ylabel('rad / iteration' if name == 'Δ' else name)
    head(figure, f'{name}: median layer, and the middle four fifths', legend)
    return figure


def _columns(run: Run, take: _Take) -> tuple[np.ndarray, np.ndarray]:
    """The middles of time columns, and the mean of each layer in each of them."""
    edges = split_points(run.longest.iter, POINTS // 2)
    rows = np.array(
        [time_means(layer.iter, take(layer), edges) for layer in run.layers]
    )
    kept = np.isfinite(rows).any(axis=0)
    return (edges[1:] + edges[:-1])[kept] / 2, rows[:, kept]


def _equilibrium(axes: Axes, runs: Sequence[Run], name: str) -> bool:
    """Draw Δ* of the runs, and tell whether any is known."""
    if name != 'Δ':
        axes.axhline(1, color='black', lw=1.2)
        return True
    seen = set()
    for layer in (run.layers[0] for run in runs):
        if np.isfinite(layer.angle_eq).any() and layer.settings not in seen:
            seen.add(layer.settings)
            axes.plot(layer.iter, layer.angle_eq, color='black', lw=1.2, zorder=4)
    return bool(seen)


def _norms(runs: Sequence[Run]) -> Figure | None:
    """‖w‖ of layers that all runs have."""
    shared = set.intersection(*({layer.name for layer in run.layers} for run in runs))
    names = [layer.name for layer in runs[0].examples() if layer.name in shared]
    if not names:
        return None
    figure, grid = panel_grid(len(names))
    for name, axes in zip(names, grid, strict=True):
        for run, style in zip(runs, _styles(len(runs)), strict=True):
            _norm(axes, run.layer(name), style)
        _over_time(axes, runs, 5)
        axes.set_ylim(bottom=0)
        axes.set_title(short(name), fontsize=8.5, parse_math=False)
    lines = [*_entries(runs), entry('w* of each', '#888888', 0.9)]
    head(figure, 'Weight norm', lines)
    return figure


def _norm(axes: Axes, layer: Motion, style: dict[str, Any]) -> None:
    light = dict(style, alpha=0.45, lw=0.8)
    draw_line(axes, layer.iter, layer.norm_eq, POINTS // 2, **light)
    draw_line(axes, layer.iter, layer.norm, POINTS // 2, lw=2, **style)


def _scores(runs: Sequence[Run], scores: Sequence[Scores]) -> Figure | None:
    """Every headline metric over the iterations."""
    known = list(dict.fromkeys(name for each in scores for name in each))
    names = [name for name in known if name.endswith('AP')] or known
    names = names[:4]
    if not names:
        return None
    figure = new_figure(3.6, 4.3 * len(names) if len(names) < 3 else 11)
    grid = figure.subplots(1, len(names), squeeze=False)[0]
    for name, axes in zip(names, grid, strict=True):
        for each, style in zip(scores, _styles(len(runs)), strict=True):
            values = each.get(name, {})
            axes.plot(values.keys(), values.values(), marker='o', ms=4, lw=1.6, **style)
            if values:
                last = max(values)
                axes.annotate(
                    f'{values[last]:.3f}',
                    (last, values[last]),
                    (-5, 4),
                    textcoords='offset points',
                    ha='right',
                    fontsize=8,
                    color=style['color'],
                )
        _over_time(axes, runs, 5)
        axes.set_ylim(0, 1.12 * axes.get_ylim()[1])
        axes.set_title(name, fontsize=9, parse_math=False)
    head(figure, 'Validation scores', _entries(runs))
    return figure
