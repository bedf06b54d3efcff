"""The paper's figures for any run, drawn with matplotlib."""

from collections.abc import Callable, Sequence
from io import BytesIO

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from smd_mmdet.checks import COSINE_LEFT, COSINE_ROUNDING

from .motion import Motion, Run, short
from .reduce import min_max, split_points, time_means

__all__ = ['FIGURES', 'draw', 'part_colours', 'save', 'to_image']

# Okabe and Ito's colours, told apart also without colour vision; yellow is too pale
# for lines.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00')
OTHER = '#777777'
INK, FAINT, SHADE = '#222222', '#666666', '#ececec'

# A line is at most this many pixels wide, so more points cannot be seen.
BUCKETS = 500
HEAT_COLUMNS = 240

STYLE = {
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


def draw(run: Run, layers: Sequence[str] = ()) -> dict[str, Figure]:
    """All figures of a run that its records allow.

    Args:
        run: The run.
        layers: Names of those that get panels of their own; the middle layer of each
            part and the one furthest from equilibrium, if none are named.

    Returns:
        Figures by name, a name being that of a file without its suffix.

    Raises:
        ValueError: If a layer is not in the records.
    """
    chosen = [run.layer(name) for name in layers] or run.examples()
    figures = {}
    with mpl.rc_context(STYLE):
        for name, make in FIGURES.items():
            figure = make(run, chosen)
            if figure is not None:
                figures[name] = figure
    return figures


def save(figure: Figure, kind: str = 'png') -> bytes:
    """A figure as the bytes of a file.

    Args:
        figure: The figure.
        kind: 'png' or 'svg'.
    """
    file = BytesIO()
    # The same records give the same bytes: no date, no random ids.
    metadata = {'Date': None} if kind == 'svg' else None
    with mpl.rc_context({**STYLE, 'svg.hashsalt': 'smd'}):
        figure.savefig(file, format=kind, dpi=140, metadata=metadata)
    return file.getvalue()


def to_image(figure: Figure) -> np.ndarray:
    """A figure as RGB pixels, height by width by 3, for a visualizer."""
    canvas = FigureCanvasAgg(figure)
    with mpl.rc_context(STYLE):
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def part_colours(run: Run) -> dict[str, str]:
    """A colour for each part of the model; grey once they run out."""
    parts = list(dict.fromkeys(run.parts.values()))
    return {
        part: COLOURS[i] if i < len(COLOURS) else OTHER for i, part in enumerate(parts)
    }


# ------------------------------------------------------------------ common pieces


def _figure(title: str, height: float = 4.0, width: float = 8.0) -> Figure:
    figure = Figure(figsize=(width, height), layout='constrained')
    figure.get_layout_engine().set(h_pad=0.06, w_pad=0.06)
    figure.suptitle(title, x=0.012, ha='left', fontsize=11.5, weight='bold')
    return figure


def _line(axes: Axes, x: np.ndarray, y: np.ndarray, buckets=BUCKETS, **style) -> None:
    kept = min_max(y, buckets)
    axes.plot(x[kept], y[kept], **style)


def _step(axes: Axes, x: np.ndarray, y: np.ndarray, **style) -> None:
    """A line that jumps where its value does, its ends included."""
    start = np.concatenate([[True], np.diff(y) != 0])
    turns = np.union1d(np.flatnonzero(start), np.flatnonzero(start) - 1)
    turns = np.union1d(turns[turns >= 0], [len(y) - 1])
    if len(turns) > 4 * BUCKETS:
        turns = min_max(y, 2 * BUCKETS)
    axes.plot(x[turns], y[turns], **style)


def _time_axis(axes: Axes, run: Run, label: bool = True, names: bool = True) -> None:
    """Iterations below, warm-up shaded, stages told apart."""
    axes.set_xlim(0, run.last_iter)
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    if label:
        axes.set_xlabel('iteration')
    for stage in run.report.stages:
        if stage.stage < 0:
            axes.axvspan(0, stage.last_iter, color=SHADE, lw=0, zorder=0)
        elif stage.stage > 0:
            axes.axvline(stage.first_iter, color='#bbbbbb', lw=0.8, ls=':', zorder=0)
        if names:
            _name_stage(axes, stage, run.last_iter)


def _name_stage(axes: Axes, stage, last: int) -> None:
    """The stage's name above the axes, where there is room for it."""
    begin = 0 if stage.stage < 0 else stage.first_iter
    if stage.stage >= 0 and stage.last_iter - begin < 0.08 * last:
        return
    name = 'warm-up' if stage.stage < 0 else f'stage {stage.stage}, lr {stage.lr:.3g}'
    if stage.stage >= 0 and (begin < 0.1 * last and begin > 0):
        begin = max(begin, 0.1 * last)
    axes.annotate(
        name,
        (begin / last, 1.0),
        (2, 2),
        xycoords='axes fraction',
        textcoords='offset points',
        color=FAINT,
        fontsize=7.5,
        va='bottom',
        annotation_clip=False,
    )


def _thousands(value: float, _=None) -> str:
    if abs(value) >= 10_000:
        return f'{value / 1000:,.4g}k'
    return f'{value:,.0f}' if value == int(value) else f'{value:g}'


def _plain(value: float, _=None) -> str:
    """1e-3 as 0.001 and 1e-5 as 1e-5: what people write."""
    return f'{value:g}' if 1e-3 <= abs(value) < 1e5 or value == 0 else f'{value:.0e}'


def _log_axis(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis whose ticks are plain numbers, at least three of them."""
    axes.set_yscale('log')
    axes.set_ylim(low, high)
    decades = np.log10(high / low)
    steps = (1,) if decades > 4 else (1, 3) if decades > 2 else (1, 2, 5)
    powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    if decades > 8:
        powers = powers[:: int(decades // 5)]
    axes.yaxis.set_major_locator(FixedLocator([s * 10**p for p in powers for s in steps]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))


def _span(values: list[np.ndarray], share: float = 0.001) -> tuple[float, float] | None:
    """Limits of a logarithmic axis that leave out a vanishing share."""
    known = np.concatenate(values)
    known = known[np.isfinite(known) & (known > 0)]
    if not len(known):
        return None
    low, high = np.quantile(known, [share, 1 - share])
    return float(low) / 1.3, float(high) * 1.4


def _part_legend(figure: Figure, run: Run, extra: Sequence[Line2D] = ()) -> None:
    """Below the title, so that it covers nothing."""
    colours = part_colours(run)
    counts = {part: 0 for part in colours}
    for part in run.parts.values():
        counts[part] += 1
    shown = [part for part in colours if colours[part] != OTHER]
    lines = [
        Line2D([], [], color=colours[part], lw=2, label=f'{part} ({counts[part]})')
        for part in shown
    ]
    if len(shown) < len(colours):
        lines.append(Line2D([], [], color=OTHER, lw=2, label='other parts'))
    lines += extra
    for line in lines:
        line.set_label(line.get_label().replace('$', r'\$'))
    figure.legend(
        handles=lines, loc='outside upper left', ncols=min(len(lines), 5), handlelength=1.6
    )


def _direct(axes: Axes, y: float, text: str, x: float = 1.0, **style) -> None:
    """A label at a height of the data, by default at the right end of the axes."""
    where = dict(ha='right', va='bottom', fontsize=8, color=INK) | style
    label = axes.annotate(
        text, (x, y), (-3, 2), axes.get_yaxis_transform(), textcoords='offset points',
        **where,
    )  # fmt: skip
    label.set_path_effects([_halo()])


def _halo():
    from matplotlib.patheffects import withStroke

    return withStroke(linewidth=2.5, foreground='white')


def _panels(run: Run, chosen: Sequence[Motion], title: str, usable: Callable):
    """A figure with one pair of axes for each layer that has something to show."""
    layers = [layer for layer in chosen if usable(layer)]
    if not layers:
        return None, []
    columns = min(2, len(layers))
    rows = -(-len(layers) // columns)
    figure = _figure(title, 0.9 + 2.15 * rows, 8.6)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for place in grid.flat[len(layers) :]:
        place.remove()
    places = []
    for i, (layer, axes) in enumerate(zip(layers, grid.flat, strict=False)):
        below = i + columns >= len(layers)
        _time_axis(axes, run, label=below, names=False)
        axes.tick_params(labelbottom=below)
        axes.set_title(short(layer.name), fontsize=8.5, parse_math=False)
        places.append((layer, axes))
    return figure, places


# ------------------------------------------------------------------ all layers


def angular_update(run: Run, chosen: Sequence[Motion] = ()) -> Figure | None:
    """Δ of all layers over the run, with the steps of Δ*."""
    figure = _figure('Angular update Δ of every layer')
    axes = figure.subplots()
    colours = part_colours(run)
    for layer in run.layers:
        colour = colours[run.parts[layer.name]]
        _line(axes, layer.iter, layer.angle, color=colour, lw=0.7, alpha=0.65)
    settings = {layer.angle_eq.tobytes(): layer for layer in run.layers}
    for layer in list(settings.values())[:6]:
        _step(axes, layer.iter, layer.angle_eq, color='white', lw=3.2, zorder=4)
        _step(axes, layer.iter, layer.angle_eq, color='black', lw=1.5, zorder=5)
    span = _span([layer.angle for layer in run.layers])
    if span is None:
        return None
    known = [layer.angle_eq[layer.stage >= 0] for layer in run.layers]
    wanted = _span([*known, np.array(span)], 0.0)
    _log_axis(axes, *wanted)
    _time_axis(axes, run)
    axes.set_ylabel('Δ (root mean square), rad / iteration')
    if len(settings) == 1:
        _label_equilibria(axes, run.layers[0], run.last_iter)
    black = Line2D([], [], color='black', lw=1.5, label='Δ*, the theory')
    any_known = any(np.isfinite(layer.angle_eq).any() for layer in run.layers)
    _part_legend(figure, run, [black] if any_known else [])
    return figure


def _label_equilibria(axes: Axes, layer: Motion, last: int) -> None:
    for part in layer.stages:
        value = layer.angle_eq[part][-1]
        held = np.ptp(layer.angle_eq[part]) == 0 and layer.stage[part.start] >= 0
        if held and np.isfinite(value) and np.ptp(layer.iter[part]) > 0.08 * last:
            x = layer.iter[part][-1] / last
            _direct(axes, value, f'Δ* = {value:.3g}', x, zorder=6, weight='bold')


def equilibrium(run: Run, chosen: Sequence[Motion] = ()) -> Figure | None:
    """Heat map layer by time of Δ/Δ*: who is not in equilibrium, and when."""
    if not any(np.isfinite(layer.ratio).any() for layer in run.layers):
        return None
    number = len(run.layers)
    figure = _figure('Who is in equilibrium: Δ/Δ* of every layer', 1.5 + 0.135 * number)
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
    _time_axis(axes, run)
    axes.set_xlim(edges[0], edges[-1])
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(picture, ax=axes, pad=0.015, aspect=40, extend='both')
    ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10]
    bar.set_ticks(ticks, labels=[f'{tick:g}' for tick in ticks], minor=False)
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.set_label('Δ/Δ*: turns too slowly (blue), as predicted (white), too fast (red)')
    bar.outline.set_visible(False)
    return figure


def heat_edges(run: Run) -> np.ndarray:
    """Edges of the heat map's columns, by the layer with the most windows."""
    longest = max(run.layers, key=lambda layer: len(layer.iter))
    return split_points(longest.iter, HEAT_COLUMNS)


def heat(run: Run, edges: np.ndarray) -> np.ndarray:
    """Geometric mean of Δ/Δ* per layer and column; NaN where there is none."""
    rows = [
        np.exp(time_means(layer.iter, np.log(layer.ratio), edges)) for layer in run.layers
    ]
    return np.array(rows)


def cosine(run: Run, chosen: Sequence[Motion] = ()) -> Figure | None:
    """|cosine(w, g)| of all layers, against what rounding gives."""
    figure = _figure('Cosine of weight and gradient: 0 by Lemma 1')
    axes = figure.subplots()
    colours = part_colours(run)
    span = _span([layer.cosine for layer in run.layers])
    if span is None:
        return None
    for layer in run.layers:
        colour = colours[run.parts[layer.name]]
        values = np.where(layer.cosine > 0, layer.cosine, np.nan)
        _line(axes, layer.iter, values, color=colour, lw=0.7, alpha=0.65)
    high = max(span[1], 2 * COSINE_LEFT)
    _log_axis(axes, span[0], high)
    axes.axhspan(COSINE_LEFT, high, color='#f6d9d5', lw=0, zorder=0)
    axes.axhline(COSINE_ROUNDING, color=INK, lw=0.9, ls='--')
    _direct(axes, COSINE_ROUNDING, 'float32 may round to this')
    _direct(axes, COSINE_LEFT, 'above: not scale-invariant', color='#8c2d04')
    _time_axis(axes, run)
    axes.set_ylabel('|cosine(w, g)|, root mean square')
    _part_legend(figure, run)
    return figure


# ------------------------------------------------------------------ chosen layers


def weight_norm(run: Run, chosen: Sequence[Motion]) -> Figure | None:
    """‖w‖ against w*_t."""
    figure, places = _panels(
        run,
        chosen,
        'Weight norm ‖w‖ against its equilibrium w*',
        lambda layer: np.isfinite(layer.norm).any(),
    )
    for layer, axes in places:
        _line(axes, layer.iter, layer.norm_eq, color=COLOURS[1], lw=0.9, alpha=0.9)
        _line(axes, layer.iter, layer.norm, color=COLOURS[0], lw=1.8)
        kept = np.concatenate([layer.norm, layer.norm_eq[layer.stage >= 0]])
        kept = kept[np.isfinite(kept)]
        axes.set_ylim(0, 1.12 * np.quantile(kept, 0.998))
    _line_legend(figure, ('‖w‖', COLOURS[0], 1.8, '-'), ('w*, from h̃', COLOURS[1], 1, '-'))
    return figure


def unit_gradient(run: Run, chosen: Sequence[Motion]) -> Figure | None:
    """‖g̃‖² or h̃, its window means and the mean over 200 iterations."""
    name = run.layers[0].unit_name
    figure, places = _panels(
        run,
        chosen,
        f'Unit gradient {name}, and L, its mean over 200 iterations',
        lambda layer: np.isfinite(layer.unit).any(),
    )
    for layer, axes in places:
        _line(axes, layer.iter, layer.unit, color='#8fb8d6', lw=0.7)
        _line(axes, layer.iter, layer.unit_mean, color='#003f66', lw=1.6)
        _unit_scale(axes, layer)
    _line_legend(
        figure, (f'{name}, window means', '#8fb8d6', 1, '-'), ('L', '#003f66', 1.6, '-')
    )
    return figure


def _unit_scale(axes: Axes, layer: Motion) -> None:
    """Logarithmic, or as near to it as negative values allow."""
    span = _span([layer.unit])
    known = layer.unit[np.isfinite(layer.unit)]
    if span is None or (known > 0).all():
        _log_axis(axes, *(span or (0.1, 1)))
        return
    typical = float(np.median(np.abs(known)))
    axes.set_yscale('symlog', linthresh=typical / 2, linscale=0.6)
    axes.axhline(0, color='#999999', lw=0.7, zorder=0)
    power = 10 ** np.floor(np.log10(typical))
    ticks = [-power, 0, power, 10 * power, 100 * power]
    low, high = known.min(), known.max()
    axes.yaxis.set_major_locator(FixedLocator([t for t in ticks if low <= t <= high]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))


def distance(run: Run, chosen: Sequence[Motion]) -> Figure | None:
    """Distance to equilibrium against the decay that the theorem guarantees."""
    figure, places = _panels(
        run,
        chosen,
        'Distance to equilibrium |‖w‖²/w*² − 1|',
        lambda layer: np.isfinite(layer.distance).any(),
    )
    if figure is None:
        return None
    for layer, axes in places:
        _line(axes, layer.iter, layer.distance, color=COLOURS[0], lw=1.1)
        _line(axes, layer.iter, layer.expected, color='black', lw=1.3)
        _line(axes, layer.iter, layer.guaranteed, color=COLOURS[1], lw=1.4, ls='--')
        span = _span([layer.distance[layer.stage >= 0], layer.guaranteed], 0.01)
        _log_axis(axes, max(span[0], span[1] * 1e-4), span[1])
    _line_legend(
        figure,
        ('measured', COLOURS[0], 1.2, '-'),
        ('expected: ‖w‖⁴ relaxes at 4λη/(1−α)', 'black', 1.4, '-'),
        ("the theorems' bound, 2λη/(1−α)", COLOURS[1], 1.4, '--'),
    )
    return figure


def _line_legend(figure: Figure | None, *lines: tuple[str, str, float, str]) -> None:
    if figure is None:
        return
    handles = [
        Line2D([], [], color=colour, lw=width, ls=style, label=label)
        for label, colour, width, style in lines
    ]
    figure.legend(handles=handles, loc='outside upper left', ncols=len(handles))


FIGURES: dict[str, Callable[[Run, Sequence[Motion]], Figure | None]] = {
    'angular_update': angular_update,
    'equilibrium': equilibrium,
    'weight_norm': weight_norm,
    'unit_gradient': unit_gradient,
    'cosine': cosine,
    'distance': distance,
}
