"""The assumptions of the theorems, each held against a layer's stage."""

from collections.abc import Callable

import numpy as np

from smd_mmdet import theory
from smd_mmdet.theory import THEORIES, Theory

from .case import RATE_TOLERANCE, Case
from .findings import Finding, margin, not_applicable, undecided
from .series import MIN_ITERATIONS, Series
from .statistics import MIN_BATCHES, quantile, t_below, tail_index
from .verdicts import FAILS, HOLDS, LEVEL, NOT_APPLICABLE, UNDECIDED

__all__ = [
    'ASSUMPTIONS',
    'assumptions_of',
    'bounded_noise',
    'lower_bound_strict',
    'lower_bound_windowed',
    'slow_drift',
    'small_step',
    'update_along_weight',
]


# A variance of this share of L² is one of rounding.
_ROUNDING = 1e-20
# From this p on L follows the norm rather than the data.
_CLIPPED = 0.02


def small_step(case: Case) -> Finding:
    """Assumption 1: λη is far below 1, and with momentum below (1 − √α)²."""
    series = case.series
    momentum = float(series.momentum.max())
    step = float((series.lr * series.decay).max())
    limit = float(theory.small_step_limit(momentum))
    reason = f'λη is {step:.2g}, its limit {limit:.2g}'
    found = Finding(HOLDS, reason, step, limit, margin(step, limit))
    if momentum == 0 and limit / 10 <= step < limit:
        found.verdict = UNDECIDED
        found.reason += ', and it should be far below'
    elif step >= limit:
        found.verdict = FAILS
    elif 0 < momentum <= 0.5:
        found.verdict = NOT_APPLICABLE
        found.reason += f'; the theorem wants a momentum over ½, not {momentum:g}'
    return found


def bounded_noise(case: Case) -> Finding:
    """Assumption 2: h̃ has a variance V.

    If it has none, single iterations dominate any estimate of V.
    """
    series = case.series
    if series.mean_drive <= 0:
        return undecided('the mean of h̃ is not positive')
    value = series.variance / series.mean_drive**2
    found = Finding(UNDECIDED, f'V/L² is {value:.2g}', value)
    if series.iterations < MIN_ITERATIONS:
        found.reason += f', from {series.iterations} iterations only'
        return found
    highest = series.drive_max
    level = series.level
    largest = np.maximum(highest - level, level - series.drive_min)
    total = series.variance * series.iterations
    share = float(largest.max() ** 2 / total) if total > 0 else 0.0
    index, error = tail_index(np.maximum(highest, 0.0))
    found.reason += f'; one iteration makes up {share:.0%} of it'
    if share > 0.5 or (share > 0.1 and index - 1.645 * error > 0.5):
        found.verdict = FAILS
        found.reason += ': the noise is heavy-tailed, V may not exist'
    elif share < 0.1:
        found.verdict = HOLDS
        found.margin = 1 - share / 0.1
    else:
        found.reason += ': more iterations would tell whether V exists'
    return found


