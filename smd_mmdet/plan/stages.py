"""The plan of every stage: its forecast, and whether it is long enough.

Nothing is measured yet, so norms are relative to equilibrium, which needs neither ‖w‖
nor the drive: Δ/Δ* = (w*/‖w‖)^(e/2), and w* ∝ η^(1/e). Where the gradient is clipped e
depends on the share of clipped steps, so that stages are forecast for both limits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from smd_mmdet import theory
from smd_mmdet.config.schedule import Span, followed
from smd_mmdet.stages import WARMUP

from .control import StageControl
from .course import KINDS, Course

__all__ = [
    'ALWAYS',
    'CLIMB',
    'TOLERANCE',
    'TYPICAL_RMS',
    'TYPICAL_START',
    'Ends',
    'Outcomes',
    'StagePlan',
    'forecast_start',
    'plan_stages',
    'start_assumptions',
    'usual_start',
    'usual_start_text',
]

# The p of :func:`.theory.clipping_power` where the gradient is clipped at every step.
ALWAYS = 2.0
# How far Δ/Δ* may be from 1 in equilibrium.
TOLERANCE = 0.10
# The same for (‖w‖/w*)^e, which goes with (Δ/Δ*)⁻².
_TOLERANCE_Z = 2 * TOLERANCE
# ‖w‖/w* of many layers under SGD and MMDetection's default initialization, and the root
# mean square of the numbers of a weight, which tells ‖w‖/w* under AdamW and its kin:
# in RTMDet-s, DINO, Mask R-CNN and Swin-T its median over layers is 0.02 to 0.044.
TYPICAL_START = 3.0
TYPICAL_RMS = 0.03
# A first stage is long enough for layers that begin with up to this many times w*^e.
_START_Z = 2.0
# A stage in which Δ grows by as much carries a risk of its own.
CLIMB = 1.5
# A stage of no more iterations, between a warm-up and a cosine, say, is not judged.
_PASSING = 10
# Of a rate that falls in stairs: the fewest of them, and the lowest of one over the one
# before.
_FEWEST_STAIRS = 5
_LOWEST_STAIR = 0.2
# exp() of more is no float64.
_LARGEST_EXPONENT = 500
# How often more decay is tried, each time by a tenth more.
_TRIALS = 12


@dataclass(frozen=True)
class Ends:
    """How Δ goes through a stage.

    Args:
        start_ratio: Δ/Δ* at the first step.
        end_ratio: Δ/Δ* at the last step.
        start: Δ at the first step, in rad/step.
        end: Δ at the last step, in rad/step.
        climb: Δ at the last step over Δ at the first one.
        farthest_in_last_third: Largest |Δ/Δ* − 1| in the last third of the stage.
    """

    start_ratio: float
    end_ratio: float
    start: float
    end: float
    climb: float
    farthest_in_last_third: float


@dataclass(frozen=True)
class Outcomes:
    """Δ at the end of a stage, in rad/step, if something were otherwise.

    Args:
        usual_start: If layers begin with the norm that is usual.
        equilibrium_start: If they begin at equilibrium.
        rescaling: If they do, and SMDRescaleHook rescales at every change of the rate.
        suggested_decay: If they do, with :attr:`StagePlan.suggested_decay`.
    """

    usual_start: float | None = None
    equilibrium_start: float | None = None
    rescaling: float | None = None
    suggested_decay: float | None = None


@dataclass(frozen=True)
class StagePlan:
    """What a stage of a schedule leads to.

    What is None is not known, or does not apply: no equilibrium is derived for the
    optimizer, the stage is the warm-up, or its rate is 0.

    Args:
        stage: Number of the stage; −1 for the warm-up.
        first_iter: First iteration, counted from 1.
        last_iter: Last iteration.
        iterations: Number of iterations.
        steady: Whether learning rate and momentum hold still.
        lr_start: Learning rate of the first iteration.
        lr_end: Learning rate of the last iteration.
        momentum: Momentum of the last iteration.
        weight_decay: Weight decay.
        angular_update_eq: Δ* of the first iteration, in rad/iteration.
        angular_update_eq_end: Δ* of the last iteration, in rad/iteration.
        relaxation_iterations: Iterations in which a relative distance of ‖w‖ from w*
            falls to 1/e.
        iterations_to_equilibrium: Iterations until Δ is within :data:`TOLERANCE` of
            Δ*; in the first stage from the usual norm.
        corollary_iterations: The paper's estimate of the least iterations to
            equilibrium itself after a drop of the rate (Corollary 3.1).
        reachable_from: ‖w‖/w* up to which a layer comes to equilibrium in the stage.
        plain: The forecast without rescaling.
        rescaled: The forecast with SMDRescaleHook.
        always_clipped: The config's own forecast if the gradient is clipped at every
            step, where the config clips it and no share is measured. The other
            forecasts are without clipping then.
        anneals: Whether the rate falls from iteration to iteration, or has done so in
            the stage before: equilibrium is not what such a schedule aims at.
        stairs: Number of the first of many stages in which the rate falls bit by bit,
            by epoch, say; None if the stage is none of them.
        frozen_from: The iteration from which the rate falls faster than the norm can
            follow (κ ≥ 1): Δ ∝ η from there on.
        frozen_to: The last such iteration.
        outcomes: Δ at the end if something were otherwise.
        suggested_decay: The least weight decay with which a steady stage comes to
            equilibrium; None if it does anyhow, or with none.
        reaches: Whether the stage comes to equilibrium, by the config's own forecast;
            None if it anneals, or if it depends on how often the gradient is clipped.
        warning: What stands in the way of equilibrium, and the remedy.
        note: What else is to be known of the stage.
        control: The angular update that SMDRescaleHook sets in the stage; None where it
            sets none.
    """

    stage: int
    first_iter: int
    last_iter: int
    iterations: int
    steady: bool
    lr_start: float
    lr_end: float
    momentum: float
    weight_decay: float
    angular_update_eq: float | None = None
    angular_update_eq_end: float | None = None
    relaxation_iterations: float | None = None
    iterations_to_equilibrium: float | None = None
    corollary_iterations: int | None = None
    reachable_from: float | None = None
    plain: Ends | None = None
    rescaled: Ends | None = None
    always_clipped: Ends | None = None
    anneals: bool = False
    stairs: int | None = None
    frozen_from: int | None = None
    frozen_to: int | None = None
    outcomes: Outcomes | None = None
    suggested_decay: float | None = None
    reaches: bool | None = None
    warning: str | None = None
    note: str | None = None
    control: StageControl | None = None

    def forecast(self, kind: str) -> Ends | None:
        """One of the two forecasts.

        Args:
            kind: 'plain' or 'rescaled'.

        Returns:
            The forecast.
        """
        return self.plain if kind == 'plain' else self.rescaled


def plan_stages(course: Course, clipping_unknown: bool = False) -> list[StagePlan]:
    """Plan every stage of a schedule.

    Args:
        course: The schedule, the optimizer, and where weights are rescaled.
        clipping_unknown: Whether the gradient is clipped, nobody knows how often, so
            that stages are to be forecast for both limits.

    Returns:
        The stages in their order, without warnings.
    """
    stages = [_facts(course, span) for span in course.spans]
    stairs = _stairs(stages)
    stages = [replace(stage, stairs=stairs.get(stage.stage)) for stage in stages]
    first = course.first
    if not course.optimizer.comes_to_equilibrium or first == len(stages):
        return stages
    found = _judged_stages(course, stages)
    if clipping_unknown:
        always = _judged_stages(replace(course, clipping_power=ALWAYS), stages)
        found = [_either(a, b, course.kind) for a, b in zip(found, always, strict=True)]
    return found


def usual_start(course: Course) -> float:
    """‖w‖/w* with which layers usually come into the first stage after the warm-up.

    Under SGD w* goes with the gradients, and a multiple of it is all that can be said.
    Under AdamW and its kin the numbers of a weight are √(η/2λ) in equilibrium, if its
    gradients are uncorrelated, and those of real weights are known.

    Args:
        course: The schedule, the optimizer, and where weights are rescaled.

    Returns:
        The ratio.
    """
    law = course.law
    if law.exponent != 2:
        return TYPICAL_START
    begin = course.spans[course.first].start
    lr, momentum = course.schedule.lr[begin], course.schedule.momentum[begin]
    decay = course.optimizer.weight_decay
    if lr <= 0:
        return 1.0
    # The update's mean square is ΣA² of the momentum (what Δ*² has), and 1 under Lion.
    turn = float(law.angular_update_sq(lr, decay, momentum))
    update = 1.0 if law.indicative else turn / (2 * lr * decay)
    size = float(law.equilibrium_norm(lr, decay, update, momentum))
    return TYPICAL_RMS / size


def forecast_start(course: Course) -> float:
    """‖w‖/w* with which forecasts begin: equilibrium, but under AdamW the usual norm.

    Args:
        course: The schedule, the optimizer, and where weights are rescaled.

    Returns:
        The ratio.
    """
    return usual_start(course) if course.law.exponent == 2 else 1.0


def usual_start_text(course: Course) -> str:
    """The norm with which layers usually begin, in words.

    Args:
        course: The schedule, the optimizer, and where weights are rescaled.

    Returns:
        A few words; '' if there is no forecast.
    """
    if not course.optimizer.comes_to_equilibrium or course.first == len(course.spans):
        return ''
    if course.law.exponent == 2:
        return f'numbers of a weight near {TYPICAL_RMS:g}, {usual_start(course):.2g} w*'
    return f'‖w‖ = {TYPICAL_START:g} w*'


def start_assumptions(course: Course) -> list[str]:
    """On what beginning the forecasts rest.

    Args:
        course: The schedule, the optimizer, and where weights are rescaled.

    Returns:
        A sentence each; none if there is no forecast.
    """
    if not course.optimizer.comes_to_equilibrium or course.first == len(course.spans):
        return []
    first, start = course.spans[course.first], course.start
    begins, stays, rough = 'norm is at its equilibrium', 'L', ''
    if course.law.exponent == 2:
        begins, stays = f'numbers are near {TYPICAL_RMS:g}', "update's mean square"
        rough = (
            '. In the first thousands of iterations, while v̂ remembers the larger '
            'gradients of the beginning, Δ may well be a third of that'
        )
    found = []
    if start is None or start >= first.end:
        found.append(
            f'Δ/Δ* is forecast for a layer whose {begins} when stage '
            f'{first.stage.number} begins, and whose {stays} stays as it is: where a '
            f'layer really starts is not known before it is measured{rough}'
        )
    if start is not None:
        found.append(
            'SMDRescaleHook (start_at_equilibrium) puts layers at equilibrium in '
            f'front of iteration {start + 1:,}: from there on Δ/Δ* is forecast for '
            f'a layer that is, and whose {stays} stays as it is'
        )
    elif course.rescaling.max_factor > 1:
        found.append(
            'start_at_equilibrium of SMDRescaleHook is not counted: no measuring '
            'phase ends between the warm-up and the end of the training'
        )
    return found


def _facts(course: Course, span: Span) -> StagePlan:
    """What is known of a stage without a forecast."""
    optimizer, schedule = course.optimizer, course.schedule
    last = span.end - 1
    facts = StagePlan(
        stage=span.stage.number,
        first_iter=span.start + 1,
        last_iter=span.end,
        iterations=span.end - span.start,
        steady=span.stage.steady,
        lr_start=float(schedule.lr[span.start]),
        lr_end=float(schedule.lr[last]),
        momentum=float(schedule.momentum[last]),
        weight_decay=optimizer.weight_decay,
    )
    relaxation = None
    if optimizer.comes_to_equilibrium:
        rate = float(np.mean(course.relaxation(slice(span.start, span.end))))
        relaxation = 1 / rate if rate > 0 else None
    return replace(
        facts,
        angular_update_eq=course.angle(span.start),
        angular_update_eq_end=course.angle(last),
        relaxation_iterations=relaxation,
    )


def _judged_stages(course: Course, stages: list[StagePlan]) -> list[StagePlan]:
    """The stages with forecasts and whether they are long enough."""
    stages, first = list(stages), course.first
    plain, rescaled = (_forecast(course, kind) for kind in KINDS)
    usual = _last_angles(course, course.kind, usual_start(course))
    before: StagePlan | None = None
    equal = _last_angles(course, 'plain', 1.0)
    rescaled_ends = _last_angles(_following(course), 'rescaled', 1.0)
    for i, span in enumerate(course.spans[first:]):
        stage = replace(
            stages[first + i],
            plain=plain[i],
            rescaled=rescaled[i],
            outcomes=Outcomes(usual[i], equal[i], rescaled_ends[i]),
        )
        stage = _judged(course, stage, span, before)
        stages[first + i] = stage
        if stage.iterations > _PASSING or before is not None:
            before = stages[first + i]
    return [_on_stairs(stage, stages) for stage in stages]


def _on_stairs(stage: StagePlan, stages: Sequence[StagePlan]) -> StagePlan:
    """A stage, which is judged with all of its stairs if it is one of them."""
    if stage.stairs is None:
        return stage
    run = [other for other in stages if other.stairs == stage.stairs]
    reaches = all(other.reaches for other in run) or None
    return replace(stage, anneals=reaches is None, reaches=reaches)


def _stairs(stages: Sequence[StagePlan]) -> dict[int, int]:
    """The first stage of each run of stairs, by the numbers of all stages in it."""
    runs: list[list[StagePlan]] = [[]]
    for stage in stages:
        before = runs[-1][-1] if runs[-1] else stage
        lower = _LOWEST_STAIR * before.lr_end <= stage.lr_start < before.lr_end
        stair = stage.steady and stage.stage != WARMUP
        if not (stair and lower):
            runs.append([])
        if stair:
            runs[-1].append(stage)
    return {
        stage.stage: run[0].stage
        for run in runs
        if len(run) >= _FEWEST_STAIRS
        for stage in run
    }


def _following(course: Course) -> Course:
    """The same with a hook that rescales at every change of the rate."""
    changes = followed(course.schedule.lr, continuous=True)
    rescaling = replace(course.rescaling, changes='all', followed=changes)
    return replace(course, rescaling=rescaling)


def _either(never: StagePlan, always: StagePlan, kind: str) -> StagePlan:
    """A stage without clipping, and what always clipping would make of it."""
    same = never.reaches is always.reaches
    return replace(
        never,
        always_clipped=always.forecast(kind),
        reaches=never.reaches if same else None,
    )


def _forecast(course: Course, kind: str) -> list[Ends]:
    """Δ in the stages after the warm-up, from equilibrium at the first one's start."""
    spans = course.spans[course.first :]
    begin = spans[0].start
    at = np.arange(begin, len(course.schedule.lr))
    # The drive drops out of Δ/Δ*, so that any will do: 1, over ‖w‖^p.
    start = forecast_start(course)
    norm = course.norm_eq(begin) * start
    _, ratios = course.ahead(kind, norm, norm**course.power, at=at, begin=begin)
    return [_ends(course, span, ratios[span.start - begin :]) for span in spans]


