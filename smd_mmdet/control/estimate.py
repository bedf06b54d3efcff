"""How far the weights turn at the norms they have: what is signal, and what is noise.

What a few steps show of a layer is an estimate. Its error is known from how the steps
differ, and with momentum they differ less than their number tells, since each has most
of the one before in it. A Kalman filter weighs it against what was believed before; by
how much that changes by itself is learned from how far the estimates are apart. And
what momentum has gathered is no noise for the next few steps: a part of what is seen,
the larger the fewer steps there are, goes on.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = ['DriveEstimate', 'persistence', 'relative_variance']

# A layer that took fewer steps tells nothing.
FEWEST_STEPS = 5
# Variance of the relative change of the drive from one estimate to the next, before
# anything is known of it, and at least: a young network's changes by a third of itself,
# and no network's holds still.
_CHANGE, _LEAST_CHANGE = 0.1, 0.02
# Squared distance that counts at most for what an estimate's own error is.
_MOST = 0.5
# Share of the newest estimate in what is known of that variance.
_NEWEST = 0.2
# What noise explains is no further away than so many standard deviations. What is
# further away is a change.
_FURTHEST = 2.0


def relative_variance(
    mean: np.ndarray, variance: np.ndarray, count: np.ndarray, momentum: np.ndarray
) -> np.ndarray:
    """Variance of the mean square of Δ over some steps, relative to its square.

    Args:
        mean: Mean of Δ.
        variance: Variance of Δ.
        count: Number of steps.
        momentum: Momentum α, or β₁. The squared norm of an average of gradients is
            correlated by α² from one step to the next.

    Returns:
        4·var/mean² · (1+α²)/(1−α²) / count, to first order.

    Example:
        >>> few = dict(mean=np.array(1e-2), variance=np.array(1e-6), count=np.array(20))
        >>> [float(relative_variance(**few, momentum=a).round(4)) for a in (0, 0.9)]
        [0.002, 0.0191]
    """
    squared = np.asarray(momentum) ** 2
    with np.errstate(divide='ignore', invalid='ignore'):
        return 4 * variance / mean**2 * (1 + squared) / (1 - squared) / count


def persistence(count: np.ndarray, momentum: np.ndarray) -> np.ndarray:
    """How much of what some steps have above the mean the same number after them has.

    It is the correlation between the means of two windows in a row, if from one step to
    the next it is ρ = α²: ρ(1−ρⁿ)² / (n(1−ρ²) − 2ρ(1−ρⁿ)).

    Args:
        count: Number n of steps of a window.
        momentum: Momentum α, or β₁.

    Returns:
        From 0 to 1.

    Example:
        >>> [float(persistence(np.array(n), 0.9).round(2)) for n in (1, 5, 20, 100)]
        [0.81, 0.52, 0.15, 0.02]
    """
    one, n = np.asarray(momentum, float) ** 2, np.maximum(count, 1)
    gone = 1 - one**n
    return one * gone**2 / (n * (1 - one**2) - 2 * one * gone)


class DriveEstimate:
    """Δ²/η² of each layer at the norm that it has.

    Args:
        layers: Number of layers.

    Attributes:
        value: The estimates; NaN before the first. Shape (layers,).

    Example:
        The first estimate is believed. Of those that follow the noisy one counts less:

        >>> drive = DriveEstimate(2)
        >>> drive.update(np.array([4.0, 4.0]), np.array([0.01, 1.0]))
        >>> drive.update(np.array([5.0, 5.0]), np.array([0.01, 1.0]))
        >>> drive.value.round(2).tolist()
        [4.92, 4.52]

        A weight of half the norm turns four times as far under SGD, sixteen times in
        the square:

        >>> drive.scale(np.array([16.0, 1.0]))
        >>> drive.value.round(1).tolist()
        [78.7, 4.5]
    """

    def __init__(self, layers: int) -> None:
        self.value = np.full(layers, np.nan)
        self._variance = np.full(layers, np.inf)
        self._change = np.full(layers, _CHANGE)
        # Mean square distance of an estimate from what is then seen, and half of the
        # share of it that is the estimate's own error.
        self._apart_sq, self._error = np.zeros(layers), np.zeros(layers)

    @property
    def expected(self) -> np.ndarray:
        """What is to be expected of the steps to come.

        A mean of values over estimates that are as often too high as too low is above
        1, by the variance of the estimates.
        """
        return self.value * (1 + self._error)

    def scale(self, factors: np.ndarray) -> None:
        """Follow a change of the norms.

        Args:
            factors: What Δ²/η² is multiplied by; shape (layers,).
        """
        self.value = self.value * factors

    def update(
        self,
        measured: np.ndarray,
        variance: np.ndarray,
        persistence: np.ndarray | float = 0.0,
        largest: float = np.inf,
    ) -> None:
        """Take in what some steps have shown.

        Args:
            measured: Δ²/η² at the norm of now; NaN where it is not known.
            variance: Its relative variance.
            persistence: The share of that which goes on in the steps to come.
            largest: By what factor an estimate changes at most, but for the first.
        """
        known = np.isfinite(measured) & (measured > 0) & np.isfinite(variance)
        first = known & ~np.isfinite(self.value)
        self.value = np.where(first, measured, self.value)
        self._variance = np.where(first, variance, self._variance + self._change)
        later = known & ~first
        before = np.where(later, self.value, 1.0)
        spread = np.where(later, self._variance, 0.0)
        noise = np.where(later, variance, 1.0)
        apart = np.where(later, measured / before - 1, 0.0)
        changed = apart**2 > _FURTHEST**2 * (spread + noise)
        spread = np.where(changed, np.maximum(spread, apart**2 - noise), spread)
        gain = spread / (spread + noise)
        gain = np.where(later, gain, 0.0)
        total = gain + (1 - gain) * persistence
        move = total * apart
        # A drive is positive, however far below an estimate may be.
        move = np.clip(move, max(1 / largest - 1, -0.9), largest - 1)
        self.value = np.where(later, before * (1 + move), self.value)
        self._variance = np.where(later, (1 - gain) * spread, self._variance)
        learned = (1 - _NEWEST) * self._change + _NEWEST * move**2
        learned = np.maximum(learned, _LEAST_CHANGE)
        self._change = np.where(later, learned, self._change)
        squares = np.minimum(apart**2, _MOST)
        squares = (1 - _NEWEST) * self._apart_sq + _NEWEST * squares
        self._apart_sq = np.where(later, squares, self._apart_sq)
        self._error = np.where(later, total / 2 * self._apart_sq, self._error)

    def state_dict(self) -> dict[str, list[float]]:
        """Plain values, for a checkpoint."""
        return {key: values.tolist() for key, values in vars(self).items()}

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """Continue from :meth:`state_dict`."""
        for key in vars(self):
            setattr(self, key, np.array(state[key]))
