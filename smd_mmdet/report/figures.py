"""The paper's figures for any run, drawn with matplotlib."""

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from smd_mmdet.checks import COSINE_LEFT, COSINE_ROUNDING
from smd_mmdet.stages import stage_name

from .reduce import min_max, split_points, time_bounds, time_means
from .run import Motion, Run, short

__all__ = ['FIGURES', 'draw', 'heat', 'heat_edges', 'part_colours', 'save']

# Okabe and Ito's colours, told apart also without colour vision; yellow is too pale
# for lines.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00')
OTHER = '#777777'
INK, FAINT, SHADE = '#222222', '#666666', '#ececec'

# Points of a line in a figure of full width; panels have half of them.
POINTS = 480
HEAT_COLUMNS = 240

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


def draw(
    run: Run, layers: Sequence[str] = (), names: Sequence[str] = ()
) -> dict[str, Figure]:
    """The figures of a run that its records allow.

    Args:
        run: The run.
        layers: Names of those that get panels of their own; the middle layer of each
            part and the one furthest from equilibrium, if none are named.
        names: Of the figures wanted; all of :data:`FIGURES`, if none are named.

    Returns:
        Figures by name, a name being that of a file without its suffix.

    Raises:
        ValueError: If a layer is not in the records.
    """
    chosen = [run.layer(name) for name in layers] or run.examples()
    figures = {}
    with mpl.rc_context(STYLE):
        for name in names or FIGURES:
            figure = FIGURES[name](run, chosen)
            if figure is not None:
                figures[name] = figure
    return figures


def save(figure: Figure, kind: str = 'png', dpi: int = 140) -> bytes:
    """A figure as the bytes of a file.

    Args:
        figure: The figure.
        kind: 'png' or 'svg'.
        dpi: Points per inch of a PNG.
    """
    file = BytesIO()
    # The same records give the same bytes: no date, no random ids.
    metadata = {'Date': None} if kind == 'svg' else None
    with mpl.rc_context({**STYLE, 'svg.hashsalt': 'smd'}):
        figure.savefig(file, format=kind, dpi=dpi, metadata=metadata)
    return file.getvalue()


def part_colours(run: Run) -> dict[str, str]:
    """A colour for each part of the model; grey once they run out."""
    parts = list(dict.fromkeys(run.parts.values()))
    return {
        part: COLOURS[i] if i < len(COLOURS) else OTHER for i, part in enumerate(parts)
    }


# ------------------------------------------------------------------ common pieces


def new_figure(height: float = 4.0, width: float = 8.0) -> Figure:
    figure = Figure(figsize=(width, height), layout='constrained')
    engine: Any = figure.get_layout_engine()
    engine.set(h_pad=0.06, w_pad=0.06)
    return figure


def head(figure: Figure, title: str, lines: Sequence[Line2D] = ()) -> None:
    """Title and legend above the axes, where they cover nothing."""
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


def draw_line(
    axes: Axes, x, y, points: int = POINTS, band: bool = False, **style
) -> None:
    """A line of few points: means of time columns, over the range of each.

    Args:
        axes: Where to draw.
        x: Iterations.
        y: Values; if there are few, each is drawn.
        points: At most.
        band: Shade from the least to the greatest value of each column.
        style: Of the line.
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


def _envelope(axes: Axes, run: Run, values: list[np.ndarray]) -> None:
    """Shade from the least to the greatest value of all layers."""
    if all(len(v) <= 2 * POINTS for v in values):
        return
    edges = split_points(max((layer.iter for layer in run.layers), key=len), POINTS)
    bounds = [
        time_bounds(layer.iter, v, edges)
        for layer, v in zip(run.layers, values, strict=True)
    ]
    low = np.fmin.reduce([low for low, _ in bounds])
    high = np.fmax.reduce([high for _, high in bounds])
    middle = (edges[1:] + edges[:-1]) / 2
    axes.fill_between(middle, low, high, color='#dddddd', lw=0, zorder=0.5)


def _step(axes: Axes, x: np.ndarray, y: np.ndarray, **style) -> None:
    """A line that jumps where its value does, its ends included."""
    start = np.concatenate([[True], np.diff(y) != 0])
    turns = np.union1d(np.flatnonzero(start), np.flatnonzero(start) - 1)
    turns = np.union1d(turns[turns >= 0], [len(y) - 1])
    if len(turns) > 2 * POINTS:
        turns = min_max(y, POINTS)
    axes.plot(x[turns], y[turns], **style)


def _time_axis(axes: Axes, run: Run, label: bool = True, inches: float = 0) -> None:
    """Iterations below, warm-up shaded, stages told apart.

    Args:
        axes: Where to draw.
        run: The run.
        label: Name the axis.
        inches: Width of the axes, about, to write the stages' names; 0 leaves them out.
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