def _last_angles(course: Course, kind: str, start: float) -> list[float | None]:
    """Δ at the end of the stages after the warm-up, from a multiple of w*."""
    spans = course.spans[course.first :]
    begin = spans[0].start
    last = np.array([span.end - 1 for span in spans])
    if course.schedule.lr[begin] <= 0:
        return [None] * len(spans)
    norm = course.norm_eq(begin) * start
    _, ratios = course.ahead(kind, norm, norm**course.power, at=last, begin=begin)
    return [_times(r, course.angle(t)) for r, t in zip(ratios, last, strict=True)]


def _times(ratio: float, angle: float | None) -> float | None:
    return None if angle is None else float(ratio) * angle


def _ends(course: Course, span: Span, ratios: np.ndarray) -> Ends:
    """How Δ goes through a stage, from Δ/Δ* at each of its steps and later ones."""
    part = ratios[: span.end - span.start]
    # Rounded, because the first stage is taken to start at 1.
    first, last = round(float(part[0]), 9), float(part[-1])
    start = _times(first, course.angle(span.start)) or 0.0
    end = _times(last, course.angle(span.end - 1)) or 0.0
    last_third = part[-max(1, len(part) // 3) :]
    return Ends(
        start_ratio=first,
        end_ratio=last,
        start=start,
        end=end,
        climb=end / start if start > 0 else 1.0,
        farthest_in_last_third=float(np.abs(last_third - 1).max()),
    )


def _judged(
    course: Course, stage: StagePlan, span: Span, before: StagePlan | None
) -> StagePlan:
    """A stage with its forecast, and whether it is long enough.

    Args:
        course: The schedule.
        stage: The stage with its forecast.
        span: Where the stage lies.
        before: The stage before it; None if it is the first after the warm-up, but for
            a few iterations.
    """
    own = stage.forecast(course.kind)
    if own is None or stage.lr_start <= 0:  # at a rate of 0 nothing moves
        return stage
    reachable_from = _reachable_from(course, span)
    stage = replace(stage, reachable_from=reachable_from)
    if not stage.steady:
        return _judged_moving(course, stage, span, own)
    if stage.iterations <= _PASSING and before is None and span is not course.spans[-1]:
        return stage
    if before is None:
        distance = abs(usual_start(course) ** course.exponent - 1)
        reaches = reachable_from >= _START_Z ** (1 / course.exponent)
        # Where it usually starts may be nearer than that, or on the other side.
        reaches |= (_needed(course, span, distance) or 0) <= stage.iterations
    else:
        # (‖w‖/w*)^e = (Δ/Δ*)⁻². A ratio below 1e-9 was rounded to 0.
        distance = abs(1 / max(own.start_ratio, 1e-9) ** 2 - 1)
        reaches = abs(own.end_ratio - 1) <= TOLERANCE
    stage = replace(
        stage,
        iterations_to_equilibrium=_needed(course, span, distance),
        corollary_iterations=_corollary(course, span, before),
        reaches=None if course.law.indicative else reaches,
    )
    # What follows on an annealing at its last rate is the end of the annealing.
    if before and before.anneals and not reaches and stage.lr_start <= before.lr_end:
        return replace(stage, anneals=True, reaches=None)
    return _with_more_decay(course, stage, span, before is None)


def _judged_moving(
    course: Course, stage: StagePlan, span: Span, own: Ends
) -> StagePlan:
    """A stage whose rate changes all the time."""
    lr = course.schedule.lr[span.start : span.end]
    reaches: bool | None = own.farthest_in_last_third <= TOLERANCE
    anneals = bool(lr[-1] < lr.max())
    if course.law.indicative or (anneals and not reaches):
        reaches = None
    # Where weights follow the rate they need no decay for it.
    follows = course.kind == 'rescaled' and course.rescaling.changes == 'all'
    frozen = (None, None) if follows or not anneals else _frozen(course, span)
    return replace(
        stage,
        anneals=anneals,
        reaches=reaches,
        frozen_from=frozen[0],
        frozen_to=frozen[1],
    )


def _frozen(course: Course, span: Span) -> tuple[int | None, int | None]:
    """The longest run of iterations in which κ is 1 or more, its first and last one."""
    frozen = np.concatenate([[False], course.lag(span) >= 1, [False]])
    edges = np.flatnonzero(np.diff(frozen))
    if not len(edges):
        return None, None
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    # The last rate of a stage is reached by the last change.
    last = span.start + int(ends[longest]) + 1
    return span.start + int(starts[longest]) + 1, last


def _reachable_from(course: Course, span: Span) -> float:
    """‖w‖/w* from which a stage, or the hook in it, brings layers to equilibrium.

    The distance of (‖w‖/w*)^e from 1 falls by exp(−∫eλη_e) within the stage.
    """
    folds = float(course.relaxation(slice(span.start, span.end)).sum())
    lost = np.exp(min(folds, _LARGEST_EXPONENT))
    by_decay = (1 + _TOLERANCE_Z * lost) ** (1 / course.exponent)
    moves = sum(span.start <= t < span.end for t in course.rescaling.starts)
    log_factor = moves * np.log(course.rescaling.max_factor)
    by_hook = np.exp(min(log_factor, _LARGEST_EXPONENT))
    return float(max(by_decay, by_hook))


def _needed(course: Course, span: Span, distance: float) -> float:
    """Iterations until (‖w‖/w*)^e is near enough to 1, or the hook has made it so."""
    rate = float(course.relaxation(slice(span.start, span.start + 1))[0])
    needed = math.log(max(distance / _TOLERANCE_Z, 1.0)) / rate
    if (start := course.start) is not None and span.start <= start < span.end:
        needed = min(needed, float(start - span.start))
    return needed


def _corollary(course: Course, span: Span, before: StagePlan | None) -> int | None:
    """The paper's estimate of the iterations to equilibrium itself after a drop."""
    lr, momentum = course.schedule.lr[span.start], course.schedule.momentum[span.start]
    of_sgd = course.law.exponent == 4 and course.power == 0
    if before is None or before.lr_end <= lr or not of_sgd:
        return None
    drop, decay = before.lr_end / lr, course.optimizer.weight_decay
    return int(theory.iterations_to_equilibrium(lr, decay, drop, momentum))


def _with_more_decay(
    course: Course, stage: StagePlan, span: Span, first: bool
) -> StagePlan:
    """A stage that is too short, with the weight decay with which it were not.

    The iterations that are needed go with 1/λ. In a later stage they depend on where
    the one before has ended as well, so that the forecast has to confirm it.
    """
    needed = stage.iterations_to_equilibrium
    if needed is None or needed <= stage.iterations or stage.outcomes is None:
        return stage
    if not first and stage.reaches:
        return stage
    factor = needed / stage.iterations
    last = np.array([span.end - 1])
    begin = course.spans[course.first].start
    start = usual_start(course) if first else 1.0
    for _ in range(_TRIALS):
        if not _takes(course, factor):
            break
        norm = course.norm_eq(begin, decay=factor) * start
        _, ratios = course.ahead(
            course.kind,
            norm,
            norm**course.power,
            at=last,
            begin=begin,
            decay=factor,
        )
        if abs(ratios[0] - 1) <= TOLERANCE:
            end = _times(float(ratios[0]), course.angle(span.end - 1, decay=factor))
            return replace(
                stage,
                suggested_decay=factor * course.optimizer.weight_decay,
                outcomes=replace(stage.outcomes, suggested_decay=end),
            )
        factor *= 1.1
    return stage


def _takes(course: Course, factor: float) -> bool:
    """Whether steps with so much more decay leave something of a weight."""
    lr, momentum = course.schedule.lr, course.schedule.momentum
    decay = factor * course.optimizer.weight_decay
    return bool((course.law.decay(lr, decay, momentum) < 1).all())
