"""The drawing kit of the figures: colours, axes, lines and labels, with matplotlib.

:mod:`~.figures` and :mod:`~.overlay` say what is drawn; what a line, an axis or a
legend looks like is said here once.
"""

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from smd_mmdet.checks import StageSummary
from smd_mmdet.stages import stage_name

from .reduce import min_max, split_points, time_bounds, time_means
from .run import Motion, Run, short

__all__ = [
    'COLOURS',
    'INK',
    'OTHER',
    'POINTS',
    'STYLE',
    'draw_line',
    'draw_step',
    'entry',
    'envelope',
    'head',
    'layer_panels',
    'log_axis',
    'new_figure',
    'panel_grid',
    'part_colours',
    'part_entries',
    'plain_number',
    'save',
    'span_of',
    'stage_labels',
    'thousands',
    'time_axis',
    'write_at',
]

# Okabe and Ito's colours, which can be told apart also without colour vision; their
# yellow is left out, for it is too pale for lines.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00')
OTHER = '#777777'
INK = '#222222'
FAINT = '#666666'
SHADE = '#ececec'

# Points of a line in a figure of full width; panels have half of them.
POINTS = 480

STYLE: dict[Any, Any] = {
    'font.size': 9,
    'axes.titlesize': 10,
    'axes.titleweight': 'bold',
    'axes.titlelocation': 'left',
    'axes.edgecolor': '#888888',
    'axes.linewidth': 0.8,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'xtick.color': INK,
    'ytick.color': INK,
    'legend.frameon': False,
    'legend.fontsize': 8.5,
    'svg.fonttype': 'none',
    'path.simplify': False,
}


# ------------------------------------------------------------------ figures


def new_figure(height: float = 4.0, width: float = 8.0) -> Figure:
    """An empty figure whose pieces make room for one another.

    Args:
        height: Height of the figure in inches.
        width: Width of the figure in inches.
    """
    figure = Figure(figsize=(width, height), layout='constrained')
    engine: Any = figure.get_layout_engine()
    engine.set(h_pad=0.06, w_pad=0.06)
    return figure


def save(figure: Figure, kind: str = 'png', dpi: int = 140) -> bytes:
    """A figure as the bytes of a file.

    Args:
        figure: The figure to save.
        kind: 'png' or 'svg'.
        dpi: Pixels per inch of a PNG.

    Returns:
        The file's content.
    """
    file = BytesIO()
    # The same records give the same bytes: no date, no random ids.
    metadata = {'Date': None} if kind == 'svg' else None
    with mpl.rc_context({**STYLE, 'svg.hashsalt': 'smd'}):
        figure.savefig(file, format=kind, dpi=dpi, metadata=metadata)
    return file.getvalue()


