"""What the theorems say of a layer in equilibrium."""

from collections.abc import Callable

import numpy as np

from smd_mmdet import theory

from .case import ANGLE_TOLERANCE, NORM_TOLERANCE, Case
from .findings import Finding, margin, not_applicable, undecided, within
from .series import Series
from .statistics import Estimate
from .verdicts import FAILS, HOLDS, UNDECIDED

__all__ = [
    'EQUILIBRIUM',
    'angle_alone',
    'angle_probability',
    'angular_update',
    'corollary',
    'norm_spread',
    'weight_norm',
]


def _equilibrium(
    case: Case, what: str, estimate: Estimate, power: float, tolerance: float
) -> Finding:
    """Verdict on Δ/Δ* or ‖w‖/w*, which only counts where equilibrium is reachable.

    The ratio does not fail between 1 and what the theory forecasts for it.

    Args:
        case: The layer's stage.
        what: Name of the ratio, for the reason.
        estimate: The ratio at the end of the stage.
        power: Power of the forecast of Δ/Δ* that is the forecast of this ratio: 1 for
            Δ/Δ* itself, −1/2 for ‖w‖/w*.
        tolerance: Deviation from 1 that does not matter in practice.
    """
    if case.unreachable and len(case.series) > 1:
        found = not_applicable(case.unreachable, estimate.value)
        found.bound, found.interval = 1.0, estimate.interval
        found.margin = (tolerance - abs(estimate.value - 1)) / tolerance
        return found
    expected = case.forecast**power
    allowed = min(1, expected) * (1 - tolerance), max(1, expected) * (1 + tolerance)
    found = within(what, estimate, tolerance, allowed, case.too_few)
    return _throughout(found, case)


def _throughout(found: Finding, case: Case) -> Finding:
    """The finding, if equilibrium held throughout what it is judged from."""
    if found.verdict == HOLDS and case.passing:
        found.verdict = UNDECIDED
        found.reason += f', but {case.passing}'
    return found


def angular_update(case: Case) -> Finding:
    """Theorem 3: Δ comes to Δ*."""
    return _equilibrium(case, 'Δ_rms/Δ*', case.angle, 1.0, ANGLE_TOLERANCE)


def weight_norm(case: Case) -> Finding:
    """Theorems 1 and 2: ‖w‖ comes to w*."""
    return _equilibrium(case, '‖w‖/w*', case.norm, -0.5, NORM_TOLERANCE)


def angle_alone(case: Case, optimizer: str) -> Finding:
    """Δ comes to Δ*, under an optimizer of which only Δ* is known.

    Args:
        case: The layer's stage.
        optimizer: Name of the optimizer, for the reason.
    """
    missing = case.too_few
    if case.lag or not case.series.steady:
        missing = (
            f'the learning rate moves, and {optimizer} has no formula for the way there'
        )
    found = within('Δ_rms/Δ*', case.angle, ANGLE_TOLERANCE, missing=missing)
    if found.verdict == FAILS:
        # How long the way to equilibrium takes is not derived, so Δ may still come to
        # Δ* later.
        found.verdict, found.p_value = UNDECIDED, None
        found.reason += (
            f'; whether it had time to get there is not derived for {optimizer}'
        )
    return _throughout(found, case)


def norm_spread(case: Case) -> Finding:
    """Theorem 1: the stationary spread √E(‖w‖² − w*²)², as a share of w*²."""
    series, part = case.series, case.part
    if why := case.unreachable or case.too_few:
        return not_applicable(why) if case.unreachable else undecided(why)
    target = np.sqrt(series.mean(series.norm4_eq, part))
    norm_var = series.columns['weight_norm_var']
    spread = (series.norm_sq - target) ** 2 + 4 * series.norm_sq * norm_var
    value = float(np.sqrt(series.mean(spread, part)) / target)
    if series.momentum[-1] > 0:
        linear = np.sqrt(series.wander(part))
        reason = (
            f'‖w‖² spreads {value:.1%} about w*² (linearized: {linear:.1%}); the bound '
            'of Theorem 2 has a constant C(α) that is not stated'
        )
        return not_applicable(reason, value)
    least = float(series.h_min.min())
    if not least > 0:
        return not_applicable('the unit gradient touched 0: the theorem has no l')
    settings = series.lr[-1], series.decay[-1]
    if 2 * settings[0] * settings[1] >= 1:
        return not_applicable('2λη is not below 1: the theorem has no bound', value)
    limit = theory.norm_spread_limit(*settings, series.variance, least)
    bound = float(np.sqrt(limit) / target)
    verdict = HOLDS if value <= bound else UNDECIDED
    reason = f'‖w‖² spreads {value:.1%} about w*², the theorem allows {bound:.1%}'
    if verdict == UNDECIDED:
        reason += '; a spread about a target that is itself estimated proves nothing'
    return Finding(verdict, reason, value, bound, margin(value, bound))


