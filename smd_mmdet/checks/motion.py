"""What the theory says at every moment, in equilibrium or on the way to it."""

from collections.abc import Callable

import numpy as np

from smd_mmdet import theory

from .case import ANGLE_TOLERANCE, RATE_TOLERANCE, Case, transient
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
        found.verdict, found.cause = FAILS, _gradient_decays(case)
        found.reason += f': {found.cause}'
    else:
        found.reason += ': too noisy to tell'
    return found


def _gradient_decays(case: Case) -> str:
    """What a steady cosine does to the norm."""
    decay = float(case.series.decay[-1])
    total = decay + case.gradient_decay
    return (
        'the gradient is not orthogonal to the weight: it decays the weight as if λ '
        f'were {total:.2g} and not {decay:.2g} ({case.gradient_decay / decay:+.0%})'
    )


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
    """The transient law: Δ_rms/Δ*·(‖w‖/w*)² = 1, in equilibrium or not.

    It is checked over the whole stage, and over each third of it with the p-value
    multiplied by their number.
    """
    series = case.series
    whole = transient(series, slice(None))
    missing = ''
    if series.iterations < MIN_ITERATIONS:
        missing = case.too_few
    found = within('Δ_rms/Δ*·(‖w‖/w*)²', whole, ANGLE_TOLERANCE, missing=missing)
    thirds = np.array_split(np.arange(len(series)), 3)
    parts = [transient(series, slice(t[0], t[-1] + 1)) for t in thirds if len(t)]
    beyond = [
        min(1.0, len(parts) * p.beyond(1 - ANGLE_TOLERANCE, 1 + ANGLE_TOLERANCE))
        for p in parts
    ]
    worst = int(np.argmin(beyond)) if beyond else 0
    if found.p_value is not None and beyond and beyond[worst] < LEVEL:
        found.p_value = min(found.p_value, beyond[worst])
        found.verdict = FAILS
        name = ('first', 'middle', 'last')[worst]
        found.reason += f'; it is {parts[worst].value:.3f} in the {name} third'
    return found


def linear_convergence(case: Case) -> Finding:
    """The rate at which ‖w‖⁴ relaxes, from its balance over the whole stage.

    d‖w‖⁴/dt = −ρ(‖w‖⁴ − w*⁴), where the drive ρ·w*⁴ = 2(η/(1−α))² h̃ is measured and
    contains no weight decay. Summed over the stage, ρ = Σ(drive − d‖w‖⁴) / Σ‖w‖⁴. No
    exponential is fitted, so L may drift.
    """
    series = case.series
    if len(series) < 3 or not series.mean_h > 0:
        why = 'fewer than 3 windows' if len(series) < 3 else 'the mean of h̃ is not > 0'
        return undecided(why)
    estimate = _relaxation(series)
    if not np.isfinite(estimate.value):
        return undecided(case.too_few or 'too few windows for a rate')
    missing = '' if series.iterations >= MIN_ITERATIONS else case.too_few
    allowed = 1 / (1 + RATE_TOLERANCE), 1 + RATE_TOLERANCE
    found = within(
        'rate/(4λη/(1−α))', estimate, RATE_TOLERANCE, allowed, missing=missing
    )
    last = float(series.rate[-1])
    theorem = last / 2
    found.value, found.bound = estimate.value * last, theorem
    if found.interval is not None:
        low, high = found.interval
        found.interval = last * low, last * high
    found.reason += (
        f'; ‖w‖⁴ relaxes at {found.value:.3g} per iteration (4λη/(1−α) = {last:.3g}, '
        f'the theorem guarantees {theorem:.3g})'
    )
    if found.verdict == FAILS:
        found.cause = _cause(case, estimate.value)
        found.reason += f'; {found.cause}'
    return found


def _relaxation(series: Series) -> Estimate:
    """The rate at which ‖w‖⁴ relaxes, as a multiple of 4λη/(1−α)."""
    drive, decay = _balance(series, series.momentum)
    return _ratio_of_steps(series, drive - np.diff(series.norm4), decay, ~series.jumps)


def _balance(series: Series, momentum: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What drives ‖w‖⁴ up, and what decays it, from each window to the next.

    Args:
        series: The windows.
        momentum: Momentum by window, the recorded one or another.
    """
    rate = theory.norm4_rate(series.lr, series.decay, momentum)
    target = theory.equilibrium_norm4(series.lr, series.decay, series.h, momentum)
    fold = (rate[1:] + rate[:-1]) / 2 * series.step
    # The trapezoid rule gives too large an integral of an exponential. This factor
    # makes it exact.
    exact = np.tanh(fold / 2) / (fold / 2)
    drive = ((rate * target)[1:] + (rate * target)[:-1]) / 2
    decay = (series.norm4[1:] + series.norm4[:-1]) / 2 * fold
    return drive * series.step * exact, decay * exact


def _cause(case: Case, ratio: float) -> str:
    """What explains that ‖w‖⁴ relaxes at ``ratio`` times the expected rate.

    A gradient along w shows in the cosine, a wrong momentum in the transient law. A
    wrong weight decay shows in neither.
    """
    series, kept = case.series, ~case.series.jumps
    _, decay = _balance(series, series.momentum)
    along = series.gradient_decay / series.decay
    along = (along[1:] + along[:-1]) / 2
    gradient = float((along * decay)[kept].sum() / decay[kept].sum())
    # What is left for the weight decay to explain.
    rest = ratio - gradient
    if abs(rest - 1) < _EXPLAINED * abs(ratio - 1):
        return _gradient_decays(case)
    weight_decay = f'a weight decay of {series.decay[-1] * max(rest, 0):.2g}'
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
        momentum = _momentum_of(law.value, series.momentum[-1])
        return f'a momentum of {momentum:.2g} would explain it'
    return 'neither a weight decay nor a momentum alone would explain it'


# A cause must leave less than this share of a deviation unexplained.
_EXPLAINED = 0.3


def _momentum_of(law: float, momentum: float) -> float:
    """The momentum that makes the transient law 1; NaN if none does.

    Under a true momentum α, Δ²‖w‖⁴ is Lη²/(1−α²).

    Args:
        law: The measured Δ_rms/Δ*·(‖w‖/w*)².
        momentum: The recorded momentum.
    """
    square = 1 - (1 - momentum**2) / law**2 if law > 0 else np.nan
    # Noise may take a momentum of 0 below 0.
    return float(np.sqrt(max(square, 0.0))) if square > -0.02 else np.nan


def _share_of_momentum(series: Series, law: float, ratio: float) -> float:
    """Which share of the deviation of the rate is explained by another momentum.

    Args:
        series: The windows.
        law: The measured Δ_rms/Δ*·(‖w‖/w*)², which tells that momentum.
        ratio: The measured rate as a multiple of 4λη/(1−α).
    """
    momentum = _momentum_of(law, series.momentum[-1])
    drive, decay = _balance(series, np.full(len(series), momentum))
    kept = ~series.jumps
    other = (drive - np.diff(series.norm4))[kept].sum() / decay[kept].sum()
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
