"""All checks of one layer in one stage, and the state they show."""

from collections.abc import Callable

import numpy as np

from smd_mmdet.theory import THEORIES, Theory

from .assumptions import ASSUMPTIONS, assumptions_of
from .case import ANGLE_TOLERANCE, Case
from .equilibrium import EQUILIBRIUM, angle_alone
from .findings import Finding, not_applicable
from .motion import MOTION, scale_invariance
from .series import MIN_ITERATIONS, Series
from .verdicts import (
    CONTROLLED,
    DIVERGED,
    FAILS,
    FROM_ABOVE,
    FROM_BELOW,
    IN_EQUILIBRIUM,
    MOVING,
    NO_DECAY,
    NO_GRADIENT,
    NO_RATE,
    NO_THEORY,
    NOT_APPLICABLE,
    NOT_INVARIANT,
    OFF,
    TOO_SHORT,
    UNCLEAR,
    UNDECIDED,
    UNREACHABLE,
    Check,
    StageReport,
)
from .wanted import CONTROLLED_BY, WANTED, Followed, follow

__all__ = ['CONCLUSIONS', 'check_stage', 'diagnose', 'settle_state']

# In this order a failure explains those after it: the transient law contains no weight
# decay, the rate of convergence contains no angle, and equilibrium rests on both.
CONCLUSIONS = MOTION | EQUILIBRIUM
# These checks mean something also where ⟨w, g⟩ is not 0, so that h̃ means nothing.
_WITHOUT_UNIT_GRADIENT = ('small_step', 'lemma_1')
# These are of the gradient that is applied, whatever that is.
_OF_ANY_GRADIENT = ('transient_law', *ASSUMPTIONS)
# These are of a norm that is left to itself.
_OF_FREE_NORM = ('linear_convergence', *EQUILIBRIUM)
# Where these are the states, a controller may set Δ all the same.
_WITHOUT_EQUILIBRIUM = (NO_DECAY, NO_THEORY)


def check_stage(
    series: Series,
    previous: Series | None,
    theory_name: str,
    facts: dict,
    clipping: dict | None = None,
    controlled_from: int = 1,
) -> StageReport:
    """All checks on a layer in one stage, without regard to other layers.

    Args:
        series: The windows of the layer in the stage.
        previous: The windows in the stage before, if there is one.
        theory_name: Key of the optimizer's theory in :data:`THEORIES`, or 'none'.
        facts: What the records' metadata tell of the layer.
        clipping: What they tell of gradient clipping; None where that is nothing.
        controlled_from: First iteration after the first control, where a controller
            sets Δ.

    Returns:
        The findings. Their number is not corrected for yet, and the state of a layer
        that may be in equilibrium is still open.
    """
    stage, known = _stage_facts(series), THEORIES.get(theory_name)
    followed = follow(series, controlled_from)
    if why := _no_theory(series, theory_name, facts):
        stage.state, stage.note = why
        stage.checks = _checks(known, lambda name, examine: not_applicable(stage.note))
        if followed and stage.state in _WITHOUT_EQUILIBRIUM:
            _add_control(stage, followed)
            stage.state = CONTROLLED
        return stage
    case = Case(series, previous, facts, clipping)
    stage.angular_update_ratio = case.angle.value
    stage.angular_update, stage.angular_update_eq = (
        float(np.sqrt(series.mean(values, case.part)))
        for values in (series.angle_sq, series.angle_sq_eq)
    )
    if not series.law:
        _angle_alone(stage, case)
        return stage
    _add_figures(stage, case)
    state = None if case.unpredictable else scale_invariance(case)
    stage.state, stage.note = state or (UNCLEAR, case.unpredictable)

    def find(name: str, examine: Callable[[Case], Finding]) -> Finding:
        if case.unpredictable and name not in _OF_ANY_GRADIENT:
            found = examine(case)
            return not_applicable(case.unpredictable, found.value)
        if state and name not in _WITHOUT_UNIT_GRADIENT:
            return not_applicable(stage.note)
        if followed and name in _OF_FREE_NORM:
            return not_applicable(CONTROLLED_BY)
        return examine(case)

    stage.checks = _checks(case.known, find)
    if followed:
        _add_control(stage, followed)
        if state is None:
            stage.state, stage.note = CONTROLLED, ''
    if case.known.indicative:
        _indicate(stage, case.known)
    elif stage.state == UNCLEAR and not stage.note:
        stage.state, stage.note = _unsettled(case)
        if stage.state in (TOO_SHORT, FROM_ABOVE, FROM_BELOW, UNREACHABLE):
            left = _iterations_left(case)
            stage.iterations_left = left if np.isfinite(left) else None
    return stage


