"""The report over all layers: corrected verdicts, stages, the sentence at its top."""

from collections import Counter
from collections.abc import Iterable
from operator import itemgetter

import numpy as np

from smd_mmdet.recipes import in_context
from smd_mmdet.stages import WARMUP, stage_name
from smd_mmdet.theory import THEORIES

from .case import ANGLE_TOLERANCE
from .series import MIN_ITERATIONS
from .verdicts import (
    FAILS,
    HOLDS,
    IN_EQUILIBRIUM,
    LEVEL,
    MOVING,
    TOO_SHORT,
    UNDECIDED,
    LayerReport,
    Report,
    StageReport,
    StageSummary,
)
from .wanted import SHARE_WANTED

__all__ = ['correct_for_multiplicity', 'summarize']


def correct_for_multiplicity(layers: list[LayerReport]) -> None:
    """Keep a verdict 'fails' only where Holm's procedure over all tests rejects.

    Of many tests some fail by chance; those become undecided.

    Args:
        layers: The layers, whose checks are changed in place.
    """
    tested = [
        (check.p_value, check)
        for layer in layers
        for stage in layer.stages
        for check in stage.checks
        if check.p_value is not None
    ]
    tested.sort(key=itemgetter(0))
    rejecting = True
    for rank, (p_value, found) in enumerate(tested):
        rejecting = rejecting and p_value * (len(tested) - rank) < LEVEL
        if found.verdict == FAILS and not rejecting:
            found.verdict = UNDECIDED
            found.reason += f'; not significant among {len(tested)} tests'


def summarize(
    layers: list[LayerReport], theory_name: str, measured_iterations: int
) -> Report:
    """The report, once the verdicts on all layers are final.

    Args:
        layers: The layers with their stages and checks.
        theory_name: Key of the optimizer's theory in :data:`THEORIES`, or 'none'.
        measured_iterations: How many iterations the records' windows cover.
    """
    numbers = sorted({stage.stage for layer in layers for stage in layer.stages})
    summaries = [_summary(layers, number) for number in numbers]
    failing = sum(any(stage.failing for stage in layer.stages) for layer in layers)
    return Report(
        layers=layers,
        stages=summaries,
        verdict=_sentence(layers, summaries, failing, theory_name),
        exit_code=int(bool(failing) or _strays(summaries)),
        theory=theory_name,
        measured_iterations=measured_iterations,
        context=_context(summaries),
    )


def _context(summaries: list[StageSummary]) -> str:
    """The largest Δ* of a stage beside those of known recipes; empty without one.

    Where a controller sets Δ, Δ* tells nothing of the run.
    """
    if _of_control(summaries):
        return ''
    angles = [
        stage.median_angular_update_eq
        for stage in summaries
        if stage.stage != WARMUP and stage.median_angular_update_eq
    ]
    if not angles:
        return ''
    found = in_context(max(angles))
    return f'{found.text}; {found.outside}' if found.outside else found.text


def _summary(layers: list[LayerReport], number: int) -> StageSummary:
    stages = [s for layer in layers for s in layer.stages if s.stage == number]
    states = [stage.state for stage in stages]
    # A layer without a step in the stage had no rate.
    rates = [stage.lr for stage in stages if np.isfinite(stage.lr)]
    return StageSummary(
        stage=number,
        first_iter=min(stage.first_iter for stage in stages),
        last_iter=max(stage.last_iter for stage in stages),
        lr=_common_rate(rates),
        lr_range=(min(rates), max(rates)) if rates else None,
        layers=len(stages),
        in_equilibrium=states.count(IN_EQUILIBRIUM),
        states={state: states.count(state) for state in dict.fromkeys(states)},
        median_angular_update_ratio=_median(s.angular_update_ratio for s in stages),
        median_transient_ratio=_median(s.transient_ratio for s in stages),
        median_angular_update=_median(s.angular_update for s in stages),
        median_angular_update_eq=_median(s.angular_update_eq for s in stages),
        median_whiteness=_median(s.whiteness for s in stages),
        clipped_share=_median(s.clipped_share for s in stages),
        wanted_share=_share(stages),
        wanted_pairs=sum(stage.wanted_windows for stage in stages),
    )


def _share(stages: list[StageReport]) -> float | None:
    """The share of (layer, window) pairs in which Δ is near the wanted one."""
    pairs = sum(stage.wanted_windows for stage in stages)
    return sum(stage.wanted_near for stage in stages) / pairs if pairs else None


