"""What a plan says in words: warnings with their remedy, notes, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from smd_mmdet._text import about, scientific
from smd_mmdet.config.optimizer import Optimizer
from smd_mmdet.recipes import in_context
from smd_mmdet.stages import WARMUP

from .course import Course
from .measured import LayerPlan
from .rescaling import Rescaling
from .stages import (
    CLIMB,
    TOLERANCE,
    TYPICAL_RMS,
    TYPICAL_START,
    Ends,
    StagePlan,
    usual_start,
)

__all__ = ['verdict', 'warnings', 'with_words']

_RESCALING = {
    'none': 'without rescaling',
    'steps': 'with rescaling at steps of the rate only',
    'all': 'even with rescaling at every change of the rate',
}
_FROZEN_NORMS = (
    "the backbone's norms are frozen: the plan holds only with norm_eval=False, "
    'frozen_stages=-1 (smd audit tells)'
)
_BY_VALUE = (
    'clip_grad clips by value, which bends the gradient: nothing to forecast; clip by '
    'norm (max_norm), and there is'
)
_WITHOUT_LAW = {
    'lamb': (
        'LAMB turns every weight by Δ ≈ η, whatever its norm and the decay: there is '
        'no equilibrium to wait for'
    ),
    'adam': (
        'Adam with L2 decay has an equilibrium that differs from layer to layer: no '
        'one Δ* can be told before a run is measured'
    ),
}


def with_words(stages: Sequence[StagePlan], course: Course) -> list[StagePlan]:
    """The stages of a plan, each with its warning and its note if it needs one.

    Args:
        stages: The stages, with their forecasts.
        course: The schedule, the optimizer, and where weights are rescaled.

    Returns:
        The same stages.
    """
    found, before = [], None
    last = {stage.stairs: stage for stage in stages}
    for stage in stages:
        if stage.stage != WARMUP:
            note = _note(stage, course)
            if stage.stairs is not None:
                whole = stage.stage == stage.stairs
                note = _of_stairs(stage, last[stage.stairs], course) if whole else None
            stage = replace(stage, warning=_warning(stage, before, course), note=note)
            before = before or stage
        found.append(stage)
    return found


def warnings(
    optimizer: Optimizer,
    norms_frozen: bool,
    waits_for_scores: Sequence[str],
    stages: Sequence[StagePlan],
    layers: Sequence[LayerPlan],
    kind: str,
    controlled: bool = False,
) -> list[str]:
    """What stands in the way of equilibrium, and the remedy.

    Args:
        optimizer: The optimizer.
        norms_frozen: Whether the config freezes normalization layers.
        waits_for_scores: Names of the schedulers that wait for scores.
        stages: The stages, with their warnings.
        layers: The layers that were measured.
        kind: Which of the two forecasts is the config's own.
        controlled: Whether Δ is set, whatever the equilibrium is.

    Returns:
        A sentence each.
    """
    if not controlled and (why := _no_equilibrium(optimizer)):
        return [why]
    return [
        *([_FROZEN_NORMS] if norms_frozen else []),
        *map(_unknown_rate, waits_for_scores),
        *(stage.warning for stage in stages if stage.warning),
        *_of_layers(layers, kind),
    ]


def _no_equilibrium(optimizer: Optimizer) -> str:
    """Why there is none to plan for; '' if there is."""
    if optimizer.clipping == 'value':
        return _BY_VALUE
    if optimizer.known is None:
        return f'no equilibrium is derived for {optimizer.name}: nothing to forecast'
    if not optimizer.weight_decay > 0:
        return 'weight_decay is 0: without decay there is no equilibrium'
    return ''


def _unknown_rate(scheduler: str) -> str:
    return (
        f'{scheduler} lowers the rate where scores stop to improve, which nobody knows '
        'in advance: the plan holds as long as it has not'
    )


def verdict(
    stages: Sequence[StagePlan],
    optimizer: Optimizer,
    rescaling: Rescaling,
    waits_for_scores: Sequence[str] = (),
) -> str:
    """The plan in one sentence.

    Args:
        stages: The stages, with their forecasts.
        optimizer: The optimizer.
        rescaling: Where weights are rescaled.
        waits_for_scores: Names of the schedulers that wait for scores.

    Returns:
        How many stages come to equilibrium, and whether the first does from where
        layers usually start; or why that is not known.
    """
    if optimizer.clipping == 'value':
        return 'no theory for gradients that are clipped by value'
    if optimizer.known is None:
        return f'no theory for {optimizer.name}'
    if not optimizer.weight_decay > 0:
        return 'no weight decay, no equilibrium'
    if not optimizer.known.norm_law:
        return _WITHOUT_LAW.get(
            optimizer.theory,
            f'{optimizer.known.title}: Δ* is known, the way there is not',
        )
    if optimizer.known.indicative:
        return (
            f'{optimizer.known.title}: the forecast is a rough one, no stage is judged'
        )
    usual = f'start at {TYPICAL_START:g} times its norm, as is usual'
    if optimizer.known.exponent == 2:
        usual = f'start with numbers near {TYPICAL_RMS:g}, as is usual'
    said = _of_stages(stages, rescaling, usual)
    if waits_for_scores:
        said += f'; the rate is not known in advance ({", ".join(waits_for_scores)})'
    return said


def _of_stages(stages: Sequence[StagePlan], rescaling: Rescaling, usual: str) -> str:
    parts = []
    judged = [stage for stage in stages if stage.reaches is not None]
    unreached = [stage for stage in judged if not stage.reaches]
    if unreached:
        parts.append(
            f'{_count(unreached, judged)} cannot reach equilibrium '
            f'{_RESCALING[rescaling.changes]}{_which(unreached, judged)}'
        )
    elif judged:
        be = 'is' if len(judged) == 1 else 'are'
        parts.append(f'{_count(judged, judged)} {be} long enough for equilibrium')
    # The first stage may be long enough for some layers, and not for the usual start.
    first = next((stage for stage in stages if stage in judged), None)
    needed = first and first.iterations_to_equilibrium
    if first and first.reaches and needed and needed > first.iterations:
        parts.append(f'stage {first.stage} is too short for layers that {usual}')
    open_ones = [stage for stage in stages if stage.reaches is None]
    if annealed := [stage for stage in open_ones if stage.anneals]:
        verbs = ('anneals', 'leaves') if len(annealed) == 1 else ('anneal', 'leave')
        parts.append(
            f'{_named(annealed)} {verbs[0]}, and {verbs[1]} equilibrium as any such '
            'schedule must'
        )
    if unsure := [s for s in open_ones if s.always_clipped and not s.anneals]:
        parts.append(
            f'for {_named(unsure)} it depends on how often the gradient is clipped'
        )
    return '; '.join(parts) or 'nothing but a warm-up'


def _count(some: Sequence[StagePlan], judged: Sequence[StagePlan]) -> str:
    if len(judged) == 1:
        return _named(some)
    return f'{len(some)} of {len(judged)} stages'


def _which(some: Sequence[StagePlan], judged: Sequence[StagePlan]) -> str:
    numbers = ', '.join(str(stage.stage) for stage in some)
    return '' if len(judged) == 1 else f': stage {numbers}'


def _named(stages: Sequence[StagePlan]) -> str:
    numbers = [stage.stage for stage in stages]
    if len(numbers) > 3 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f'stages {numbers[0]} to {numbers[-1]}'
    return f'stage{"s" * (len(stages) > 1)} {", ".join(map(str, numbers))}'


def _of_layers(layers: Sequence[LayerPlan], kind: str) -> list[str]:
    """The stages at whose end measured layers are not in equilibrium."""
    found = []
    for number in sorted({s.stage for layer in layers for s in layer.stages}):
        if number == WARMUP:
            continue
        ends = [s for layer in layers for s in layer.stages if s.stage == number]
        late = sum(s.reaches is False for s in ends)
        if late:
            own = [s.plain if kind == 'plain' else s.rescaled for s in ends]
            lowest = min(end.end_ratio for end in own)
            found.append(
                f'measured: {late} of {len(ends)} layers will not be in equilibrium at '
                f'the end of stage {number} (lowest Δ/Δ* {lowest:.2f})'
            )
    return found


def _warning(stage: StagePlan, first: StagePlan | None, course: Course) -> str | None:
    """The warning of a stage; ``first`` is the first one, None if this is the one."""
    own = stage.forecast(course.kind)
    if own is None or course.law.indicative:
        return None
    if not stage.steady:
        return _too_fast(stage, own, course) if stage.reaches is False else None
    if stage.lr_start <= 0:
        return f'stage {stage.stage} has a learning rate of 0: nothing moves'
    if stage.anneals:
        return None
    if first is None:
        return _short_start(stage, course)
    found = []
    # Under AdamW a norm that is far from w* stays as it is, and no remedy helps.
    far = course.law.exponent == 2 and first.reaches is False
    if stage.reaches is False and not far:
        found.append(_too_short(stage, own, course))
    if own.climb >= CLIMB:
        found.append(_climb(stage, own, course))
    return '; '.join(found) or None


def _too_fast(stage: StagePlan, own: Ends, course: Course) -> str:
    return (
        f'stage {stage.stage} moves the learning rate from {stage.lr_start:.3g} to '
        f'{stage.lr_end:.3g} faster than norms can follow: Δ will be {_span(own)} of '
        f'its equilibrium; {_remedy(stage, course)}'
    )


def _short_start(stage: StagePlan, course: Course) -> str | None:
    """The forecast of the first stage begins at equilibrium; real layers do not."""
    start = usual_start(course)
    needed = stage.iterations_to_equilibrium or 0.0
    if needed <= stage.iterations:
        return None
    if course.law.exponent == 2:
        return (
            f'stage {stage.stage} lasts {stage.iterations:,} iterations: weights '
            f'usually begin with numbers near {TYPICAL_RMS:g}, at {start:.2g} w*, and '
            f'need {about(needed)} to come to equilibrium: Δ is set by the rate and by '
            'the norm they begin with, hardly by the decay'
        )
    if stage.reachable_from is None or stage.reachable_from >= start:
        return None
    return (
        f'stage {stage.stage} lasts {stage.iterations:,} iterations: layers come to '
        f'equilibrium if they start within {stage.reachable_from:.3g} times its norm; '
        f'from {start:g} times, usual under default initialization, it takes '
        f'{about(needed)}; '
        f'{_more_decay(stage, course, "start at equilibrium")}'
    )


def _too_short(stage: StagePlan, own: Ends, course: Course) -> str:
    needed = stage.iterations_to_equilibrium or 0.0
    return (
        f'stage {stage.stage} lasts {stage.iterations:,} iterations; Δ comes to within '
        f'{TOLERANCE:.0%} of its equilibrium after {about(needed)}: Δ will be '
        f'{_span(own)} of its equilibrium; {_remedy(stage, course)}'
    )


def _climb(stage: StagePlan, own: Ends, course: Course) -> str:
    remedy = '' if course.rescaling.changes == 'all' else ', or rescale at the drop'
    span = f'{scientific(own.start)} → {scientific(own.end)}'
    return (
        f'Δ climbs {own.climb:.2g}-fold within stage {stage.stage}, {span} rad: the '
        'paper (section 4.2) sees in such a climb why accuracy falls late in a stage; '
        f'end the stage earlier{remedy}'
    )


def _span(own: Ends) -> str:
    return f'{own.start_ratio:.2f} → {own.end_ratio:.2f}'


def _remedy(stage: StagePlan, course: Course) -> str:
    """What would bring a stage to equilibrium, given the changes followed already."""
    changes = course.rescaling.changes
    if changes == 'all':
        return _more_decay(stage, course)
    followed = stage.rescaled
    helps = followed is not None and abs(followed.end_ratio - 1) <= TOLERANCE
    if changes == 'none' and helps:
        return _more_decay(stage, course, 'rescale')
    return _more_decay(
        stage,
        course,
        'rescale at every change of the rate (SMDRescaleHook, continuous=True)',
    )


def _more_decay(stage: StagePlan, course: Course, other: str = '') -> str:
    """The remedy of more decay beside another, with what it makes of Δ*."""
    said = f'{other}, or ' if other else ''
    decay = stage.suggested_decay
    if decay is None:  # none is enough
        return other or 'raise weight decay'
    highest = int(course.schedule.lr.argmax())
    angle = course.angle(highest, decay=decay / course.optimizer.weight_decay) or 0.0
    if other and angle and in_context(angle).outside:
        return (
            f'{other} (more weight decay is no way: it takes {decay:.2g}, with a Δ* of '
            f'{scientific(angle)} rad at the highest rate)'
        )
    if course.optimizer.same_angle:  # which sets the decay
        return f'{said}raise angular_update to {scientific(angle)}'
    return (
        f'{said}raise weight decay to {decay:.2g} (Δ* {scientific(angle)} rad at its '
        'highest)'
    )


def _of_stairs(first: StagePlan, last: StagePlan, course: Course) -> str | None:
    """What is to be known of stages in which the rate falls bit by bit."""
    own = last.forecast(course.kind)
    if own is None:
        return None
    return (
        f'stages {first.stage} to {last.stage} anneal the rate from '
        f'{first.lr_start:.3g} to {last.lr_end:.3g} in stairs; Δ ends at '
        f'{scientific(own.end)} rad, {own.end_ratio:.2g} of Δ*'
    )


def _note(stage: StagePlan, course: Course) -> str | None:
    """What is to be known of a stage that is no fault of its schedule."""
    own = stage.forecast(course.kind)
    if own is None:
        return None
    if stage.anneals and stage.steady:
        return (
            f'stage {stage.stage} goes on at the rate to which the one before was '
            f'annealed: Δ {scientific(own.start)} → {scientific(own.end)} rad'
        )
    if stage.anneals and stage.reaches is None:
        said = (
            f'stage {stage.stage} anneals the rate from {stage.lr_start:.3g} to '
            f'{stage.lr_end:.3g}'
        )
        if stage.frozen_from is not None and stage.frozen_to is not None:
            on = 'on'
            if stage.frozen_to < stage.last_iter:
                on = f'to {stage.frozen_to:,}'
            share = (stage.frozen_from - stage.first_iter) / stage.iterations
            said += (
                f': from iteration {stage.frozen_from:,} {on} ({share:.0%} into the '
                'stage) norms cannot follow, and Δ falls as the rate does'
            )
        return f'{said}; Δ ends at {scientific(own.end)} rad, {own.end_ratio:.2g} of Δ*'
    return None