def _checks(
    known: Theory | None, find: Callable[[str, Callable], Finding]
) -> list[Check]:
    """All checks of an optimizer, each with what ``find`` gives of it.

    Args:
        known: What is known of the optimizer; None where nothing is.
        find: Gives the finding of a check's name and function.
    """
    kinds = {'assumption': assumptions_of(known), 'conclusion': CONCLUSIONS}
    return [
        Check(name, kind, **vars(find(name, examine)))
        for kind, checks in kinds.items()
        for name, examine in checks.items()
    ]


def _add_control(stage: StageReport, followed: Followed) -> None:
    """Fill in how near the layer comes to what a controller wants of it."""
    stage.checks.append(Check(WANTED, 'control', **vars(followed.finding())))
    stage.angular_update_wanted = followed.wanted
    stage.wanted_windows, stage.wanted_near = followed.windows, followed.near


def _angle_alone(stage: StageReport, case: Case) -> None:
    """What is known of a layer under an optimizer without a law of the norm."""
    stage.checks = [Check('angular_update', 'conclusion', **vars(angle_alone(case)))]
    stage.weight_norm_ratio = case.recorded_norm
    if case.passing:
        direction = FROM_ABOVE if case.last_ratio < 1 else FROM_BELOW
        stage.state, stage.note = direction, case.passing


def _add_figures(stage: StageReport, case: Case) -> None:
    """Fill in what the law says of a stage besides its verdicts."""
    series, part = case.series, case.part
    stage.weight_norm_ratio = case.norm.value
    stage.weight_norm_tolerance = case.norm_tolerance
    stage.transient_ratio = case.law.value
    if case.known.drive == 'unit_h':
        stage.whiteness = series.whiteness
    stage.relaxation_iterations = series.windows.iterations_per_step / series.mean(
        series.rate, part
    )
    stage.norm_power = 1 / series.left_exponent
    share = series.columns.get('clipped_share')
    if share is not None:
        stage.clipped_share = series.mean(share)


def _indicate(stage: StageReport, known: Theory) -> None:
    """Leave the figures of an optimizer whose law is rough, and no verdict."""
    why = f'the law of {known.title} is indicative, and up to a fifth off'
    if stage.state == UNCLEAR:
        stage.note = stage.note or why
    for check in stage.checks:
        if check.verdict != NOT_APPLICABLE:
            check.verdict, check.p_value = UNDECIDED, None
            check.reason = f'indicative: {check.reason}'


def _stage_facts(series: Series) -> StageReport:
    """The report on a stage before any check: where it lies, and its settings."""

    def mean(values: np.ndarray) -> float:
        return float(np.mean(values)) if len(values) else float('nan')

    return StageReport(
        stage=series.number,
        first_iter=series.first,
        last_iter=series.last,
        iterations_per_step=series.windows.iterations_per_step,
        lr=0.0 if series.standing_still else mean(series.lr),
        weight_decay=mean(series.decay),
        momentum=mean(series.momentum),
    )


def _no_theory(series: Series, theory_name: str, facts: dict) -> tuple[str, str] | None:
    """State and reason where the theory says nothing about a layer's stage."""
    if facts.get('invariant') is False:
        reason = facts.get('reason') or 'no norm makes it scale-invariant'
        return NOT_INVARIANT, f'measured as a control, not scale-invariant: {reason}'
    if theory_name not in THEORIES:
        return NO_THEORY, 'no formula is derived for this optimizer'
    if series.diverged:
        return DIVERGED, 'weights or gradients were not finite: the training diverged'
    if series.standing_still:
        return NO_RATE, 'the learning rate was 0, and the weight stood still'
    if series.undriven:
        return NO_THEORY, 'what drives the norm was not measured'
    if not len(series) or not series.columns['unit_grad_sq_max'].max() > 0:
        return NO_GRADIENT, 'the layer had no gradient in this stage'
    if not (series.decay > 0).all():
        return NO_DECAY, 'without weight decay the norm has no equilibrium'
    if not series.decaying:
        step = float((series.lr * series.decay).max())
        return NO_THEORY, f'λη is {step:.3g}: from 2 on no equilibrium is known'
    if series.law and not np.isfinite(series.balance_rate).all():
        step = float((series.lr * series.decay).max())
        return NO_THEORY, f'λη is {step:.3g}, so that decay alone takes w beyond 0'
    return None


