"""What the theory says at every moment, in equilibrium or on the way to it."""

from collections.abc import Callable

import numpy as np
from scipy import optimize

from smd_mmdet.theory import THEORIES

from .case import ANGLE_TOLERANCE, RATE_TOLERANCE, Case, decays, transient
from .findings import Finding, margin, undecided, within
from .series import MIN_ITERATIONS, Series
from .statistics import Estimate, ratio_of_sums
from .verdicts import (
    FAILS,
    HOLDS,
    LEFT_REGIME,
    LEVEL,
    NOT_APPLICABLE,
    NOT_INVARIANT,
    UNDECIDED,
)

__all__ = [
    'COSINE_LEFT',
    'COSINE_ROUNDING',
    'MOTION',
    'RATE_TOLERANCE',
    'lemma_1',
    'linear_convergence',
    'scale_invariance',
    'transient_law',
]

# Float32 rounds ⟨w, g⟩, so that the cosine of one iteration is up to 3e-3, this way or
# that, where gradients are tiny.
COSINE_ROUNDING = 3e-3
# From this cosine on a weight is not scale-invariant, or no longer.
COSINE_LEFT = 2e-2


def lemma_1(case: Case) -> Finding:
    """Lemma 1: ⟨w, g⟩ = 0.

    Float32 rounds ⟨w, g⟩ at random, which averages out. A steady cosine does not: it
    works like a weight decay, or against it, and is held against the cosine that
    would change λ by more than the tolerance.
    """
    state = scale_invariance(case)
    if state is not None:
        verdict = FAILS if state[0] == NOT_INVARIANT else NOT_APPLICABLE
        value, bound = case.cosine, COSINE_LEFT
        return Finding(verdict, state[1], value, bound, margin(value, bound))
    steady, bound = case.steady_cosine, case.cosine_limit
    found = Finding(
        UNDECIDED,
        f'the mean of cosine(w, g) is {steady.value:.2g}, and its limit {bound:.2g}',
        *(steady.value, bound, margin(abs(steady.value), bound)),
    )
    if not steady.decidable:
        found.reason += f': {case.too_few or "too few windows for its error"}'
        return found
    found.interval, found.p_value = steady.interval, steady.beyond(-bound, bound)
    if max(map(abs, steady.interval)) <= bound:
        found.verdict = HOLDS
    elif found.p_value < LEVEL:
        found.verdict, found.cause = FAILS, decays(case, case.extra_share)
        found.reason += f': {found.cause}'
    else:
        found.reason += ': too noisy to tell'
    return found


def scale_invariance(case: Case) -> tuple[str, str] | None:
    """State and advice where ⟨w, g⟩ is not 0 (Lemma 1), else None.

    A layer that was never scale-invariant is told from one that has left the regime:
    the latter had a low cosine once, or turns less than the transient law says.
    """
    cosine = case.cosine
    if not cosine >= COSINE_LEFT:
        return None
    if (
        case.lowest_cosine > COSINE_LEFT / 2
        and not case.law.value < 1 - ANGLE_TOLERANCE
    ):
        return NOT_INVARIANT, (
            f'⟨w, g⟩ is not 0 (cosine {cosine:.2g}, never below '
            f'{case.lowest_cosine:.2g}): no norm takes the scale of this weight out'
        )
    return LEFT_REGIME, _advice(cosine, case.facts)


def _advice(cosine: float, facts: dict) -> str:
    """What to do about a layer whose norm is dominated by its ε."""
    eps, variance = facts.get('eps'), facts.get('output_variance')
    against = ''
    if eps and variance:
        against = f', output variance {variance:.2g} against ε = {eps:.2g}'
    elif eps:
        against = f', ε = {eps:.2g}'
    return (
        f'cosine(w, g) {cosine:.2g}{against}: the ε of its norm dominates, the layer '
        'is starved of gradient; lower its weight decay or ε, or let it see more data'
    )


def transient_law(case: Case) -> Finding:
    """The transient law: Δ_rms/Δ*·(‖w‖/w*)^(q/2) = 1, in equilibrium or not.

    It is checked over the whole stage, and over each third of it with the p-value
    multiplied by their number.
    """
    series = case.series
    whole = transient(series, slice(None))
    missing = ''
    if series.iterations < MIN_ITERATIONS:
        missing = case.too_few
    found = within(case.words.law, whole, ANGLE_TOLERANCE, missing=missing)
    parts = [transient(third, slice(None)) for third in _thirds(series)]
    worst, chance = _worst(parts, 1 - ANGLE_TOLERANCE, 1 + ANGLE_TOLERANCE)
    if found.p_value is not None and chance < LEVEL:
        found.p_value, found.verdict = min(found.p_value, chance), FAILS
        value = parts[worst].value
        found.reason += f'; it is {value:.3f} in the {_NAMES[worst]} third'
    return found


