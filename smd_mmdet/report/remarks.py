"""What is to be known of a run beside its verdicts: clipping, correlation, recipes."""

import re
from collections.abc import Callable

import numpy as np

from smd_mmdet._text import scientific
from smd_mmdet.recipes import Context, in_context
from smd_mmdet.stages import stage_name
from smd_mmdet.theory import THEORIES

from .clipping import clipping_settings, percent, unforeseen
from .grouping import number, span
from .run import Motion, Run

__all__ = ['clipped', 'far_outside', 'remarks']

# From here on gradients of following steps are told to agree, or to disagree.
_WHITE = 0.1


def remarks(run: Run) -> list[str]:
    """Sentences on clipping, on how white gradients are, and on Δ beside recipes.

    Args:
        run: The run to speak of.

    Returns:
        The sentences; none where nothing is known.
    """
    return [_unbroken(said) for said in _remarks(run)]


def _remarks(run: Run) -> list[str]:
    return [*_recipes(run), *_clipping(run), *_whiteness(run)]


def _unbroken(text: str) -> str:
    """A text whose figures do not break at the end of a line: with a true minus."""
    return re.sub(r'(?<=\de)-(?=\d)', '−', text)


# ------------------------------------------------------------------ clipping


def clipped(run: Run) -> tuple[float, float] | None:
    """How often gradients were clipped, and by how much.

    Args:
        run: The run to speak of.

    Returns:
        The share of steps, and the mean of what gradients were multiplied by in all
        steps; None if that is not known.
    """
    layer = run.longest
    known = np.isfinite(layer.columns['clipped_share']) & (layer.count > 0)
    if not known.any():
        return None
    names, count = ('clipped_share', 'clip_coefficient_mean'), layer.count[known]
    share, coefficient = (
        float(np.average(layer.columns[name][known], weights=count)) for name in names
    )
    return share, coefficient


def _clipping(run: Run) -> list[str]:
    metadata = run.metadata.get('clipping') or {}
    settings = clipping_settings(metadata)
    beside = f' ({settings})' if settings else ''
    known = clipped(run)
    if metadata.get('type') == 'value' or (known is None and metadata):
        why = unforeseen(None, metadata, np.nan)
        return [
            f'{why[0].upper()}{why[1:]}{beside}: what is to come is not predicted, and '
            'by how much they were clipped is not known.'
        ]
    if known is None:
        return []
    share, coefficient = known
    if share == 0:
        return [f'No step was clipped{beside}.'] if metadata else []
    return [
        f'Gradients were clipped in {percent(share)} of the steps{beside}, and '
        f'multiplied by {number(coefficient)} on average. {_means(run)}'
    ]


def _means(run: Run) -> str:
    """What clipping means for the law of the optimizer."""
    law = THEORIES.get(run.report.theory)
    if law is None or not law.norm_law:
        return 'What that means for the norms is not derived.'
    if not law.clips:
        return (
            f'{law.title} divides by the size of the gradient: clipping does not '
            'change its law.'
        )
    last = run.report.stages[-1].stage if run.report.stages else 0
    powers = [layer.clipping_power[layer.stage == last] for layer in run.layers]
    exponent = law.exponent - float(np.median([np.mean(p) for p in powers if len(p)]))
    if exponent == law.exponent:
        return f'In {stage_name(last)} that was none: w* goes with η^(1/{exponent:g}).'
    return (
        'A clipped gradient does not grow as the weights shrink, so that in '
        f'{stage_name(last)} w* goes with η^(1/{exponent:.3g}) (median layer), where '
        f'it would go with η^(1/{law.exponent}) without clipping and with '
        f'η^(1/{law.exponent - 2}) if every step were clipped. Where the rate is '
        f'divided by k, weights belong divided by k^(1/{exponent:.3g}).'
    )


# ------------------------------------------------------------------ correlation


def _whiteness(run: Run) -> list[str]:
    """How far gradients of following steps agree in the last stage."""
    if not run.report.stages:
        return []
    last = run.report.stages[-1]
    middle = last.median_whiteness
    if middle is None or not any((layer.momentum > 0).any() for layer in run.layers):
        return []  # without momentum h̃ is ‖g̃‖²
    if middle > 1 + _WHITE:
        what = 'gradients of following steps point the same way, which makes w* larger'
    elif middle < 1 - _WHITE:
        what = 'gradients of following steps point apart, which makes w* smaller'
    else:
        what = 'gradients of following steps are all but uncorrelated (white)'
    every = span(
        stage.whiteness
        for layer in run.report.layers
        for stage in layer.stages
        if stage.stage == last.stage
    )
    return [
        f'E[h̃]/E‖g̃‖² is {number(middle)} in the median layer in '
        f'{stage_name(last.stage)} ({every} over all): {what}.'
    ]


# ------------------------------------------------------------------ recipes


def _recipes(run: Run) -> list[str]:
    """Δ of the run beside that of known recipes."""
    measured = _of_median(run, lambda layer: layer.angle)
    if measured is None:
        return []
    _, mean, total = measured
    said = (
        f'the median layer turned by {scientific(mean)} rad an iteration on average '
        f'and by {number(total)} rad in all'
    )
    context = _context(run)
    if context is None:
        return [f'{said[0].upper()}{said[1:]}.']
    return [f'{context.text}. Measured, {said}.']


def far_outside(run: Run) -> list[str]:
    """What to say if Δ* is far from that of all known recipes.

    Args:
        run: The run to speak of. The sum over its training counts once it has ended.

    Returns:
        A sentence or two; none if it is not.
    """
    context = _context(run, ended=True)
    if context is None or context.outside is None:
        return []
    said = (
        f'{context.outside[0].upper()}{context.outside[1:]}. Whether layers are at '
        'their Δ* says nothing of whether Δ* is a sensible angle; it goes with √(λη).'
    )
    return [_unbroken(said)]


def _context(run: Run, ended: bool = False) -> Context | None:
    """Δ* of the median layer beside that of known recipes.

    Args:
        run: The run to speak of.
        ended: Whether to leave out the sum over a training that is not measured whole.
    """
    found = _of_median(run, lambda layer: layer.angle_eq)
    if found is None:
        return None
    highest, _, total = found
    whole = run.metadata.get('max_iters') or np.inf
    left_out = ended and run.report.measured_iterations < whole
    return in_context(highest, None if left_out else total)


def _of_median(
    run: Run, take: Callable[[Motion], np.ndarray]
) -> tuple[float, float, float] | None:
    """Highest value, mean and sum of an angle over the run, of the median layer."""
    found = []
    for layer in run.layers:
        angles = take(layer)
        known = np.isfinite(angles) & (layer.count > 0)
        if known.any():
            steps = layer.count[known]
            total = float(angles[known] @ steps)
            found.append((angles[known].max(), total / steps.sum(), total))
    middle = np.median(found, axis=0) if found else np.zeros(3)
    if not middle.all():
        return None
    highest, mean, total = map(float, middle)
    return highest, mean, total
