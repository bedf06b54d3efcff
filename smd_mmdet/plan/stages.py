"""The plan of every stage: its forecast, and whether it is long enough.

Nothing is measured yet, so norms are relative to equilibrium, which needs neither ‖w‖
nor L: Δ/Δ* = (w*/‖w‖)², and w*⁴ ∝ η.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from smd_mmdet import theory
from smd_mmdet.config.schedule import Span

from .course import KINDS, Course

__all__ = [
    'TOLERANCE',
    'TYPICAL_START',
    'Ends',
    'StagePlan',
    'plan_stages',
    'start_assumptions',
]

# How far Δ/Δ* may be from 1 in equilibrium.
TOLERANCE = 0.10
# The same for ‖w‖⁴/w*⁴, which goes with (Δ/Δ*)⁻².
_TOLERANCE_4 = 2 * TOLERANCE
# ‖w‖/w* of many layers under MMDetection's default initialization.
TYPICAL_START = 3.0
# A first stage is long enough for layers that begin with up to this many times w*⁴.
_START_4 = 2.0
# exp() of more is no float64.
_LARGEST_EXPONENT = 500


@dataclass(frozen=True)
class Ends:
    """How Δ goes through a stage.

    Args:
        start_ratio: Δ/Δ* at the first step.
        end_ratio: Δ/Δ* at the last step.
        start: Δ at the first step, in rad/step.
        end: Δ at the last step, in rad/step.
        farthest_in_last_third: Largest |Δ/Δ* − 1| in the last third of the stage.
    """

    start_ratio: float
    end_ratio: float
    start: float
    end: float
    farthest_in_last_third: float


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
        relaxation_iterations: Iterations in which the distance of the mean of ‖w‖⁴
            from w*⁴ falls to 1/e.
        iterations_to_equilibrium: Iterations until Δ is within :data:`TOLERANCE` of
            Δ*; in the first stage from a norm of :data:`TYPICAL_START` times w*.
        corollary_iterations: Least iterations to equilibrium itself after a drop of
            the rate (Corollary 3.1).
        reachable_from: ‖w‖/w* up to which a layer comes to equilibrium in the stage.
        plain: The forecast without rescaling.
        rescaled: The forecast with SMDRescaleHook.
        reaches: Whether the stage comes to equilibrium, by the config's own forecast.
        warning: What stands in the way of equilibrium, and the remedy.
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
    reaches: bool | None = None
    warning: str | None = None

    def forecast(self, kind: str) -> Ends | None:
        """One of the two forecasts.

        Args:
            kind: 'plain' or 'rescaled'.

        Returns:
            The forecast.
        """
        return self.plain if kind == 'plain' else self.rescaled


def plan_stages(course: Course) -> list[StagePlan]:
    """Plan every stage of a schedule.

    Args:
        course: The schedule, the optimizer, and where weights are rescaled.

    Returns:
        The stages in their order, without warnings.
    """
    stages = [_facts(course, span) for span in course.spans]
    first = course.first
    if not course.optimizer.comes_to_equilibrium or first == len(stages):
        return stages
    plain, rescaled = (_forecast(course, kind) for kind in KINDS)
    for i, span in enumerate(course.spans[first:]):
        stage = replace(stages[first + i], plain=plain[i], rescaled=rescaled[i])
        before = stages[first + i - 1] if i else None
        stages[first + i] = _judged(course, stage, span, before)
    return stages


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
    found = []
    if start is None or start >= first.end:
        found.append(
            f'Δ/Δ* is forecast for a layer whose norm is at its equilibrium when '
            f'stage {first.stage.number} begins, and whose L stays as it is: where a '
            'layer really starts is not known before it is measured'
        )
    if start is not None:
        found.append(
            'SMDRescaleHook (start_at_equilibrium) puts layers at equilibrium in '
            f'front of iteration {start + 1:,}: from there on Δ/Δ* is forecast for '
            'a layer that is, and whose L stays as it is'
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
    if optimizer.known is None:
        return facts
    relaxation = None
    if optimizer.comes_to_equilibrium:
        rate = optimizer.weight_decay * float(np.mean(course.relaxation(span)))
        relaxation = 1 / rate if rate > 0 else None
    return replace(
        facts,
        angular_update_eq=course.angle(span.start),
        angular_update_eq_end=course.angle(last),
        relaxation_iterations=relaxation,
    )


def _forecast(course: Course, kind: str) -> list[Ends]:
    """Δ in the stages after the warm-up, from equilibrium at the first one's start."""
    spans = course.spans[course.first :]
    begin = spans[0].start
    at = np.arange(begin, len(course.schedule.lr))
    # L drops out of Δ/Δ*, so that any will do.
    _, ratios = course.ahead(kind, course.norm_eq(begin), 1.0, at=at, begin=begin)
    return [_ends(course, span, ratios[span.start - begin :]) for span in spans]


