"""Estimates from batches of windows, and what may be concluded from them."""

from dataclasses import dataclass

import numpy as np
from scipy import special

CONFIDENCE = 0.90
MIN_BATCHES = 5


@dataclass
class Estimate:
    """A ratio of means with its standard error."""

    value: float
    error: float
    freedom: float
    batches: int
    without_one: tuple[float, float] = (np.nan, np.nan)  # leaving any batch out

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
        """The estimate of value**power, by the delta method."""
        value = max(self.value, 0.0) ** power
        slope = power * value / self.value if self.value > 0 else np.inf
        low, high = (max(bound, 0.0) ** power for bound in self.without_one)
        error = self.error * slope
        return Estimate(value, error, self.freedom, self.batches, (low, high))

    def beyond(self, low: float, high: float) -> float:
        """One-sided p-value of lying outside [low, high].

        The deviation is that without the batch which deviates most: heavy-tailed
        noise puts all of it into one.
        """
        smallest, largest = self.without_one
        distance = max(low - largest, smallest - high)
        if not self.decidable or not distance > 0:
            return 1.0
        if self.error == 0:
            return float(distance <= 0)
        return t_below(self.freedom, -distance / self.error)


def t_below(freedom: float, value: float) -> float:
    """Distribution function of Student's t; normal for infinite freedom."""
    if np.isinf(freedom):
        return float(special.ndtr(value))
    return float(special.stdtr(freedom, value))


def quantile(probability: float, freedom: float) -> float:
    """Of Student's t, or of the normal distribution for infinite freedom."""
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
    """Hill's estimate from the upper half of windows' maxima; over ½: no variance."""
    ordered = np.sort(maxima)[::-1]
    number = len(ordered) // 2
    if number < MIN_BATCHES or ordered[number] <= 0:
        return 0.0, np.inf
    index = float(np.mean(np.log(ordered[:number] / ordered[number])))
    return index, index / np.sqrt(number)
