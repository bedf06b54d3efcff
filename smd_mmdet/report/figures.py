"""The paper's figures for any run: one function a figure."""

from collections.abc import Callable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from smd_mmdet.checks import ANGLE_TOLERANCE, COSINE_LEFT, COSINE_ROUNDING

from .canvas import (
    COLOURS,
    INK,
    POINTS,
    STYLE,
    draw_line,
    draw_step,
    entry,
    envelope,
    head,
    layer_panels,
    log_axis,
    new_figure,
    part_colours,
    part_entries,
    plain_number,
    span_of,
    time_axis,
    write_at,
)
from .run import MEAN_OVER, Motion, Run, short
from .words import relaxation

__all__ = ['FIGURES', 'draw']

# Share of a line's values, the least of each stage, that an axis may cut off.
DIPS = 0.002


def draw(
    run: Run, layers: Sequence[str] = (), names: Sequence[str] = ()
) -> dict[str, Figure]:
    """The figures of a run that its records allow.

    Args:
        run: The run to draw.
        layers: Names of the layers that get panels of their own. If none are named,
            these are the middle layer of each part and the one furthest from
            equilibrium.
        names: Names of the figures to draw, or none for all of :data:`FIGURES`.

    Returns:
        The figures by name; a name is that of a file without its suffix.

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


# ------------------------------------------------------------------ all layers


def _all_layers(axes: Axes, run: Run, values: Sequence[np.ndarray]) -> None:
    """Draw one line per layer in the colour of its part, and the range of them all."""
    colours = part_colours(run)
    envelope(axes, run, values)
    for layer, line in zip(run.layers, values, strict=True):
        colour = colours[run.parts[layer.name]]
        draw_line(axes, layer.iter, line, color=colour, lw=0.8, alpha=0.65)


def angular_update(run: Run, chosen: Sequence[Motion] = ()) -> Figure | None:
    """Δ of all layers over the run, with the steps of Δ*."""
    values = [layer.angle for layer in run.layers]
    limits = _angle_limits(run, values)
    if limits is None:
        return None
    figure = new_figure()
    axes = figure.subplots()
    _all_layers(axes, run, values)
    equilibria = {layer.settings: layer for layer in run.layers}
    known = [e for e in equilibria.values() if np.isfinite(e.angle_eq).any()]
    for layer in known[:6]:
        draw_step(axes, layer.iter, layer.angle_eq, color='white', lw=2.6, zorder=4)
        draw_step(axes, layer.iter, layer.angle_eq, color='black', lw=1.4, zorder=5)
    log_axis(axes, *limits)
    time_axis(axes, run, inches=7)
    axes.set_ylabel('Δ (root mean square), rad / iteration')
    if len(known) == 1:
        _label_equilibria(axes, known[0], run.last_iter)
    black = [entry('Δ*, the theory', 'black', 1.5)] if known else []
    head(figure, 'Angular update Δ of every layer', [*part_entries(run), *black])
    return figure


def _angle_limits(run: Run, values: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """Limits that hold Δ of every layer, and Δ* of every stage."""
    steps = [layer.angle_eq[layer.stage >= 0] for layer in run.layers]
    inner = span_of([*run.pieces(lambda layer: layer.angle), *steps], DIPS)
    most = span_of(values)
    return inner and most and (inner[0], max(inner[1], most[1]))


def _label_equilibria(axes: Axes, layer: Motion, last: int) -> None:
    """Write the value of Δ* at each stage in which it holds still."""
    for part in layer.stages:
        values = layer.angle_eq[part]
        held = layer.stage[part.start] >= 0 and np.ptp(values) <= 1e-3 * values[-1]
        if held and np.ptp(layer.iter[part]) > 0.08 * last:
            x, side = layer.iter[part][-1] / last, 'right'
            if np.ptp(layer.iter[part]) < 0.3 * last:
                # Above the next, lower step, where nothing else is.
                x, side = (layer.iter[part][0] + 0.01 * last) / last, 'left'
            text = f'Δ* = {values[-1]:.3g}'
            write_at(axes, values[-1], text, x, dy=6, zorder=6, weight='bold', ha=side)


def equilibrium(run: Run, chosen: Sequence[Motion] = ()) -> Figure | None:
    """Heat map layer by time of Δ/Δ*: who is not in equilibrium, and when."""
    if not any(np.isfinite(layer.ratio).any() for layer in run.layers):
        return None
    number = len(run.layers)
    figure = new_figure(1.5 + 0.135 * number)
    axes = figure.subplots()
    edges, ratios = run.heat()
    picture = axes.pcolormesh(
        edges,
        np.arange(number + 1),
        ratios,
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
    time_axis(axes, run, inches=5)
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


def cosine(run: Run, chosen: Sequence[Motion] = ()) -> Figure | None:
    """|cosine(w, g)| of all layers, which is 0 by Lemma 1 but for rounding."""
    values = [np.where(layer.cosine > 0, layer.cosine, np.nan) for layer in run.layers]
    span = span_of(run.pieces(lambda layer: layer.cosine), DIPS)
    if span is None:
        return None
    figure = new_figure()
    axes = figure.subplots()
    _all_layers(axes, run, values)
    high = max(span[1], 2.5 * COSINE_LEFT)
    log_axis(axes, span[0], high)
    axes.axhspan(COSINE_LEFT, high, color='#f6d9d5', lw=0, zorder=0)
    axes.axhline(COSINE_ROUNDING, color=INK, lw=0.9, ls='--')
    write_at(axes, COSINE_ROUNDING, 'float32 may round to this')
    write_at(axes, COSINE_LEFT, 'here: not scale-invariant', color='#8c2d04')
    time_axis(axes, run, inches=7)
    axes.set_ylabel('|cosine(w, g)|, root mean square')
    head(figure, 'Cosine of weight and gradient: 0 by Lemma 1', part_entries(run))
    return figure


# ------------------------------------------------------------------ chosen layers


def weight_norm(run: Run, chosen: Sequence[Motion]) -> Figure | None:
    """‖w‖ against w*, which moves with the unit gradient."""
    panels = layer_panels(run, chosen, lambda layer: layer.norm)
    if panels is None:
        return None
    figure, places = panels
    half = POINTS // 2
    for layer, axes in places:
        style = dict(color=COLOURS[1], zorder=3)
        draw_line(axes, layer.iter, layer.norm, half, color=COLOURS[0], lw=2.2)
        draw_line(axes, layer.iter, layer.norm_eq, half, band=True, lw=1.1, **style)
        axes.set_ylim(0, 1.12 * _highest_norm(layer))
    name = f'w*, from the mean of {run.layers[0].unit_name} over {MEAN_OVER} iterations'
    lines = [entry('‖w‖', COLOURS[0], 2.2), entry(name, COLOURS[1])]
    known = any(np.isfinite(layer.norm_eq).any() for layer, _ in places)
    head(figure, 'Weight norm against its equilibrium', lines[: 1 + known])
    return figure


def _highest_norm(layer: Motion) -> float:
    """The greatest ‖w‖, with which a run often begins, and w* but for its spikes."""
    norm, target = (v[np.isfinite(v)] for v in (layer.norm, layer.norm_eq))
    return float(max([*norm, np.quantile(target, 0.998) if len(target) else 0.0]))


def unit_gradient(run: Run, chosen: Sequence[Motion]) -> Figure | None:
    """‖g̃‖², or h̃ with momentum: window means, and the mean over 200 iterations."""
    panels = layer_panels(run, chosen, lambda layer: layer.unit)
    if panels is None:
        return None
    figure, places = panels
    light, dark, half = '#8fb8d6', '#003f66', POINTS // 2
    for layer, axes in places:
        draw_line(axes, layer.iter, layer.unit, half, band=True, color=light, lw=0.7)
        draw_line(axes, layer.iter, layer.unit_mean, half, color=dark, lw=1.6)
        _unit_scale(axes, layer)
    name = run.layers[0].unit_name
    mean = run.layers[0].mean_name
    lines = [
        entry(f'{name}, means of windows', light),
        entry(f'{mean}, over {MEAN_OVER} iterations', dark, 1.6),
    ]
    what = 'Size of the update' if name == 'U' else 'Unit gradient'
    head(figure, f'{what} {name}', lines)
    return figure


def _unit_scale(axes: Axes, layer: Motion) -> None:
    """Make the axis logarithmic, or as near to it as negative values allow."""
    known = layer.unit[np.isfinite(layer.unit)]
    if (known > 0).all():
        parts = [layer.unit[part] for part in layer.stages]
        log_axis(axes, *(span_of(parts, 0.002) or (0.1, 1.0)))
        return
    typical = float(np.median(np.abs(known))) or 1.0
    axes.set_yscale('symlog', linthresh=typical / 2, linscale=0.6)
    axes.axhline(0, color='#999999', lw=0.7, zorder=0)
    power = 10 ** np.floor(np.log10(typical))
    ticks = [-10 * power, -power, 0, power, 10 * power, 100 * power]
    low, high = known.min(), known.max()
    axes.yaxis.set_major_locator(FixedLocator([t for t in ticks if low <= t <= high]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(plain_number))


def distance(run: Run, chosen: Sequence[Motion]) -> Figure | None:
    """Distance to equilibrium against the decay that the theorem guarantees."""
    panels = layer_panels(run, chosen, lambda layer: layer.distance)
    if panels is None:
        return None
    figure, places = panels
    half = POINTS // 2
    for layer, axes in places:
        style = dict(color=COLOURS[0], lw=1.1)
        draw_line(axes, layer.iter, layer.distance, half, band=True, **style)
        draw_line(axes, layer.iter, layer.expected, color='black', lw=1.3)
        draw_line(axes, layer.iter, layer.guaranteed, color=COLOURS[1], lw=1.5, ls='--')
        # The laws fall for ever, and the distance dips where the norm crosses w*.
        parts = [layer.distance[part] for part in layer.stages]
        log_axis(axes, *(span_of(parts, 0.05) or (0.1, 1.0)))
    lines = [entry('measured', COLOURS[0])]
    if any(np.isfinite(layer.expected).any() for layer, _ in places):
        way = relaxation(run.report.theory, run.clipped)
        lines.append(entry(f'expected: {way}', 'black', 1.4))
    if any(np.isfinite(layer.guaranteed).any() for layer, _ in places):
        label = "the theorem's guarantee, 2λη/(1−α)"
        lines.append(entry(label, COLOURS[1], 1.5, '--'))
    head(figure, 'Distance to equilibrium |‖w‖²/w*² − 1|', lines)
    return figure


def clipping(run: Run, chosen: Sequence[Motion] = ()) -> Figure | None:
    """How often gradients were clipped, and by how much; the same for all layers."""
    if not run.clipped:
        return None
    layer, half = run.longest, POINTS // 2
    figure = new_figure(3.0)
    axes = figure.subplots()
    style = dict(color=COLOURS[1], lw=1.3)
    draw_line(axes, layer.iter, layer.clipped_share, half, band=True, **style)
    style = dict(color=COLOURS[3], lw=1.3)
    draw_line(axes, layer.iter, layer.clip_coefficient, half, band=True, **style)
    axes.set_ylim(0, 1.05)
    time_axis(axes, run, inches=7)
    lines = [
        entry('share of clipped steps', COLOURS[1]),
        entry('mean clip coefficient', COLOURS[3]),
    ]
    head(figure, 'Clipping of gradients, means of windows', lines)
    return figure


def control(run: Run, chosen: Sequence[Motion] = ()) -> Figure | None:
    """How near Δ came to what a controller wanted, and what it took."""
    if not run.controlled:
        return None
    figure = new_figure(5.6)
    above, below = figure.subplots(2, 1, sharex=True)
    for axes, quantity in (
        (above, lambda layer: layer.wanted_ratio),
        (below, lambda layer: layer.factor),
    ):
        _all_layers(axes, run, [quantity(layer) for layer in run.layers])
        log_axis(axes, *(span_of(run.pieces(quantity), DIPS) or (0.5, 2.0)))
        axes.axhline(1, color=INK, lw=0.9, ls='--', zorder=1)
    near = 1 - ANGLE_TOLERANCE, 1 + ANGLE_TOLERANCE
    above.axhspan(*near, color='#dcebdc', lw=0, zorder=0)
    above.set_ylabel('Δ / wanted Δ')
    below.set_ylabel('factor on ‖w‖ since the start')
    time_axis(below, run, inches=7)
    head(figure, 'Wanted angular update, and what control took', part_entries(run))
    return figure


FIGURES: dict[str, Callable[[Run, Sequence[Motion]], Figure | None]] = {
    'angular_update': angular_update,
    'control': control,
    'equilibrium': equilibrium,
    'weight_norm': weight_norm,
    'unit_gradient': unit_gradient,
    'clipping': clipping,
    'cosine': cosine,
    'distance': distance,
}