def _of_control(summaries: list[StageSummary]) -> tuple[float, int] | None:
    """The same over the whole run, and the number of pairs; None without control."""
    pairs = sum(summary.wanted_pairs for summary in summaries)
    if not pairs:
        return None
    near = sum((s.wanted_share or 0.0) * s.wanted_pairs for s in summaries)
    return near / pairs, pairs


def _strays(summaries: list[StageSummary]) -> bool:
    """Whether a controller has not brought Δ to where it is wanted."""
    found = _of_control(summaries)
    return found is not None and found[0] < SHARE_WANTED


def _common_rate(rates: list[float]) -> float:
    """The learning rate of most layers; the highest of those, if several are."""
    if not rates:
        return np.nan
    values, number = np.unique(rates, return_counts=True)
    return float(values[number == number.max()].max())


def _median(values: Iterable[float | None]) -> float | None:
    kept = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.median(kept)) if kept else None


def _sentence(
    layers: list[LayerReport],
    summaries: list[StageSummary],
    failing: int,
    theory_name: str,
) -> str:
    if not summaries:
        return 'no layer was measured'
    if theory_name not in THEORIES:
        return 'no theory for this optimizer: nothing to hold the records against'
    last = summaries[-1]
    parts = []
    if control := _of_control(summaries):
        parts.append(
            f'Δ is within {ANGLE_TOLERANCE:.0%} of the wanted in {control[0]:.1%} of '
            f'{control[1]:,} (layer, window) pairs after the first control'
        )
    if last.in_equilibrium or not control:
        parts.append(
            f'{last.in_equilibrium} of {last.layers} layers in equilibrium at the end '
            f'of {stage_name(last.stage)}'
        )
    parts += [
        f'{count} {state}'
        for state, count in last.states.items()
        if state != IN_EQUILIBRIUM
    ]
    if failing:
        number = f'{failing} layer{"s" * (failing != 1)}'
        parts.append(f'the theory fails in {number}: {_causes(layers)}')
    elif THEORIES[theory_name].indicative:
        title = THEORIES[theory_name].title
        parts.append(f'the law of {title} is indicative: figures, and no verdict')
    elif early := _too_early(layers):
        parts.append(early)
    elif not _tested(layers):
        parts.append('no conclusion of the theory could be tested')
    else:
        parts.append('no conclusion of the theory fails')
    return '; '.join(parts)


def _causes(layers: list[LayerReport]) -> str:
    """The checks that explain the failures, with what would explain the first."""
    # Of each layer, the last stage that fails.
    found = [
        stages[-1].failing[0]
        for layer in layers
        if (stages := [stage for stage in layer.stages if stage.failing])
    ]
    names = Counter(check.name for check in found)
    texts = []
    for name, number in names.most_common():
        first = next(check for check in found if check.name == name)
        why = f' ({first.cause or first.reason})'
        share = '' if number == len(found) else f' in {number}'
        texts.append(f'{name}{share}{why}')
    return ', '.join(texts)


def _tested(layers: list[LayerReport]) -> bool:
    """Whether a conclusion holds, or fails, in any layer and stage."""
    return any(
        check.kind == 'conclusion' and check.verdict in (HOLDS, FAILS)
        for layer in layers
        for stage in layer.stages
        for check in stage.checks
    )


def _too_early(layers: list[LayerReport]) -> str:
    """How many iterations a verdict needs, if no stage has had as many."""
    stages = [stage for layer in layers for stage in layer.stages]
    short = [stage for stage in stages if stage.state in (TOO_SHORT, MOVING)]
    if not short or any(_long_enough(stage) for stage in stages):
        return ''
    per_step = short[0].iterations_per_step
    longest = max(stage.last_iter - stage.first_iter + 1 for stage in short)
    waits = [stage.iterations_left for stage in short if stage.iterations_left]
    text = (
        f'too early: {longest:,} iterations of a stage were measured, a verdict needs '
        f'{MIN_ITERATIONS * per_step:,} at one rate'
    )
    if waits:
        text += (
            f', and equilibrium about {np.median(waits):,.0f} more in half the layers'
        )
    return text


def _long_enough(stage: StageReport) -> bool:
    """Whether a stage has the iterations that a verdict needs."""
    length = stage.last_iter - stage.first_iter + 1
    return length >= MIN_ITERATIONS * stage.iterations_per_step
