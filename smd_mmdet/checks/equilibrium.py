"""What the theorems say of a layer in equilibrium."""

from collections.abc import Callable

import numpy as np

from smd_mmdet import theory
from smd_mmdet.theory import THEORIES

from .case import ANGLE_TOLERANCE, Case
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
            Δ/Δ* itself, −2/q for ‖w‖/w*.
        tolerance: Deviation from 1 that does not matter in practice.
    """
    why = case.unpredictable or (case.unreachable if len(case.series) > 1 else '')
    if why:
        found = not_applicable(why, estimate.value)
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
    power = -2 / case.known.exponent
    return _equilibrium(case, '‖w‖/w*', case.norm, power, case.norm_tolerance)


def angle_alone(case: Case) -> Finding:
    """Δ comes to Δ*, under an optimizer of which no law of the norm is known.

    How long the way to equilibrium takes is not derived then, so Δ may still come to
    Δ* later. LAMB turns a weight by Δ* = η at once.
    """
    optimizer, at_once = case.known.title, case.known is THEORIES['lamb']
    missing = case.too_few
    if not at_once and (case.lag or not case.series.steady):
        missing = (
            f'the learning rate moves, and {optimizer} has no formula for the way there'
        )
    found = within('Δ_rms/Δ*', case.angle, ANGLE_TOLERANCE, missing=missing)
    if found.verdict == FAILS and at_once:
        found.reason += f'; a step of {optimizer} is as long as the weight times η'
    elif found.verdict == FAILS:
        found.verdict, found.p_value = UNDECIDED, None
        found.reason += (
            f'; whether it had time to get there is not derived for {optimizer}'
        )
    return _throughout(found, case)


def norm_spread(case: Case) -> Finding:
    """Theorem 1: the stationary spread √E(‖w‖² − w*²)², as a share of w*²."""
    series, part = case.series, case.part
    if why := case.unpredictable or case.unreachable:
        return not_applicable(why)
    if case.too_few:
        return undecided(case.too_few)
    target = series.mean(series.power_eq, part) ** (2 / case.known.exponent)
    norm_var = series.columns['weight_norm_var']
    spread = (series.norm_sq - target) ** 2 + 4 * series.norm_sq * norm_var
    value = float(np.sqrt(series.mean(spread, part)) / target)
    linear = np.sqrt(series.wander(part))
    reason = f'‖w‖² spreads {value:.1%} about w*² (linearized: {linear:.1%})'
    if case.known is not THEORIES['sgd']:
        reason += f'; no bound is derived for {case.known.title}'
        return not_applicable(reason, value)
    if series.momentum[-1] > 0:
        reason += '; the bound of Theorem 2 has a constant C(α) that is not stated'
        return not_applicable(reason, value)
    least = float(series.drive_min.min())
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
    """Theorem 3: in which share of iterations Δ is far off Δ*; a figure, no verdict.

    With the lower bound l of h̃ the theorem has |Δ − Δ*| under a constant times
    (V/(Ll))^{1/3} but for as large a share of iterations. It does not state the
    constant, so that no run can fail it; 1 stands for it here, relative to Δ*. The
    records hold windows and not iterations, so the share is known only between two
    bounds. The lower one counts the lowest and the highest angle of each window, the
    upper one is Chebyshev's inequality.
    """
    series, part = case.series, case.part
    if case.known is not THEORIES['sgd']:
        return not_applicable(f'Theorem 3 is not derived for {case.known.title}')
    if why := case.unpredictable or case.unreachable or case.too_few:
        return not_applicable(why)
    least = float(series.drive_min[part].min())
    allowed = np.inf
    if least > 0:
        allowed = float((series.variance / series.mean_drive / least) ** (1 / 3))
    if allowed == 0:
        return not_applicable('h̃ has no variance, and the theorem allows no iteration')
    if allowed >= 1:
        return not_applicable(
            'V/(Ll) is over 1: the theorem allows any share of iterations'
        )
    surely, perhaps = _share_off(case, allowed)
    reason = (
        f'between {surely:.1%} and {perhaps:.1%} of iterations have Δ off Δ* by more '
        f'than {allowed:.0%}; the theorem allows {allowed:.0%}, up to a constant that '
        'is not stated'
    )
    found = not_applicable(reason, perhaps)
    found.bound, found.margin = allowed, margin(perhaps, allowed)
    return found


def _share_off(case: Case, allowed: float) -> tuple[float, float]:
    """The share of iterations in which Δ is off Δ*, at the least and at the most.

    Args:
        case: The layer's stage.
        allowed: By which share of Δ* it may be off.
    """
    series, part = case.series, case.part
    target = np.sqrt(series.angle_sq_eq[part])
    columns = {
        k: series.columns[f'angular_update_{k}'][part]
        for k in ('mean', 'var', 'min', 'max')
    }
    count, reach = series.count[part], allowed * target
    below = columns['min'] < target - reach
    above = columns['max'] > target + reach
    spread = columns['var'] + (columns['mean'] - target) ** 2
    surely = float((below.astype(float) + above).sum() / count.sum())
    chebyshev = np.minimum(spread / reach**2, 1.0) * count
    perhaps = float(np.where(below | above, chebyshev, 0.0).sum() / count.sum())
    return surely, perhaps


def corollary(case: Case) -> Finding:
    """Corollary 3.1: iterations to the new equilibrium after the learning rate fell.

    What can be proved of it is that decay alone, without any gradient, takes
    ln k/((q−p)λη_e) iterations with the new rate: ln k (1−α)/(4λη) under SGD. That is
    what the verdict is on. The paper's own estimate, ⌈ln k (1−α)/(2λη)⌉, does not say
    which η it means; it is told, and nothing fails on it.
    """
    series, before = case.series, case.previous
    why = _no_plain_fall(series, before) or case.unpredictable
    if not why and case.clipping_unknown:
        why = 'how far gradients are clipped is not known, nor where the norm has to go'
    if before is None or why:
        return not_applicable(why)
    target, left = series.settled(case.part), series.left_exponent
    if not target > 0:
        return undecided(case.words.no_drive)
    drop = before.lr[-1] / series.lr[0]
    actual = float(before.norm_to(left)[-1] / target)
    if actual < 1 + 4 * ANGLE_TOLERANCE or not 0.6 < actual / drop < 1.7:
        return not_applicable(
            f'the norm stood where a fall by {actual:.2g} belongs, and the rate fell '
            f'by {drop:.2g}: L changed with it, or the stage before did not reach '
            'equilibrium'
        )
    # Without any gradient, decay alone would take so long to come within tolerance.
    surely = float(np.log(actual / (1 + ANGLE_TOLERANCE)) / series.rate[0])
    near = np.abs(series.norm_to(left) / target - 1) < ANGLE_TOLERANCE
    taken = float(series.end[np.argmax(near)]) if near.any() else None
    found = _time_taken(taken, surely, float(series.iterations))
    if case.known is THEORIES['sgd'] and not series.clipping_power.any():
        settings = series.lr[0], series.decay[0], drop, series.momentum[0]
        estimate = int(theory.iterations_to_equilibrium(*settings))
        found.reason += f"; the paper's estimate is {estimate:,}"
    return found


def _no_plain_fall(series: Series, before: Series | None) -> str:
    """Why the corollary has nothing to say of this stage; empty if it has.

    It is about a constant learning rate that fell from another one, while the weights
    were left as they were.
    """
    if before is None or not (len(before) and before.law and before.decaying):
        return 'no stage of this optimizer precedes'
    fell = before.lr[-1] / series.lr[0] > 1.01
    if not (series.steady and before.steady and fell):
        return 'it is about a constant rate that falls to another'
    # Between the centres of the two windows, decay alone leaves this share of ‖w‖^q.
    gone = before.count[-1] * before.balance_rate[-1]
    gone += series.count[0] * series.balance_rate[0]
    least = np.exp(-gone / 2)
    if series.power[0] < 0.8 * least * before.power[-1]:
        return 'the weights were rescaled with the rate'
    return ''


def _time_taken(taken: float | None, surely: float, spent: float) -> Finding:
    """Verdict on the time that was taken.

    Args:
        taken: How many iterations the norm took to come within tolerance; None if it
            did not.
        surely: How many decay alone takes: no noise can undercut them.
        spent: How many iterations the stage has.
    """
    proved = f'decay alone takes {surely:,.0f}'
    if taken is None and spent < surely:
        return not_applicable(
            f'the stage has {spent:,.0f} iterations, and {proved}: too short to tell',
            spent,
        )
    if taken is None:
        reason = f'equilibrium was not reached in {spent:,.0f} iterations; {proved}'
        return Finding(HOLDS, reason, spent, surely, spent / surely - 1)
    reason = (
        f'the norm came within {ANGLE_TOLERANCE:.0%} of its new equilibrium after '
        f'{taken:,.0f} iterations; {proved}'
    )
    verdict = HOLDS if taken >= (1 - ANGLE_TOLERANCE) * surely else FAILS
    return Finding(verdict, reason, taken, surely, taken / surely - 1)


EQUILIBRIUM: dict[str, Callable[[Case], Finding]] = {
    'weight_norm': weight_norm,
    'weight_norm_spread': norm_spread,
    'angular_update': angular_update,
    'angular_update_probability': angle_probability,
    'corollary_3_1': corollary,
}