def linear_convergence(case: Case) -> Finding:
    """The rate at which ‖w‖^q relaxes, from its balance over the whole stage.

    d‖w‖^q/dt = −ρ(‖w‖^q − w*^q), where the drive ρ·w*^q, under SGD 2(η/(1−α))² h̃, is
    measured and contains no weight decay. Summed over the stage,
    ρ = Σ(drive − d‖w‖^q) / Σ‖w‖^q. No exponential is fitted, so L may drift, and may
    follow the norm as clipping makes it. Each third of the stage is checked as well: a
    wrong momentum makes ρ too low on the way to equilibrium, and too high there.
    """
    series, words = case.series, case.words
    if len(series) < 3 or not series.mean_drive > 0:
        return undecided('fewer than 3 windows' if len(series) < 3 else words.no_drive)
    estimate = _relaxation(series)
    if not np.isfinite(estimate.value):
        return undecided(case.too_few or 'too few windows for a rate')
    missing = '' if series.iterations >= MIN_ITERATIONS else case.too_few
    allowed = 1 / (1 + RATE_TOLERANCE), 1 + RATE_TOLERANCE
    law = words.rate(0.0)
    found = within(f'rate/({law})', estimate, RATE_TOLERANCE, allowed, missing=missing)
    last = float(series.balance_rate[-1])
    found.value, found.bound = estimate.value * last, last
    if found.interval is not None:
        low, high = found.interval
        found.interval = last * low, last * high
    found.reason += (
        f'; {words.power} relaxes at {found.value:.3g} per iteration, and {last:.3g} '
        f'≈ {law} is expected'
    )
    if case.known is THEORIES['sgd']:
        found.bound = 2 * float(series.weight_decay_rate[-1])
        found.reason += f' (the theorem guarantees {found.bound:.3g})'
    if clipping := round(series.mean(series.clipping_power), 2):
        found.reason += (
            ', to the equilibrium of its L, which follows the norm where gradients are '
            f'clipped: a distance is lost at {words.rate(clipping)} = '
            f'{series.mean(series.rate):.3g}'
        )
    part, ratio = series, estimate.value
    if found.p_value is not None:
        thirds = _thirds(series)
        rates = [_relaxation(third) for third in thirds]
        worst, chance = _worst(rates, *allowed)
        if chance < min(LEVEL, found.p_value):
            found.verdict, found.p_value = FAILS, chance
            part, ratio = thirds[worst], rates[worst].value
            found.reason += f'; the ratio is {ratio:.3f} in the {_NAMES[worst]} third'
    if found.verdict == FAILS:
        found.cause = _cause(case, part, ratio)
        found.reason += f'; {found.cause}'
    return found


_NAMES = 'first', 'middle', 'last'


def _thirds(series: Series) -> list[Series]:
    """The windows in three parts, as far as there are as many."""
    parts = np.array_split(np.arange(len(series)), 3)
    return [series.take(part) for part in parts if len(part)]


def _worst(estimates: list[Estimate], low: float, high: float) -> tuple[int, float]:
    """Which of some estimates is beyond a range most surely, and by what chance.

    Args:
        estimates: The estimates.
        low: Lower end of the range.
        high: Upper end of the range.

    Returns:
        The index of it, and the p-value, corrected for the number of estimates.
    """
    chances = [len(estimates) * each.beyond(low, high) for each in estimates]
    worst = int(np.argmin(chances))
    return worst, min(1.0, chances[worst])


def _relaxation(series: Series) -> Estimate:
    """The rate at which ‖w‖^q relaxes, as a multiple of q·λη_e."""
    drive, decay = series.balance(series.momentum)
    return _ratio_of_steps(series, drive - np.diff(series.power), decay, ~series.jumps)