def _name_stages(axes: Axes, run: Run, inches: float) -> None:
    """Names of the stages above the axes, as far as there is room.

    Args:
        axes: Where to write.
        run: The run.
        inches: Width of the axes, about.
    """
    taken = 0.0
    for stage in run.report.stages:
        names = [stage_name(stage.stage)]
        if stage.stage >= 0:
            names = [f'{names[0]}, lr {stage.lr:.3g}', f'lr {stage.lr:.3g}']
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


def thousands(value: float, _=None) -> str:
    if abs(value) >= 10_000:
        return f'{value / 1000:,.4g}k'
    return f'{value:,.0f}' if value == int(value) else f'{value:g}'


def _plain(value: float, _=None) -> str:
    """1e-3 as 0.001 and 1e-5 as 1e-5: what people write."""
    return f'{value:g}' if 1e-3 <= abs(value) < 1e5 or value == 0 else f'{value:.0e}'


def log_axis(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis whose ticks are plain numbers, at least three of them."""
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
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))


def span_of(
    values: list[np.ndarray], share: float = 0.001
) -> tuple[float, float] | None:
    """Limits of a logarithmic axis that leave out a vanishing share."""
    known = np.concatenate(values)
    known = known[np.isfinite(known) & (known > 0)]
    if not len(known):
        return None
    low, high = np.quantile(known, [share, 1 - share])
    return float(low) / 1.3, float(high) * 1.4


def _part_lines(run: Run) -> list[Line2D]:
    """Legend entries of the model's parts."""
    colours, parts = part_colours(run), list(run.parts.values())
    shown = [part for part in colours if colours[part] != OTHER]
    lines = [
        Line2D([], [], color=colours[p], lw=2, label=f'{p} ({parts.count(p)})')
        for p in shown
    ]
    if len(shown) < len(colours):
        rest = sum(colours[part] == OTHER for part in parts)
        lines.append(Line2D([], [], color=OTHER, lw=2, label=f'other ({rest})'))
    return lines


def entry(label: str, colour: str, width: float = 1.3, style: str = '-') -> Line2D:
    return Line2D([], [], color=colour, lw=width, ls=style, label=label)


def _direct(axes: Axes, y: float, text: str, x=1.0, dy=2, **style) -> None:
    """A label at a height of the data, by default at the right end of the axes."""
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


def _panels(run: Run, chosen: Sequence[Motion], quantity: Callable):
    """A figure with axes for each layer of which the quantity is known."""
    layers = [layer for layer in chosen if np.isfinite(quantity(layer)).any()]
    if not layers:
        return None, []
    columns = min(2, len(layers))
    rows = -(-len(layers) // columns)
    figure = new_figure(0.9 + 2.15 * rows, 8.6)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for place in grid.flat[len(layers) :]:
        place.remove()
    places = []
    for i, (layer, axes) in enumerate(zip(layers, grid.flat, strict=False)):
        below = i + columns >= len(layers)
        _time_axis(axes, run, label=below)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.tick_params(labelbottom=below)
        axes.set_title(short(layer.name), fontsize=8.5, parse_math=False)
        places.append((layer, axes))
    return figure, places


# ------------------------------------------------------------------ all layers


def _all_layers(axes: Axes, run: Run, values: list[np.ndarray]) -> None:
    """One line per layer in the colour of its part."""
    colours = part_colours(run)
    _envelope(axes, run, values)
    for layer, line in zip(run.layers, values, strict=True):
        colour = colours[run.parts[layer.name]]
        draw_line(axes, layer.iter, line, color=colour, lw=0.8, alpha=0.65)


def angular_update(run: Run, chosen: Sequence[Motion] = ()) -> Figure | None:
    """Δ of all layers over the run, with the steps of Δ*."""
    values = [layer.angle for layer in run.layers]
    if span_of(values) is None:
        return None
    figure = new_figure()
    axes = figure.subplots()
    _all_layers(axes, run, values)
    equilibria = {layer.settings: layer for layer in run.layers}
    known = [e for e in equilibria.values() if np.isfinite(e.angle_eq).any()]
    for layer in known[:6]:
        _step(axes, layer.iter, layer.angle_eq, color='white', lw=2.6, zorder=4)
        _step(axes, layer.iter, layer.angle_eq, color='black', lw=1.4, zorder=5)
    low, high = span_of(values, 0.02)
    steps = [layer.angle_eq[layer.stage >= 0] for layer in run.layers]
    low, high = span_of([*steps, np.array([low, high])], 0.0)
    log_axis(axes, low, max(high, 1.2 * span_of(values)[1]))
    _time_axis(axes, run, inches=7)
    axes.set_ylabel('Δ (root mean square), rad / iteration')
    if len(known) == 1:
        _label_equilibria(axes, known[0], run.last_iter)
    black = [entry('Δ*, the theory', 'black', 1.5)] if known else []
    head(figure, 'Angular update Δ of every layer', [*_part_lines(run), *black])
    return figure


def _label_equilibria(axes: Axes, layer: Motion, last: int) -> None:
    for part in layer.stages:
        values = layer.angle_eq[part]
        held = layer.stage[part.start] >= 0 and np.ptp(values) <= 1e-3 * values[-1]
        if held and np.ptp(layer.iter[part]) > 0.08 * last:
            x, side = layer.iter[part][-1] / last, 'right'
            if np.ptp(layer.iter[part]) < 0.3 * last:
                # Above the next, lower step, where nothing else is.
                x, side = (layer.iter[part][0] + 0.01 * last) / last, 'left'
            text = f'Δ* = {values[-1]:.3g}'
            style = dict(zorder=6, weight='bold', ha=side)
            _direct(axes, values[-1], text, x, dy=6, **style)


def equilibrium(run: Run, chosen: Sequence[Motion] = ()) -> Figure | None:
    """Heat map layer by time of Δ/Δ*: who is not in equilibrium, and when."""
    if not any(np.isfinite(layer.ratio).any() for layer in run.layers):
        return None
    number = len(run.layers)
    figure = new_figure(1.5 + 0.135 * number)
    axes = figure.subplots()
    edges = heat_edges(run)
    picture = axes.pcolormesh(
        edges,
        np.arange(number + 1),
        heat(run, edges),
        cmap='RdBu_r',
        norm=LogNorm(0.1, 10),
        rasterized=True,
    )
    axes.set_facecolor('#d8d8d8')
    axes.invert_yaxis()
    every = max(1, number // 90)
    axes.set_yticks(np.arange(0, number, every) + 0.5)
    names = [short(layer.name) for layer in run.layers[::every]]
    axes.set_yticklabels(names, fontsize=6.5, parse_math=False)
    axes.tick_params(axis='y', length=0)
    _time_axis(axes, run, inches=5)
    axes.set_xlim(edges[0], edges[-1])
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(picture, ax=axes, pad=0.015, aspect=40, extend='both')
    ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10]
    bar.set_ticks(ticks, labels=[f'{tick:g}' for tick in ticks], minor=False)
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.set_label('Δ/Δ*: blue turns too slowly, red too fast')
    bar.outline.set_visible(False)
    head(figure, 'Who is in equilibrium: Δ/Δ* of every layer')
    return figure


def heat_edges(run: Run) -> np.ndarray:
    """Edges of the heat map's columns, by the layer with the most windows."""
    longest = max(run.layers, key=lambda layer: len(layer.iter))
    return split_points(longest.iter, HEAT_COLUMNS)


def heat(run: Run, edges: np.ndarray) -> np.ndarray:
    """Geometric mean of Δ/Δ* per layer and column; NaN where there is none."""
    rows = [
        np.exp(time_means(layer.iter, np.log(layer.ratio), edges))
        for layer in run.layers
    ]
    return np.array(rows)


def cosine(run: Run, chosen: Sequence[Motion] = ()) -> Figure | None:
    """|cosine(w, g)| of all layers, against what rounding gives."""
    values = [np.where(layer.cosine > 0, layer.cosine, np.nan) for layer in run.layers]
    span = span_of(values)
    if span is None:
        return None
    figure = new_figure()
    axes = figure.subplots()
    _all_layers(axes, run, values)
    high = max(span[1], 2.5 * COSINE_LEFT)
    log_axis(axes, span[0], high)
    axes.axhspan(COSINE_LEFT, high, color='#f6d9d5', lw=0, zorder=0)
    axes.axhline(COSINE_ROUNDING, color=INK, lw=0.9, ls='--')
    _direct(axes, COSINE_ROUNDING, 'float32 may round to this')
    _direct(axes, COSINE_LEFT, 'here: not scale-invariant', color='#8c2d04')
    _time_axis(axes, run, inches=7)
    axes.set_ylabel('|cosine(w, g)|, root mean square')
    head(figure, 'Cosine of weight and gradient: 0 by Lemma 1', _part_lines(run))
    return figure


# ------------------------------------------------------------------ chosen layers


def weight_norm(run: Run, chosen: Sequence[Motion]) -> Figure | None:
    """‖w‖ against w*_t."""
    figure, places = _panels(run, chosen, lambda layer: layer.norm)
    if figure is None:
        return None
    half = POINTS // 2
    for layer, axes in places:
        style = dict(color=COLOURS[1], zorder=3)
        draw_line(axes, layer.iter, layer.norm, half, color=COLOURS[0], lw=2.2)
        draw_line(axes, layer.iter, layer.norm_eq, half, band=True, lw=1.1, **style)
        kept = np.concatenate([layer.norm, layer.norm_eq])
        axes.set_ylim(0, 1.12 * np.quantile(kept[np.isfinite(kept)], 0.998))
    name = f'w*, from the mean of {run.layers[0].unit_name} over 200 iterations'
    lines = [entry('‖w‖', COLOURS[0], 2.2), entry(name, COLOURS[1])]
    known = any(np.isfinite(layer.norm_eq).any() for layer, _ in places)
    head(figure, 'Weight norm against its equilibrium', lines[: 1 + known])
    return figure


def unit_gradient(run: Run, chosen: Sequence[Motion]) -> Figure | None:
    """‖g̃‖² or h̃, its window means and the mean over 200 iterations."""
    figure, places = _panels(run, chosen, lambda layer: layer.unit)
    if figure is None:
        return None
    light, dark, half = '#8fb8d6', '#003f66', POINTS // 2
    for layer, axes in places:
        draw_line(axes, layer.iter, layer.unit, half, band=True, color=light, lw=0.7)
        draw_line(axes, layer.iter, layer.unit_mean, half, color=dark, lw=1.6)
        _unit_scale(axes, layer)
    name = run.layers[0].unit_name
    lines = [
        entry(f'{name}, means of windows', light),
        entry('L, mean over 200 iterations', dark, 1.6),
    ]
    head(figure, f'Unit gradient {name}', lines)
    return figure


def _unit_scale(axes: Axes, layer: Motion) -> None:
    """Logarithmic, or as near to it as negative values allow."""
    known = layer.unit[np.isfinite(layer.unit)]
    if (known > 0).all():
        log_axis(axes, *span_of([known]))
        return
    typical = float(np.median(np.abs(known))) or 1.0
    axes.set_yscale('symlog', linthresh=typical / 2, linscale=0.6)
    axes.axhline(0, color='#999999', lw=0.7, zorder=0)
    power = 10 ** np.floor(np.log10(typical))
    ticks = [-10 * power, -power, 0, power, 10 * power, 100 * power]
    low, high = known.min(), known.max()
    axes.yaxis.set_major_locator(FixedLocator([t for t in ticks if low <= t <= high]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))


def distance(run: Run, chosen: Sequence[Motion]) -> Figure | None:
    """Distance to equilibrium against the decay that the theorem guarantees."""
    figure, places = _panels(run, chosen, lambda layer: layer.distance)
    if figure is None:
        return None
    half = POINTS // 2
    for layer, axes in places:
        style = dict(color=COLOURS[0], lw=1.1)
        draw_line(axes, layer.iter, layer.distance, half, band=True, **style)
        draw_line(axes, layer.iter, layer.expected, color='black', lw=1.3)
        draw_line(axes, layer.iter, layer.guaranteed, color=COLOURS[1], lw=1.5, ls='--')
        low, high = span_of([layer.distance, layer.guaranteed], 0.01)
        log_axis(axes, max(low, high * 1e-3), high)
    lines = [
        entry('measured', COLOURS[0]),
        entry('expected: ‖w‖⁴ relaxes at 4λη/(1−α)', 'black', 1.4),
        entry("the theorem's guarantee, 2λη/(1−α)", COLOURS[1], 1.5, '--'),
    ]
    head(figure, 'Distance to equilibrium |‖w‖²/w*² − 1|', lines)
    return figure


FIGURES: dict[str, Callable[[Run, Sequence[Motion]], Figure | None]] = {
    'angular_update': angular_update,
    'equilibrium': equilibrium,
    'weight_norm': weight_norm,
    'unit_gradient': unit_gradient,
    'cosine': cosine,
    'distance': distance,
}
