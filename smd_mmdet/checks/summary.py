"""The report over all layers: corrected verdicts, stages, the sentence at its top."""

from collections.abc import Iterable
from operator import itemgetter

import numpy as np

from smd_mmdet.stages import stage_name
from smd_mmdet.theory import THEORIES

from .verdicts import (
    FAILS,
    IN_EQUILIBRIUM,
    LEVEL,
    UNDECIDED,
    LayerReport,
    Report,
    StageSummary,
)

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
        verdict=_sentence(summaries, failing, theory_name),
        exit_code=int(bool(failing)),
        theory=theory_name,
        measured_iterations=measured_iterations,
    )


def _summary(layers: list[LayerReport], number: int) -> StageSummary:
    stages = [s for layer in layers for s in layer.stages if s.stage == number]
    states = [stage.state for stage in stages]
    return StageSummary(
        stage=number,
        first_iter=min(stage.first_iter for stage in stages),
        last_iter=max(stage.last_iter for stage in stages),
        lr=float(np.mean([stage.lr for stage in stages])),
        layers=len(stages),
        in_equilibrium=states.count(IN_EQUILIBRIUM),
        states={state: states.count(state) for state in dict.fromkeys(states)},
        median_angular_update_ratio=_median(s.angular_update_ratio for s in stages),
        median_transient_ratio=_median(s.transient_ratio for s in stages),
    )


def _median(values: Iterable[float | None]) -> float | None:
    kept = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.median(kept)) if kept else None


def _sentence(summaries: list[StageSummary], failing: int, theory_name: str) -> str:
    if not summaries:
        return 'no layer was measured'
    if theory_name not in THEORIES:
        return 'no theory for this optimizer: nothing to hold the records against'
    last = summaries[-1]
    parts = [
        f'{last.in_equilibrium} of {last.layers} layers in equilibrium at the end of '
        f'{stage_name(last.stage)}'
    ]
    parts += [
        f'{count} {state}'
        for state, count in last.states.items()
        if state != IN_EQUILIBRIUM
    ]
    if failing:
        parts.append(f'the theory fails in {failing} layer{"s" * (failing != 1)}')
    else:
        parts.append('no conclusion of the theory fails')
    return '; '.join(parts)
