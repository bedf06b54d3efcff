"""What a check finds, and the verdict on a ratio that should be 1."""

from dataclasses import dataclass

import numpy as np

from .statistics import CONFIDENCE, Estimate
from .verdicts import FAILS, HOLDS, LEVEL, NOT_APPLICABLE, UNDECIDED

__all__ = ['Finding', 'margin', 'not_applicable', 'undecided', 'within']


@dataclass
class Finding:
    """What a check finds: a :class:`Check` without its name and kind."""

    verdict: str
    reason: str
    value: float | None = None
    bound: float | None = None
    margin: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    cause: str = ''


def margin(value: float, bound: float) -> float | None:
    """How far a value stays under its bound, as a share of it; None if that is 0."""
    return 1 - value / bound if bound else None


def undecided(reason: str) -> Finding:
    """The finding where what was measured cannot tell."""
    return Finding(UNDECIDED, reason)


def not_applicable(reason: str, value: float | None = None) -> Finding:
    """The finding where the theory says nothing."""
    return Finding(NOT_APPLICABLE, reason, value)


def within(
    what: str,
    estimate: Estimate,
    tolerance: float,
    allowed: tuple[float, float] | None = None,
    missing: str = '',
) -> Finding:
    """Verdict on a ratio that the theory says is 1.

    Args:
        what: Name of the ratio, for the reason.
        estimate: The measured ratio.
        tolerance: Deviation from 1 that does not matter in practice.
        allowed: Range within which the ratio does not fail; by default 1 ± tolerance.
        missing: Why no verdict can be given; empty if one can.
    """
    low, high = estimate.interval if estimate.decidable else (np.nan, np.nan)
    left = (tolerance - abs(estimate.value - 1)) / tolerance
    found = Finding(UNDECIDED, missing, estimate.value, 1.0, left, (low, high))
    if missing or not estimate.decidable:
        found.reason = missing or f'{what}: too few batches for a confidence interval'
        return found
    allowed = allowed or (1 - tolerance, 1 + tolerance)
    found.p_value = estimate.beyond(*allowed)
    span = f'{what} is {estimate.value:.3f} ({CONFIDENCE:.0%}: {low:.3f} to {high:.3f})'
    if 1 - tolerance <= low and high <= 1 + tolerance:
        found.verdict = HOLDS
        found.reason = f'{span}, within {tolerance:.0%} of 1'
    elif found.p_value < LEVEL:
        found.verdict = FAILS
        found.reason = f'{span}, beyond {tolerance:.0%} of 1'
    else:
        found.reason = f'{span}: too noisy to tell from 1 ± {tolerance:.0%}'
    return found
