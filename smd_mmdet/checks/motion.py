"""What the theory says at every moment, in equilibrium or on the way to it."""

from collections.abc import Callable

import numpy as np

from .case import ANGLE_TOLERANCE, Case, transient
from .findings import Finding, undecided, within
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

# How far the rate of relaxation may be from 4λη/(1−α), as a share of it.
RATE_TOLERANCE = 0.10
# Float32 rounds ⟨w, g⟩, so that the cosine is up to 3e-3 where gradients are tiny.
COSINE_ROUNDING = 3e-3
# From this cosine on a weight is not scale-invariant, or no longer.
COSINE_LEFT = 2e-2


def lemma_1(case: Case) -> Finding:
    """Lemma 1: ⟨w, g⟩ = 0, as far as float32 can tell."""
    cosine = case.cosine
    found = Finding(
        UNDECIDED,
        f'cosine(w, g) is {cosine:.2g}',
        *(cosine, COSINE_ROUNDING, 1 - cosine / COSINE_ROUNDING),
    )
    state = scale_invariance(case)
    if state is not None:
        found.verdict = FAILS if state[0] == NOT_INVARIANT else NOT_APPLICABLE
        found.reason = state[1]
    elif cosine <= COSINE_ROUNDING:
        found.verdict = HOLDS
        found.reason += ', no more than float32 may round to'
    else:
        found.reason += (
            ': more than rounding explains, less than a norm that is lost; measure '
            'in float64, or see whether it grows'
        )
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
    rate = (series.rate[1:] + series.rate[:-1]) / 2
    fold = rate * series.step
    # The trapezoid rule gives too large an integral of an exponential. This factor
    # makes it exact.
    exact = np.tanh(fold / 2) / (fold / 2)
    drive = (series.rate * series.norm4_eq)[1:] + (series.rate * series.norm4_eq)[:-1]
    drive = drive / 2 * series.step * exact
    decay = (series.norm4[1:] + series.norm4[:-1]) / 2 * fold * exact
    left_over = drive - np.diff(series.norm4)
    estimate = _ratio_of_steps(series, left_over, decay, ~series.jumps)
    missing = '' if series.iterations >= MIN_ITERATIONS else case.too_few
    found = within('rate/(4λη/(1−α))', estimate, RATE_TOLERANCE, missing=missing)
    last, theorem = float(rate[-1]), float(rate[-1]) / 2
    found.value, found.bound = estimate.value * last, theorem
    if found.interval is not None:
        low, high = found.interval
        found.interval = last * low, last * high
    found.reason += (
        f'; ‖w‖⁴ relaxes at {found.value:.3g} per iteration (4λη/(1−α) = {last:.3g}, '
        f'the theorem guarantees {theorem:.3g})'
    )
    if found.verdict == FAILS:
        decay_of = series.decay[-1] * estimate.value
        found.reason += f'; a weight decay of {decay_of:.2g} would explain it'
    return found


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
