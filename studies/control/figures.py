"""The figures of the page."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from smd_mmdet.report.canvas import (
    COLOURS,
    INK,
    entry,
    head,
    log_axis,
    new_figure,
    panel_grid,
    plain_number,
    save,
)

from .results import SMOOTH, Block
from .runs import BASE, DECAYS, SETTINGS, VARIANTS, swept

__all__ = ['decay_figure', 'replay_figure', 'schedule_figure', 'sweep_figure']

CONTROLLED, PLAIN = COLOURS[0], COLOURS[1]
OPTIMIZERS = {'sweep-sgd': 'SGD', 'sweep-adamw': 'AdamW'}
LINES = (entry('plain', PLAIN), entry('Δ controlled', CONTROLLED))


def decay_figure(blocks: Sequence[Block]) -> bytes:
    """Accuracy over weight decay: the mean over seeds, and their range."""
    figure = new_figure(3.4)
    grid = figure.subplots(1, len(blocks), squeeze=False)[0]
    for axes, block in zip(grid, blocks, strict=True):
        for end, colour, shift in (('', PLAIN, 1.04), ('-set', CONTROLLED, 0.96)):
            names = {factor: f'decay_{factor:g}{end}' for factor in DECAYS}
            known = {
                factor: 100 * np.array(list(block.values(name, 'accuracy').values()))
                for factor, name in names.items()
                if block.values(name, 'accuracy')
            }
            _bars(axes, known, colour, shift)
        axes.set_xscale('log', base=2)
        axes.set_xticks(DECAYS, ['÷16', '÷4', '1', '×4', '×16'])
        axes.set_title(block.data)
        axes.set_xlabel('weight decay, relative to the reference')
    grid[0].set_ylabel('accuracy at the end, %')
    head(figure, 'Accuracy over weight decay', LINES)
    return save(figure)


def _bars(
    axes: Axes, values: Mapping[float, np.ndarray], colour: str, shift: float
) -> None:
    """Means over seeds, joined by a line, and bars from the lowest to the highest."""
    x = np.array(list(values))
    means = np.array([found.mean() for found in values.values()])
    low = means - [found.min() for found in values.values()]
    high = [found.max() for found in values.values()] - means
    style = dict(color=colour, marker='o', ms=4, lw=1.3, capsize=3)
    axes.errorbar(x * shift, means, [low, high], **style)


def replay_figure(block: Block) -> bytes:
    """Loss in training with and without replay, a panel for each change."""
    figure, grid = panel_grid(len(VARIANTS), sharex=True, sharey=True)
    for axes, (title, run) in zip(grid, VARIANTS.items(), strict=True):
        for name, colour in (
            (BASE.name, INK),
            (run.name, PLAIN),
            (f'{run.name}-replay', CONTROLLED),
        ):
            _draw_curves(axes, block.curves(name), colour, band=name == BASE.name)
        axes.set_title(title, fontsize=8.5)
        axes.set_yscale('log')
        axes.yaxis.set_major_formatter(FuncFormatter(plain_number))
        axes.yaxis.set_minor_formatter(FuncFormatter(plain_number))
    figure.supxlabel('iteration', fontsize=9)
    figure.supylabel('loss in training', fontsize=9)
    lines = [entry('reference', INK), entry('changed', PLAIN)]
    lines.append(entry('changed, Δ replayed', CONTROLLED))
    head(figure, f'Replay on {block.data}', lines)
    return save(figure, dpi=110)


def _draw_curves(
    axes: Axes, curves: Mapping[int, np.ndarray], colour: str, band: bool
) -> None:
    """The mean of the logarithms over seeds, and their range."""
    if not curves:
        return
    values = np.array(list(curves.values()))
    x = SMOOTH * (np.arange(values.shape[1]) + 0.5)
    axes.plot(x, np.exp(values.mean(0)), color=colour, lw=1.2)
    if band:
        low, high = np.exp(values.min(0)), np.exp(values.max(0))
        axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def schedule_figure(block: Block) -> bytes:
    """Δ and loss of the schedules, a column for each of the two."""
    columns = {
        'constant, then cosine': ('late_rate', 'late_equilibrium', 'late_angle-set'),
        'rate ÷10': ('drop_plain', 'drop_rescaled', 'drop_equilibrium'),
    }
    colours = (PLAIN, COLOURS[2], CONTROLLED)
    figure = new_figure(5.2)
    grid = figure.subplots(2, 2, sharex=True, sharey='row')
    for (title, names), (upper, lower) in zip(columns.items(), grid.T, strict=True):
        upper.set_title(title)
        lower.set_xlabel('iteration')
        for name, colour in zip(names, colours, strict=True):
            found = block.runs.get(name, {}).values()
            if found:
                angles = np.median([each['angles'] for each in found], axis=(0, 2))
                ends = np.array([0, *next(iter(found))['ends']])
                upper.stairs(angles, ends, color=colour, lw=1.2, baseline=None)
            _draw_curves(lower, block.curves(name), colour, band=False)
        log_axis(upper, 5e-4, 3e-2)
        log_axis(lower, 0.4, 2.0)
    grid[0, 0].set_ylabel('Δ, rad per iteration')
    grid[1, 0].set_ylabel('loss in training')
    titles = ('plain', 'Δ of equilibrium (left), rescaled (right)')
    titles = (*titles, 'Δ as scheduled (left), Δ of equilibrium (right)')
    lines = [entry(t, c) for t, c in zip(titles, colours, strict=True)]
    head(figure, f'Schedules on {block.data}', lines)
    return save(figure, dpi=110)


def sweep_figure(blocks: Sequence[Block]) -> bytes:
    """Loss at the end over the peak of the rate and over that of Δ.

    Args:
        blocks: The sweeps of one data set, of SGD and of AdamW.
    """
    figure = new_figure(5.6)
    grid = figure.subplots(2, len(blocks), squeeze=False, sharey=True)
    lowest = np.inf
    for (upper, lower), block in zip(grid.T, blocks, strict=True):
        upper.set_title(OPTIMIZERS[block.question])
        for axes, by_angle in ((upper, False), (lower, True)):
            for number, setting in enumerate(SETTINGS):
                names, peaks = swept(block.question, setting, by_angle)
                losses = [block.mean(name, 'loss').mean for name in names]
                axes.plot(peaks, losses, color=COLOURS[number], marker='o', ms=3, lw=1)
                lowest = min([lowest, *filter(np.isfinite, losses)])
            axes.set_xscale('log')
            axes.set_xlabel('peak of Δ, rad' if by_angle else 'peak of the rate')
    # What is far above has learned nothing, or has gone beyond all bounds.
    grid[0, 0].set_ylim(0.9 * lowest, 2.5 * lowest)
    for axes in grid[:, 0]:
        axes.set_ylabel('loss at the end')
    lines = [
        entry(f'decay {"÷4" if decay < 1 else "×4"}, batch {batch}', COLOURS[number])
        for number, (decay, batch) in enumerate(SETTINGS)
    ]
    head(figure, f'The best peak on {blocks[0].data}', lines)
    return save(figure, dpi=110)