def panel_grid(number: int, **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure with a number of axes in at most two columns.

    Args:
        number: Number of axes, at least 1.
        shared: ``sharex`` and ``sharey`` of matplotlib's ``subplots``.

    Returns:
        The figure, and its axes row by row.
    """
    columns = min(2, number)
    rows = -(-number // columns)
    figure = new_figure(0.9 + 2.15 * rows, 8.6)
    grid = figure.subplots(rows, columns, squeeze=False, **shared)
    for unused in grid.flat[number:]:
        unused.remove()
    return figure, list(grid.flat[:number])


def layer_panels(
    run: Run, chosen: Sequence[Motion], quantity: Callable[[Motion], np.ndarray]
) -> tuple[Figure, list[tuple[Motion, Axes]]] | None:
    """A figure with axes of its own for each layer of which a quantity is known.

    Args:
        run: The run that the layers are of.
        chosen: The layers to show.
        quantity: Gives the values that a layer must have to be shown.

    Returns:
        The figure, and each layer that is shown with its axes; None if there is no
        such layer.
    """
    layers = [layer for layer in chosen if np.isfinite(quantity(layer)).any()]
    if not layers:
        return None
    figure, grid = panel_grid(len(layers), sharex=True)
    places = list(zip(layers, grid, strict=True))
    for i, (layer, axes) in enumerate(places):
        # Only the lowest axes of a column name their time.
        lowest = i + min(2, len(layers)) >= len(layers)
        time_axis(axes, run, label=lowest)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.tick_params(labelbottom=lowest)
        axes.set_title(short(layer.name), fontsize=8.5, parse_math=False)
    return figure, places


# ------------------------------------------------------------------ axes


def time_axis(axes: Axes, run: Run, label: bool = True, inches: float = 0) -> None:
    """An axis of iterations, with warm-up shaded and a dotted line at each new stage.

    Args:
        axes: The axes to draw on.
        run: The run whose iterations they show.
        label: Whether to name the axis.
        inches: Approximate width of the axes, in which the names of the stages are
            written; 0 leaves the names out.
    """
    axes.set_xlim(0, run.last_iter)
    axes.xaxis.set_major_formatter(FuncFormatter(thousands))
    if label:
        axes.set_xlabel('iteration')
    for stage in run.report.stages:
        if stage.stage < 0:
            axes.axvspan(0, stage.last_iter, color=SHADE, lw=0, zorder=0)
        elif stage.stage > 0:
            axes.axvline(stage.first_iter, color='#bbbbbb', lw=0.8, ls=':', zorder=0)
    if inches:
        _name_stages(axes, run, inches)


def stage_labels(stage: StageSummary) -> list[str]:
    """What figures call a stage: the first of these for which there is room."""
    name = stage_name(stage.stage)
    if stage.stage < 0:
        return [name]
    rate = f'lr {stage.rate_text}'
    return [f'{name}, {rate}', rate]


def _name_stages(axes: Axes, run: Run, inches: float) -> None:
    """Write the names of the stages above the axes, as far as there is room."""
    taken = 0.0
    for stage in run.report.stages:
        names = stage_labels(stage)
        begin = max(0 if stage.stage < 0 else stage.first_iter / run.last_iter, taken)
        end = 1.0 if stage.stage < 0 else stage.last_iter / run.last_iter
        widths = [(0.07 * len(name) + 0.1) / inches for name in names]
        fitting = [
            (name, width)
            for name, width in zip(names, widths, strict=True)
            if begin + width <= end
        ]
        if not fitting:
            continue
        name, needed = fitting[0]
        taken = begin + needed
        axes.annotate(
            name,
            (begin, 1.0),
            (2, 2),
            xycoords='axes fraction',
            textcoords='offset points',
            color=FAINT,
            fontsize=7.5,
            va='bottom',
            annotation_clip=False,
        )


def log_axis(axes: Axes, low: float, high: float) -> None:
    """A logarithmic vertical axis whose ticks are plain numbers, at least three.

    Args:
        axes: The axes to change.
        low: Lower limit, above 0.
        high: Upper limit.
    """
    axes.set_yscale('log')
    axes.set_ylim(low, high)
    decades = np.log10(high / low)
    steps = (1,) if decades > 4 else (1, 3) if decades > 2 else (1, 2, 5)
    powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    if decades > 8:
        powers = powers[:: int(decades // 5)]
    axes.yaxis.set_major_locator(
        FixedLocator([s * 10**p for p in powers for s in steps])
    )
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(plain_number))


def span_of(
    values: Sequence[np.ndarray], share: float = 0.001
) -> tuple[float, float] | None:
    """Limits for a logarithmic axis that hold every line but for its dips.

    A starved layer, or a short stage, has few of all values and is what a reader looks
    for. So each line counts by itself, and only moments of it may be cut off.

    Args:
        values: Arrays of what is drawn, one per line, or per stretch of a line that
            has to be seen; only finite values above 0 count.
        share: Share of the values of each array, the least of them, that may lie below
            the lower limit; nothing lies above the upper one.

    Returns:
        The lower and the upper limit; None if no value counts.
    """
    known = [line[np.isfinite(line) & (line > 0)] for line in values]
    known = [line for line in known if len(line)]
    if not known:
        return None
    low = min(np.quantile(line, share, method='lower') for line in known)
    high = max(line.max() for line in known)
    return float(low) / 1.3, float(high) * 1.4


def thousands(value: float, _: Any = None) -> str:
    """A tick of an axis of iterations: 500, 2,000 or 40k."""
    if abs(value) >= 10_000:
        return f'{value / 1000:,.4g}k'
    return f'{value:,.0f}' if value == int(value) else f'{value:g}'


def plain_number(value: float, _: Any = None) -> str:
    """A tick as people write it: 0.001 for 1e-3, but 1e-05 for 0.00001."""
    return f'{value:g}' if 1e-3 <= abs(value) < 1e5 or value == 0 else f'{value:.0e}'


# ------------------------------------------------------------------ lines


def draw_line(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    points: int = POINTS,
    band: bool = False,
    **style: Any,
) -> None:
    """A line of few points: the means of time columns, over the range of each.

    Args:
        axes: The axes to draw on.
        x: Iterations, rising.
        y: One value per iteration. If they are no more than two a point, each of
            them is drawn.
        points: Most points that the line may have.
        band: Whether to shade from the least to the greatest value of each column.
        style: Colour and width of the line, as ``Axes.plot`` takes them.
    """
    if len(y) <= 2 * points:
        # A run that has just begun has no lines yet.
        axes.plot(x, y, marker='o' if len(y) < 3 else None, ms=3, **style)
        return
    edges = split_points(x, points)
    middle = (edges[1:] + edges[:-1]) / 2
    if band:
        low, high = time_bounds(x, y, edges)
        axes.fill_between(middle, low, high, color=style.get('color'), alpha=0.25, lw=0)
    axes.plot(middle, time_means(x, y, edges), **style)


def draw_step(axes: Axes, x: np.ndarray, y: np.ndarray, **style: Any) -> None:
    """A line of steps, drawn by the two ends of each step alone.

    Args:
        axes: The axes to draw on.
        x: Iterations, rising.
        y: One value per iteration, mostly the same as the one before.
        style: Colour and width of the line, as ``Axes.plot`` takes them.
    """
    start = np.concatenate([[True], np.diff(y) != 0])
    turns = np.union1d(np.flatnonzero(start), np.flatnonzero(start) - 1)
    turns = np.union1d(turns[turns >= 0], [len(y) - 1])
    if len(turns) > 2 * POINTS:
        turns = min_max(y, POINTS)
    axes.plot(x[turns], y[turns], **style)


def envelope(axes: Axes, run: Run, values: Sequence[np.ndarray]) -> None:
    """Shade from the least to the greatest value of all layers.

    Args:
        axes: The axes to draw on.
        run: The run that the values are of.
        values: The values of each layer of the run, in the order of its layers.
    """
    if all(len(v) <= 2 * POINTS for v in values):
        return
    edges = split_points(run.longest.iter, POINTS)
    bounds = [
        time_bounds(layer.iter, v, edges)
        for layer, v in zip(run.layers, values, strict=True)
    ]
    low = np.fmin.reduce([low for low, _ in bounds])
    high = np.fmax.reduce([high for _, high in bounds])
    middle = (edges[1:] + edges[:-1]) / 2
    axes.fill_between(middle, low, high, color='#dddddd', lw=0, zorder=0.5)


# ------------------------------------------------------------------ words and colours


def head(figure: Figure, title: str, lines: Sequence[Line2D] = ()) -> None:
    """Title and legend above the axes, where they cover nothing.

    Args:
        figure: The figure to name.
        title: Its title.
        lines: Entries of the legend, as :func:`entry` makes them.
    """
    if not lines:
        figure.suptitle(title, x=0.012, ha='left', fontsize=11.5, weight='bold')
        return
    longest = max(len(str(line.get_label())) for line in lines)
    fitting = int(14 * figure.get_figwidth() / (longest + 7))
    legend = figure.legend(
        handles=lines,
        title=title,
        title_fontproperties={'size': 11.5, 'weight': 'bold'},
        alignment='left',
        loc='outside upper left',
        ncols=min(len(lines), max(fitting, 1)),
        handlelength=1.6,
        borderpad=0.1,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def entry(label: str, colour: str, width: float = 1.3, style: str = '-') -> Line2D:
    """An entry of a legend: a short line and its name.

    Args:
        label: What the line means.
        colour: Colour of the line.
        width: Width of the line in points.
        style: Dashes of the line, as matplotlib writes them.
    """
    return Line2D([], [], color=colour, lw=width, ls=style, label=label)


def part_colours(run: Run) -> dict[str, str]:
    """A colour for each part of the model; grey for those after the last colour."""
    parts = list(dict.fromkeys(run.parts.values()))
    return {
        part: COLOURS[i] if i < len(COLOURS) else OTHER for i, part in enumerate(parts)
    }


def part_entries(run: Run) -> list[Line2D]:
    """Entries of a legend that name the model's parts, with their numbers of layers."""
    colours, parts = part_colours(run), list(run.parts.values())
    shown = [part for part in colours if colours[part] != OTHER]
    lines = [entry(f'{p} ({parts.count(p)})', colours[p], 2) for p in shown]
    if len(shown) < len(colours):
        rest = sum(colours[part] == OTHER for part in parts)
        lines.append(entry(f'other ({rest})', OTHER, 2))
    return lines


def write_at(
    axes: Axes, y: float, text: str, x: float = 1.0, dy: float = 2, **style: Any
) -> None:
    """Write a label at a height of the data, by default at the right end of the axes.

    Args:
        axes: The axes to write on.
        y: Height of the label, in the units of the data.
        text: What to write.
        x: Where the label ends, as a share of the width of the axes.
        dy: How far above ``y`` the label stands, in points.
        style: Anything that ``Axes.annotate`` takes for text.
    """
    placed: dict[str, Any] = dict(ha='right', va='bottom', fontsize=8, color=INK)
    label = axes.annotate(
        text,
        (x, y),
        (-3, dy),
        axes.get_yaxis_transform(),
        textcoords='offset points',
        **(placed | style),
    )
    label.set_path_effects([withStroke(linewidth=2.5, foreground='white')])