def _cause(case: Case, series: Series, ratio: float) -> str:
    """What explains that ‖w‖^q relaxes at ``ratio`` times the expected rate.

    A gradient along w shows in the cosine, a wrong momentum in the transient law. A
    wrong weight decay shows in neither. Under AdamW and its kin a wrong β₁ shows as
    updates along w do, in ⟨w, u⟩.

    Args:
        case: The layer's stage.
        series: The windows of it in which that was measured.
        ratio: The measured rate as a multiple of the expected one.
    """
    words = case.words
    along = _extra_share(series)
    # What is left for the weight decay to explain.
    rest = ratio - (along if np.isfinite(along) else 0.0)
    if abs(rest - 1) < _EXPLAINED * abs(ratio - 1):
        other = _adaptive_momentum(series) if words.adaptive else np.nan
        why = f'; a β₁ of {other:.2g} would explain it too'
        return decays(case, case.extra_share) + (why if np.isfinite(other) else '')
    weight_decay = f'a weight decay of {series.decay[-1] * max(rest, 0):.2g}'
    if words.adaptive:
        if np.isnan(along):
            return f'{weight_decay} or another β₁ would explain it'
        if abs(along) < _EXPLAINED * abs(ratio - 1):
            return f'{weight_decay} would explain it'
        return 'neither a weight decay nor updates along w alone would explain it'
    law = transient(series, slice(None))
    low, likely, high = (
        _share_of_momentum(series, value, ratio)
        for value in (law.interval[0], law.value, law.interval[1])
    )
    if abs(high - low) > 1 - 2 * _EXPLAINED:
        return f'{weight_decay} or another momentum would explain it'
    if abs(likely) < _EXPLAINED:
        return f'{weight_decay} would explain it'
    if abs(likely - 1) < _EXPLAINED:
        momentum = _momentum_of(series, law.value)
        return f'a momentum of {momentum:.2g} would explain it'
    return 'neither a weight decay nor a momentum alone would explain it'


# A cause must leave less than this share of a deviation unexplained.
_EXPLAINED = 0.3


def _extra_share(series: Series) -> float:
    """The decay that steps along w amount to in the whole stage, as a share of λ."""
    kept = ~series.jumps
    _, decay = series.balance(series.momentum)
    along = series.extra_decay / series.decay
    along = (along[1:] + along[:-1]) / 2
    return float((along * decay)[kept].sum() / decay[kept].sum())


def _adaptive_momentum(series: Series) -> float:
    """The β₁ of AdamW that makes ⟨w, u⟩ what it was; NaN if that is not known.

    Under the law ⟨w, u⟩ is −ηUβ₁/(1−β₁), on the average.
    """
    share = -series.mean(series.update_along) / series.mean(series.lr * series.drive)
    return share / (1 + share) if share > 0 else np.nan


def _momentum_of(series: Series, law: float) -> float:
    """The momentum that makes the transient law 1; NaN if none does.

    Args:
        series: The windows.
        law: The measured Δ_rms/Δ*·(‖w‖/w*)².
    """
    if not law > 0:
        return np.nan
    wanted = law**2 * series.turning(float(series.momentum[-1]))

    def excess(momentum: float) -> float:
        return float(np.log(series.turning(momentum) / wanted))

    # Noise may take a momentum of 0 below 0.
    if 0 <= excess(0.0) < 0.02:
        return 0.0
    if excess(0.0) > 0 or excess(_MOST_MOMENTUM) < 0:
        return np.nan
    return float(optimize.brentq(excess, 0.0, _MOST_MOMENTUM, xtol=1e-6))


_MOST_MOMENTUM = 0.9999


def _share_of_momentum(series: Series, law: float, ratio: float) -> float:
    """Which share of the deviation of the rate is explained by another momentum.

    Args:
        series: The windows.
        law: The measured Δ_rms/Δ*·(‖w‖/w*)², which tells that momentum.
        ratio: The measured rate as a multiple of the expected one.
    """
    momentum = _momentum_of(series, law)
    drive, decay = series.balance(np.full(len(series), momentum))
    kept = ~series.jumps
    other = (drive - np.diff(series.power))[kept].sum() / decay[kept].sum()
    if not other > 0 or not ratio > 0:
        return np.nan
    return float(1 - np.log(other) / np.log(ratio))


def _ratio_of_steps(
    series: Series, above: np.ndarray, below: np.ndarray, kept: np.ndarray
) -> Estimate:
    """Ratio of two sums over the steps from window to window, in batches.

    Args:
        series: The windows.
        above: Numerator, one value per step.
        below: Denominator, one value per step.
        kept: Which steps take part.
    """
    batches = len(series.groups(slice(None), 4 * series.memory))
    index = np.flatnonzero(kept)
    if len(index) < 2 or batches < 2:
        return Estimate(np.nan, np.inf, 0, 0)
    groups = np.array_split(index, min(batches, len(index)))
    top = np.array([above[group].sum() for group in groups])
    bottom = np.array([below[group].sum() for group in groups])
    return ratio_of_sums(top, bottom)


MOTION: dict[str, Callable[[Case], Finding]] = {
    'lemma_1': lemma_1,
    'transient_law': transient_law,
    'linear_convergence': linear_convergence,
}
