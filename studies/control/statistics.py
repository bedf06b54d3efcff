"""How far apart curves are, how sure means over seeds are, where a sweep is best."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = [
    'Effect',
    'Interval',
    'best_of',
    'distance',
    'effect_of',
    'interval_of',
    'smoothed',
    'spread_of',
]


@dataclass(frozen=True)
class Interval:
    """The mean of a quantity over seeds.

    Args:
        mean: The mean.
        low: Lower end of its 95 % t interval; NaN for fewer than two seeds.
        high: Upper end.
        seeds: How many seeds there are.
    """

    mean: float
    low: float
    high: float
    seeds: int


def interval_of(values: Sequence[float]) -> Interval:
    """Mean and 95 % t interval; those that are NaN do not count."""
    known = np.array([value for value in values if np.isfinite(value)])
    if len(known) < 2:
        mean = float(known[0]) if len(known) else np.nan
        return Interval(mean, np.nan, np.nan, len(known))
    mean = float(known.mean())
    error = known.std(ddof=1) / np.sqrt(len(known))
    half = float(stats.t.ppf(0.975, len(known) - 1) * error)
    return Interval(mean, mean - half, mean + half, len(known))


def smoothed(losses: Sequence[float], width: int) -> np.ndarray:
    """Logarithms of a loss's means over so many iterations each; an odd end is left."""
    whole = len(losses) // width * width
    return np.log(np.reshape(losses[:whole], (-1, width)).mean(1))


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean distance of two curves."""
    return float(np.abs(one - other).mean())


def spread_of(curves: Sequence[np.ndarray]) -> float:
    """Mean distance of all pairs of curves; NaN for fewer than two."""
    pairs = [distance(*pair) for pair in itertools.combinations(curves, 2)]
    return float(np.mean(pairs)) if pairs else np.nan


@dataclass(frozen=True)
class Effect:
    """How far a change moves the loss from the reference, over seeds.

    Args:
        plain: Distance of the changed run from the reference of its seed, over the
            spread between seeds of the reference.
        replayed: The same where the reference's Δ is replayed.
        gains: Plain minus replayed, by seed.
    """

    plain: Interval
    replayed: Interval
    gains: Mapping[int, float]

    @property
    def closed(self) -> Interval:
        """Mean of the gains."""
        return interval_of(list(self.gains.values()))

    @property
    def verdict(self) -> str:
        """What the intervals allow to say of the replay."""
        if np.isnan(self.closed.low):
            return 'one seed: no interval'
        if self.closed.low > 0:
            within = self.replayed.high < 1
            return 'nearer, and within the spread' if within else 'nearer'
        return 'further' if self.closed.high < 0 else 'cannot be told'


def effect_of(
    reference: Mapping[int, np.ndarray],
    plain: Mapping[int, np.ndarray],
    replayed: Mapping[int, np.ndarray],
) -> Effect:
    """Compare changed runs with the reference of the same seed.

    Args:
        reference: Curve of the reference, by seed.
        plain: Curve of the changed run.
        replayed: Curve of the changed run with the reference's Δ.

    Returns:
        The effect, of the seeds that all three have. Where the reference has one seed,
        there is no spread, and the distances stay as they are.
    """
    seeds = sorted(reference.keys() & plain.keys() & replayed.keys())
    spread = spread_of(list(reference.values()))
    unit = spread if np.isfinite(spread) else 1.0
    far = [distance(plain[s], reference[s]) / unit for s in seeds]
    near = [distance(replayed[s], reference[s]) / unit for s in seeds]
    gains = dict(zip(seeds, np.subtract(far, near).tolist(), strict=True))
    return Effect(interval_of(far), interval_of(near), gains)


def best_of(peaks: Sequence[float], losses: Sequence[float]) -> tuple[float, bool]:
    """Where the loss is least, on a parabola in ln(peak) through the three lowest.

    Args:
        peaks: What was swept, rising.
        losses: The loss at each.

    Returns:
        The best peak, and whether it lies at an end of the sweep: then the least loss
        may be beyond.
    """
    peaks, losses = np.asarray(peaks, float), np.asarray(losses, float)
    at = int(np.nanargmin(losses))
    if at in (0, len(losses) - 1):
        return float(peaks[at]), True
    three = slice(at - 1, at + 2)
    x, y = np.log(peaks[three]), losses[three]
    if not np.isfinite(y).all():
        return float(peaks[at]), False
    square, slope, _ = np.polyfit(x - x[1], y, 2)
    top = -slope / (2 * square) if square > 0 else 0.0
    return float(np.exp(x[1] + np.clip(top, x[0] - x[1], x[2] - x[1]))), False