def angle_probability(case: Case) -> Finding:
    """Theorem 3: in which share of iterations Δ is far off Δ*.

    With the lower bound l of h̃, |Δ/Δ* − 1| exceeds (V/(Ll))^{1/3} with at most that
    probability. The records hold windows and not iterations, so the share is known
    only between two bounds. The lower one counts the lowest and the highest angle of
    each window, the upper one is Chebyshev's inequality.
    """
    series, part = case.series, case.part
    if case.unreachable:
        return not_applicable(case.unreachable)
    if case.too_few:
        return undecided(case.too_few)
    least = float(series.h_min[part].min())
    probability = np.inf
    if least > 0:
        probability = float((series.variance / series.mean_h / least) ** (1 / 3))
    if probability == 0:
        return not_applicable('h̃ has no variance, and the theorem allows no iteration')
    if probability >= 1:
        return not_applicable(
            'V/(Ll) is over 1: the theorem allows any share of iterations'
        )
    target = np.sqrt(series.angle_sq_eq[part])
    columns = {
        k: series.columns[f'angular_update_{k}'][part]
        for k in ('mean', 'var', 'min', 'max')
    }
    count, reach = series.count[part], probability * target
    below = columns['min'] < target - reach
    above = columns['max'] > target + reach
    spread = columns['var'] + (columns['mean'] - target) ** 2
    surely = float((below.astype(float) + above).sum() / count.sum())
    chebyshev = np.minimum(spread / reach**2, 1.0) * count
    perhaps = float(np.where(below | above, chebyshev, 0.0).sum() / count.sum())
    reason = (
        f'between {surely:.1%} and {perhaps:.1%} of iterations have Δ off Δ* by more '
        f'than {probability:.0%}; the theorem allows {probability:.0%}'
    )
    verdict = UNDECIDED
    if perhaps <= probability:
        verdict = HOLDS
    elif surely > probability:
        # The theorem bounds Δ − Δ* up to a constant.
        reason += ', up to a constant that is not stated'
    left = margin(perhaps, probability)
    return Finding(verdict, reason, perhaps, probability, left)


def corollary(case: Case) -> Finding:
    """Corollary 3.1: iterations to the new equilibrium after the learning rate fell."""
    series, before = case.series, case.previous
    why = _no_plain_fall(series, before)
    if before is None or why:
        return not_applicable(why)
    target = series.mean(series.norm4_eq, case.part)
    if not target > 0:
        return undecided('the mean of h̃ is not positive')
    drop, actual = before.lr[-1] / series.lr[0], before.norm4[-1] / target
    if actual < 1 + 4 * ANGLE_TOLERANCE or not 0.6 < actual / drop < 1.7:
        return not_applicable(
            f'‖w‖⁴ was {actual:.2g} times its new equilibrium, not {drop:.2g} times: L '
            'changed with the rate, or the stage before did not reach equilibrium'
        )
    settings = series.lr[0], series.decay[0], drop, series.momentum[0]
    needed = int(theory.iterations_to_equilibrium(*settings))
    near = np.abs(series.norm4 / target - 1) < ANGLE_TOLERANCE
    spent = series.iterations
    if not near.any():
        # Only the time that was taken can be held against the corollary.
        reason = (
            f'equilibrium was not reached in {spent:,} iterations; the corollary says '
            f'at least {needed:,}'
        )
        verdict = HOLDS if spent >= needed else UNDECIDED
        if verdict == UNDECIDED:
            reason += ', so a stage as short as this cannot tell'
        return Finding(verdict, reason, spent, needed)
    # Without any gradient, decay alone would take so long to come within tolerance.
    surely = float(np.log(actual / (1 + ANGLE_TOLERANCE)) / series.rate[0])
    return _time_taken(float(series.end[np.argmax(near)]), needed, surely)


def _no_plain_fall(series: Series, before: Series | None) -> str:
    """Why the corollary has nothing to say of this stage; empty if it has.

    It is about a constant learning rate that fell from another one, while the weights
    were left as they were.
    """
    if before is None or not len(before) or not before.decaying:
        return 'no stage precedes this one'
    fell = before.lr[-1] / series.lr[0] > 1.01
    if not (series.steady and before.steady and fell):
        return 'it is about a constant rate that falls to another'
    # Between the centres of the two windows, decay alone leaves this share of ‖w‖⁴.
    gone = (series.count[0] + before.count[-1]) / 2
    least = np.exp(-gone * max(series.rate[0], before.rate[-1]))
    if series.norm4[0] < 0.8 * least * before.norm4[-1]:
        return 'the weights were rescaled with the rate'
    return ''


def _time_taken(taken: float, needed: int, surely: float) -> Finding:
    """Verdict on the time that was taken.

    Args:
        taken: How many iterations ‖w‖⁴ took to come within tolerance.
        needed: How many it takes at least by the corollary.
        surely: How many decay alone takes: no noise can undercut them.
    """
    found = Finding(
        UNDECIDED,
        f'‖w‖⁴ came within {ANGLE_TOLERANCE:.0%} of its new equilibrium after '
        f'{taken:,.0f} iterations; the corollary says at least {needed:,}',
        *(taken, needed, taken / needed - 1),
    )
    if taken >= (1 - ANGLE_TOLERANCE) * needed:
        found.verdict = HOLDS
    elif taken < (1 - ANGLE_TOLERANCE) * surely:
        found.verdict = FAILS
        found.reason += f', and decay alone takes {surely:,.0f}'
    else:
        found.reason += ', which the noise of the norm and of L can explain'
    return found


EQUILIBRIUM: dict[str, Callable[[Case], Finding]] = {
    'weight_norm': weight_norm,
    'weight_norm_spread': norm_spread,
    'angular_update': angular_update,
    'angular_update_probability': angle_probability,
    'corollary_3_1': corollary,
}