def _ends(course: Course, span: Span, ratios: np.ndarray) -> Ends:
    """How Δ goes through a stage, from Δ/Δ* at each of its steps and later ones."""
    part = ratios[: span.end - span.start]
    # Rounded, because the first stage is taken to start at 1.
    start, end = round(float(part[0]), 9), float(part[-1])
    last_third = part[-max(1, len(part) // 3) :]
    return Ends(
        start_ratio=start,
        end_ratio=end,
        start=start * course.angle(span.start),
        end=end * course.angle(span.end - 1),
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
        before: The stage before it; None if it is the first after the warm-up.
    """
    own = stage.forecast(course.kind)
    if own is None or stage.lr_start <= 0:  # at a rate of 0 nothing moves
        return stage
    reachable_from = _reachable_from(course, span)
    stage = replace(stage, reachable_from=reachable_from)
    if not stage.steady:
        return replace(stage, reaches=own.farthest_in_last_third <= TOLERANCE)
    if before is None:
        distance = TYPICAL_START**4 - 1
        reaches = reachable_from >= _START_4**0.25
    else:
        # ‖w‖⁴/w*⁴ = (Δ/Δ*)⁻². A ratio below 1e-9 was rounded to 0.
        distance = abs(1 / max(own.start_ratio, 1e-9) ** 2 - 1)
        reaches = abs(own.end_ratio - 1) <= TOLERANCE
    return replace(
        stage,
        iterations_to_equilibrium=_needed(course, span, distance),
        corollary_iterations=_corollary(course, span, before),
        reaches=reaches,
    )


def _reachable_from(course: Course, span: Span) -> float:
    """‖w‖/w* from which a stage, or the hook in it, brings layers to equilibrium.

    The distance of ‖w‖⁴ from w*⁴ falls by exp(−∫4λη/(1−α)) within the stage.
    """
    folds = course.optimizer.weight_decay * float(course.relaxation(span).sum())
    by_decay = (1 + _TOLERANCE_4 * np.exp(min(folds, _LARGEST_EXPONENT))) ** 0.25
    moves = sum(span.start <= t < span.end for t in course.rescaling.starts)
    log_factor = moves * np.log(course.rescaling.max_factor)
    by_hook = np.exp(min(log_factor, _LARGEST_EXPONENT))
    return float(max(by_decay, by_hook))


def _needed(course: Course, span: Span, distance: float) -> float:
    """Iterations until ‖w‖⁴/w*⁴ is near enough to 1, or the hook has made it so."""
    lr, momentum = course.schedule.lr[span.start], course.schedule.momentum[span.start]
    needed = float(
        theory.iterations_to_tolerance(
            distance, lr, course.optimizer.weight_decay, momentum, _TOLERANCE_4
        )
    )
    if (start := course.start) is not None and span.start <= start < span.end:
        needed = min(needed, float(start - span.start))
    return needed


def _corollary(course: Course, span: Span, before: StagePlan | None) -> int | None:
    """Least iterations to equilibrium itself if the rate dropped (Corollary 3.1)."""
    lr, momentum = course.schedule.lr[span.start], course.schedule.momentum[span.start]
    if before is None or before.lr_end <= lr:
        return None
    drop, decay = before.lr_end / lr, course.optimizer.weight_decay
    return int(theory.iterations_to_equilibrium(lr, decay, drop, momentum))
