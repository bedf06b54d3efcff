"""How near a layer turns to the angle that a controller wants of it.

Where SMDRescaleHook(angular_update=...) sets Δ it is no balance of gradients and decay
that holds the norm, and what the theorems say of equilibrium is not tested by it.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from .case import ANGLE_TOLERANCE
from .findings import Finding, not_applicable
from .series import Series
from .verdicts import FAILS, HOLDS, LEVEL, UNDECIDED

__all__ = [
    'CONTROLLED_BY',
    'SHARE_WANTED',
    'WANTED',
    'Followed',
    'first_controlled',
    'follow',
]

# Name of the check, and why those of equilibrium do not apply.
WANTED = 'wanted_angular_update'
CONTROLLED_BY = (
    'a controller sets Δ: it holds the norm where it is, and not the balance of '
    'gradients and decay'
)
# Least share of the windows in which Δ_rms is to be within 10 % of the wanted.
SHARE_WANTED = 0.9
# Steps from one control to the next, where the records do not tell.
_EVERY = 20


@dataclass(frozen=True)
class Followed:
    """How near a layer's stage comes to what is wanted.

    Args:
        windows: Number of windows after the first control.
        near: In how many of them Δ_rms is within 10 % of the wanted.
        wanted: Wanted Δ_rms at the end of the stage, in radians.
    """

    windows: int
    near: int
    wanted: float

    def finding(self) -> Finding:
        """Whether Δ is within 10 % of the wanted in 90 % of the windows."""
        if not self.windows:
            return not_applicable('no window begins after the first control')
        share = self.near / self.windows
        # A share that is lower by chance, if 90 % is what the controller comes to.
        chance = float(stats.binom.cdf(self.near, self.windows, SHARE_WANTED))
        verdict = HOLDS if share >= SHARE_WANTED else UNDECIDED
        if verdict == UNDECIDED and chance < LEVEL:
            verdict = FAILS
        return Finding(
            verdict,
            f'Δ_rms is within {ANGLE_TOLERANCE:.0%} of the wanted in {self.near} of '
            f'{self.windows} windows after the first control; {SHARE_WANTED:.0%} are '
            'asked for',
            share,
            SHARE_WANTED,
            share / SHARE_WANTED - 1,
            p_value=chance,
        )


def first_controlled(metadata: dict, iterations_per_step: int) -> int:
    """The first iteration after a run's first control, counted from 1.

    Args:
        metadata: The facts beside the run's records.
        iterations_per_step: Iterations that make one step of the optimizer.

    Example:
        >>> first_controlled({'controlled': {'every': 20}}, iterations_per_step=2)
        41
    """
    every = (metadata.get('controlled') or {}).get('every', _EVERY)
    return int(every) * iterations_per_step + 1


def follow(series: Series, begin: int) -> Followed | None:
    """Hold a layer's stage against what is wanted of it.

    Args:
        series: The windows of the layer in the stage.
        begin: The first iteration after the first control.

    Returns:
        How near it comes; None where nothing is wanted.
    """
    wanted = series.columns.get('angular_update_wanted', np.empty(0))
    known = np.isfinite(wanted) & (wanted > 0)
    if not known.any():
        return None
    begins = np.array([series.windows.begin(end) for end in series.columns['iter']])
    judged = known & (begins >= begin)
    with np.errstate(invalid='ignore'):
        off = np.abs(np.sqrt(series.angle_sq) / wanted - 1)
    near = judged & (off <= ANGLE_TOLERANCE)
    last = wanted[known][-1]
    return Followed(int(judged.sum()), int(near.sum()), float(last))