def slow_drift(case: Case) -> Finding:
    """Assumption 3: L drifts slower than 4√V (λη)^{3/2} per iteration.

    V bounds the variance of h̃ from above only, so that a drift of L can be had by a
    larger V, at the price of a higher floor: ‖w‖² then is held to w*² only within
    √(λη/(1−α)·V/2)/L of it (linearized). The assumption fails where no V leaves that
    floor under w*² itself, so that the theorems say nothing. The drift is the slope of
    h̃ over the whole stage, its halves and its quarters.
    """
    series = case.series
    settings = series.lr[-1], series.decay[-1]
    if not series.mean_drive > 0:
        return undecided('the mean of h̃ is not positive')
    if series.mean(series.clipping_power) > _CLIPPED:
        return not_applicable('L follows the norm where gradients are clipped')
    if series.variance <= _ROUNDING * series.mean_drive**2:
        return undecided('h̃ has no variance, so that its drift has no error')
    per_root = float(theory.drift_limit(*settings, 1.0))  # the limit per √V
    own = np.sqrt(series.variance)
    most = series.mean_drive * np.sqrt(2 / series.weight_decay_rate[-1])
    bound = float(per_root * max(own, most))
    number = len(series)
    parts = [
        slice(number * i // pieces, number * (i + 1) // pieces)
        for pieces in (1, 2, 4)
        for i in range(pieces)
    ]
    slopes = [found for part in parts if (found := _slope(series, part))]
    if not slopes:
        return undecided(case.too_few or 'too few windows for a slope')
    tail = LEVEL / len(slopes)
    far = [abs(slope) + quantile(1 - tail, free) * err for slope, err, free in slopes]
    tested = [
        sum(t_below(free, (side * bound - abs(slope)) / err) for side in (1, -1))
        for slope, err, free in slopes
    ]
    tested = [min(1.0, p_value * len(slopes)) for p_value in tested]
    worst = int(np.argmin(tested))
    slope, error, _ = slopes[worst]
    finding = Finding(
        UNDECIDED,
        f'L moves by {slope:.2g} ± {error:.2g} per iteration'
        + _price(case, abs(slope), per_root),
        *(abs(slope), bound, margin(abs(slope), bound)),
        p_value=tested[worst],
    )
    if max(far) < bound:
        finding.verdict = HOLDS
    elif tested[worst] < LEVEL:
        finding.verdict = FAILS
    else:
        longer = series.iterations * max(2.0, (error / bound) ** (2 / 3))
        finding.reason += f'; about {longer:,.0f} iterations at one rate would decide'
    return finding


def _price(case: Case, slope: float, per_root: float) -> str:
    """What V a drift needs, and what that V says of the norm.

    Args:
        case: The layer's stage.
        slope: Drift of L per iteration.
        per_root: Limit of the drift per √V.
    """
    series, root = case.series, slope / per_root
    own, level = float(np.sqrt(series.variance)), series.mean_drive
    if root <= own:
        return f', its limit with V = Var(h̃) is {per_root * own:.2g}'
    floor = root / level * np.sqrt(series.weight_decay_rate[-1] / 2)
    text = (
        f': V must be {(root / level) ** 2:.2g} L² for that, where Var(h̃) is '
        f'{(own / level) ** 2:.2g} L², and then holds ‖w‖² to w*² within {floor:.0%}'
    )
    return text if floor < 1 else f'{text}, which is no statement'


def _slope(series: Series, part: slice) -> tuple[float, float, int] | None:
    """Slope of h̃ per iteration over batches, with its error and degrees of freedom.

    None where there are too few batches or iterations for a slope.
    """
    groups = series.groups(part, 2 * series.memory)
    if len(groups) < MIN_BATCHES + 1 or series.count[part].sum() < MIN_ITERATIONS:
        return None
    counts = series.totals(1.0, groups)
    middle = series.totals(series.end - series.count / 2, groups) / counts
    mean = series.totals(series.drive, groups) / counts
    time = middle - np.average(middle, weights=counts)
    square = (counts * time**2).sum()
    slope = (counts * time * mean).sum() / square
    level = np.average(mean, weights=counts)
    freedom = len(groups) - 2
    residual = (counts * (mean - level - slope * time) ** 2).sum() / freedom
    error = float(np.sqrt(residual / square))
    return (float(slope), error, freedom) if error > 0 else None


def _lower_bound(case: Case) -> tuple[float, str]:
    """The lower bound on h̃/L, and why it cannot be met, or an empty text."""
    series = case.series
    settings = series.lr.max(), series.decay.max(), series.momentum.max()
    share = float(theory.lower_bound_share(*settings))
    if np.isinf(share):
        step = settings[0] * settings[1]
        return share, f'λη = {step:.2g} is too large for any bound at this momentum'
    if not series.mean_drive > 0:
        return share, 'the mean of h̃ is not positive'
    return share, ''


def lower_bound_strict(case: Case) -> Finding:
    """Assumption 4 as it is written: a lower bound on h̃ at every iteration."""
    series = case.series
    bound, why = _lower_bound(case)
    if why:
        return Finding(FAILS, why, bound=bound)
    least = float(series.drive_min.min() / series.mean_drive)
    under = series.drive_min < bound * series.mean_drive
    reason = f'the lowest h̃ is {least:.2g} L, it should exceed {bound:.2g} L'
    if under.any():
        reason += (
            f'; it is lower in {under.mean():.0%} of windows (at least '
            f'{under.sum() / series.iterations:.1%} of iterations)'
        )
    verdict = FAILS if under.any() else HOLDS
    return Finding(verdict, reason, least, bound, least / bound - 1)


def lower_bound_windowed(case: Case) -> Finding:
    """Assumption 4 as the paper shows it: for means of h̃ over 200 iterations."""
    series = case.series
    bound, why = _lower_bound(case)
    if why:
        return Finding(FAILS, why, bound=bound)
    if series.iterations < MIN_ITERATIONS:
        return undecided(case.too_few)
    number = max(1, int(series.iterations // MIN_ITERATIONS))
    groups = [g for g in np.array_split(np.arange(len(series)), number) if len(g)]
    counts = series.totals(1.0, groups)
    means = series.totals(series.drive, groups) / counts / series.mean_drive
    error = np.sqrt(series.long_run_variance(slice(None)) / counts) / series.mean_drive
    lowest = int(np.argmin(means))
    value, reach = float(means[lowest]), quantile(1 - LEVEL / len(groups), np.inf)
    reach *= float(error[lowest])
    verdict = UNDECIDED
    if value > bound:
        verdict = HOLDS
    elif value + reach < bound:
        verdict = FAILS
    reason = (
        f'the lowest mean of h̃ over {counts[lowest]:.0f} iterations is {value:.2g} L, '
        f'it should exceed {bound:.2g} L'
    )
    if bound >= 1:
        reason += ', which no mean can: λη is too large for it at this momentum'
    return Finding(verdict, reason, value, bound, value / bound - 1)


def update_along_weight(case: Case) -> Finding:
    """What the law of AdamW and its kin needs of the updates u = m̂/√v̂.

    It takes gradients without correlation in time, and coordinates alike. Then
    E⟨w, u⟩ = −ηUβ₁/(1−β₁), from decay and momentum alone. What ⟨w, u⟩ exceeds that by
    acts like a weight decay of its share in ‖w‖², and is held against λ.
    """
    series = case.series
    along = series.extra_decay
    if not np.isfinite(along).all():
        return undecided('the records do not tell of ⟨w, m̂/√v̂⟩')
    estimate = series.ratio(
        along * series.norm_sq, series.decay * series.norm_sq, slice(None)
    )
    value, bound = estimate.value, RATE_TOLERANCE
    reason = (
        f'⟨w, m̂/√v̂⟩ decays the weight by {value:+.1%} of λ more than the law has it'
    )
    found = Finding(UNDECIDED, reason, value, bound, margin(abs(value), bound))
    if not estimate.decidable or series.iterations < MIN_ITERATIONS:
        found.reason += f': {case.too_few or "too few windows for its error"}'
        return found
    found.interval, found.p_value = estimate.interval, estimate.beyond(-bound, bound)
    if max(map(abs, estimate.interval)) <= bound:
        found.verdict = HOLDS
    elif found.p_value < LEVEL:
        found.verdict = FAILS
    else:
        found.reason += ': too noisy to tell'
    return found


# The assumptions of the paper's theorems, which are for SGD, and those of the law of
# adaptive optimizers.
ASSUMPTIONS: dict[str, Callable[[Case], Finding]] = {
    'small_step': small_step,
    'bounded_noise': bounded_noise,
    'slow_drift': slow_drift,
    'lower_bound_strict': lower_bound_strict,
    'lower_bound_windowed': lower_bound_windowed,
}
_ADAPTIVE: dict[str, Callable[[Case], Finding]] = {
    'update_along_weight': update_along_weight,
}


def assumptions_of(known: Theory | None) -> dict[str, Callable[[Case], Finding]]:
    """The assumptions to check under an optimizer.

    Args:
        known: What is known of the optimizer; None where nothing is.
    """
    if known is not None and known.drive == 'update_sq':
        return _ADAPTIVE
    if known is None or known is THEORIES['sgd']:
        return ASSUMPTIONS
    return dict.fromkeys(ASSUMPTIONS, _not_derived)


def _not_derived(case: Case) -> Finding:
    title = case.known.title
    return not_applicable(f"the paper's assumptions are those of SGD, not of {title}")