def _unsettled(case: Case) -> tuple[str, str]:
    """State and note of a layer before its checks are corrected for their number."""
    if case.unreachable and case.lag > ANGLE_TOLERANCE:
        return MOVING, case.unreachable
    series = case.series
    if series.iterations < MIN_ITERATIONS:
        return TOO_SHORT, _too_early(case)
    if case.unreachable and np.isfinite(case.forecast):
        return _on_its_way(case)
    if case.too_few:
        return TOO_SHORT, case.too_few
    if case.passing:
        direction = FROM_ABOVE if case.last_ratio < 1 else FROM_BELOW
        return direction if series.steady else MOVING, case.passing
    return UNCLEAR, case.unreachable


def _too_early(case: Case) -> str:
    """Why there is no verdict yet, and how many iterations one needs."""
    needed = _iterations_left(case)
    if not np.isfinite(needed) or needed == 0:
        return case.too_few
    return f'{case.too_few}; equilibrium needs about {needed:,.0f} more'


def _iterations_left(case: Case) -> float:
    """Iterations until Δ is near Δ*; infinite where that is not known.

    (Δ*/Δ)² is (‖w‖/w*)^(q−p), which comes nearer to 1 at the rate (q−p)λη_e.
    """
    series = case.series
    target = series.settled(case.part)
    if not target > 0 or case.clipping_unknown:
        return np.inf
    distance = abs(series.norm_to(series.left_exponent)[-1] / target - 1)
    folds = np.log(max(distance / (2 * ANGLE_TOLERANCE), 1.0))
    rate = series.mean(series.rate, case.part) if not series.steady else series.rate[-1]
    return float(folds / rate) * series.windows.iterations_per_step


def _on_its_way(case: Case) -> tuple[str, str]:
    """State and note of a layer that could not have reached equilibrium yet."""
    direction = FROM_ABOVE if case.forecast < 1 else FROM_BELOW
    if case.drifting:
        return direction, case.unreachable
    left = _iterations_left(case)
    note = f'{case.unreachable}; about {left:,.0f} iterations more are needed'
    if left == 0:
        note = f'{case.unreachable} over its end; the last window is there'
    elif np.isinf(left):
        note = f'{case.unreachable}; how long it takes is not known'
    length = case.series.iterations * case.series.windows.iterations_per_step
    return (UNREACHABLE if left > length else direction), note


def settle_state(stage: StageReport) -> None:
    """Decide the state that was left open, from verdicts that are final."""
    if stage.state not in (UNCLEAR, TOO_SHORT):
        return
    verdicts = [stage.verdict_of('angular_update'), stage.verdict_of('weight_norm')]
    if FAILS not in verdicts and _is_there(stage):
        stage.state = IN_EQUILIBRIUM
    elif stage.failing:
        stage.state = OFF


def _is_there(stage: StageReport) -> bool:
    """Whether the measured ratios are within tolerance of 1.

    No significance is asked for: every iteration was measured, so where the layer has
    been is a fact. The verdicts tell more, namely whether it would be there again.
    """
    if stage.state != UNCLEAR or stage.note:
        return False
    angle, norm = stage.angular_update_ratio, stage.weight_norm_ratio or 1.0
    if angle is None:
        return False
    return (
        abs(angle - 1) <= ANGLE_TOLERANCE
        and abs(norm - 1) <= stage.weight_norm_tolerance
    )


def diagnose(stage: StageReport) -> None:
    """Name the conclusion whose failure explains the others."""
    if stage.failing:
        cause = stage.failing[0]  # they are in the order of CONCLUSIONS
        stage.diagnosis = cause.name
        stage.note = stage.note or cause.reason
