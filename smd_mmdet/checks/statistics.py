"""Estimates from batches of windows, and what may be concluded from them."""

from dataclasses import dataclass

import numpy as np
from scipy import special

__all__ = [
    'CONFIDENCE',
    'MIN_BATCHES',
    'Estimate',
    'quantile',
    'ratio_of_sums',
    't_below',
    'tail_index',
]

CONFIDENCE = 0.90
# A standard error from fewer batches decides nothing.
MIN_BATCHES = 5


@dataclass
class Estimate:
    """A ratio of means with its standard error.

    Args:
        value: The ratio.
        error: Standard error of the ratio.
        freedom: Degrees of freedom of the error; infinite where it is known.
        batches: How many batches the ratio was measured in.
        without_one: The lowest and the highest value that the ratio takes when a
            single batch is left out.
    """

    value: float
    error: float
    freedom: float
    batches: int
    without_one: tuple[float, float] = (np.nan, np.nan)

    @property
    def decidable(self) -> bool:
        """Whether there are batches enough for a verdict."""
        return self.batches >= MIN_BATCHES and bool(np.isfinite(self.error))

    @property
    def interval(self) -> tuple[float, float]:
        """Confidence interval of the value."""
        reach = quantile((1 + CONFIDENCE) / 2, self.freedom) * self.error
        return self.value - reach, self.value + reach

    def root(self, power: float = 0.5) -> 'Estimate':
        """The estimate of value^power, with the error that the delta method gives."""
        value = max(self.value, 0.0) ** power
        slope = power * value / self.value if self.value > 0 else np.inf
        low, high = (max(bound, 0.0) ** power for bound in self.without_one)
        error = self.error * slope
        return Estimate(value, error, self.freedom, self.batches, (low, high))

    def beyond(self, low: float, high: float) -> float:
        """One-sided p-value of the hypothesis that the ratio lies in [low, high].

        The deviation is taken without the batch that deviates most, for heavy-tailed
        noise puts all of it into one batch.
        """
        smallest, largest = self.without_one
        distance = max(low - largest, smallest - high)
        if not self.decidable or not distance > 0:
            return 1.0
        if self.error == 0:
            return float(distance <= 0)
        return t_below(self.freedom, -distance / self.error)


def t_below(freedom: float, value: float) -> float:
    """Distribution function of Student's t; that of the normal for infinite freedom."""
    if np.isinf(freedom):
        return float(special.ndtr(value))
    return float(special.stdtr(freedom, value))


def quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t; that of the normal distribution for infinite freedom."""
    if np.isinf(freedom):
        return float(special.ndtri(probability))
    return float(special.stdtrit(max(freedom, 1), probability))


def ratio_of_sums(top: np.ndarray, bottom: np.ndarray) -> Estimate:
    """Ratio of two sums over batches, with the error that the batches show."""
    number, total = len(top), bottom.sum()
    value = float(top.sum() / total)
    if number < 2:
        return Estimate(value, np.inf, 0, number)
    residual = top - value * bottom
    error = np.sqrt(number / (number - 1) * (residual**2).sum()) / total
    with np.errstate(divide='ignore', invalid='ignore'):
        others = (top.sum() - top) / (total - bottom)
    span = float(others.min()), float(others.max())
    return Estimate(value, float(error), number - 1, number, span)


def tail_index(maxima: np.ndarray) -> tuple[float, float]:
    """Hill's estimate of the tail index from the upper half of the windows' maxima.

    Args:
        maxima: Largest value of each window.

    Returns:
        The index and its standard error. A distribution whose index is over ½ has no
        variance.
    """
    ordered = np.sort(maxima)[::-1]
    number = len(ordered) // 2
    if number < MIN_BATCHES or ordered[number] <= 0:
        return 0.0, np.inf
    index = float(np.mean(np.log(ordered[:number] / ordered[number])))
    return index, index / np.sqrt(number)
