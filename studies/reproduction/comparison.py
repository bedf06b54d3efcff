"""One experiment against another: their scores, seed by seed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .results import Results

__all__ = ['Paired', 'compared_with', 'paired']

LEVEL = 0.05


@dataclass(frozen=True)
class Paired:
    """A score in two experiments, seed by seed.

    Args:
        metric: Name of the score.
        iteration: Iteration of the validation.
        differences: Second minus first, one for each seed that both have.
        mean: Mean of the differences.
        interval: 95 % t interval of the mean; NaN for fewer than two seeds.
        p_value: Two-sided p of "there is no difference"; NaN where the interval is.
    """

    metric: str
    iteration: int
    differences: tuple[float, ...]
    mean: float
    interval: tuple[float, float]
    p_value: float

    @property
    def verdict(self) -> str:
        """The comparison in words that say no more than the seeds allow."""
        if not any(self.differences):
            return 'identical'
        if len(self.differences) < 2:
            return 'one seed: no interval'
        if not np.isfinite(self.p_value):
            return 'alike in all seeds: no interval'
        return 'significant' if self.p_value < LEVEL else 'not significant'


def compared_with(results: Results, all_of_them: Sequence[Results]) -> Results | None:
    """The experiment that one is compared with, if runs of both are finished."""
    for other in all_of_them:
        if other.experiment.name == results.experiment.against:
            return other if other.runs and results.runs else None
    return None


def paired(first: Results, second: Results) -> list[Paired]:
    """Differences of every score, second minus first, by metric and iteration."""
    by_seed = {result.task.seed: result for result in first.runs}
    pairs = [(by_seed[r.task.seed], r) for r in second.runs if r.task.seed in by_seed]
    found: dict[tuple[str, int], list[float]] = {}
    for before, after in pairs:
        for metric, values in after.scores.items():
            known = before.scores.get(metric, {})
            for iteration in values.keys() & known.keys():
                difference = values[iteration] - known[iteration]
                found.setdefault((metric, iteration), []).append(difference)
    return [_paired(*key, found[key]) for key in sorted(found)]


def _paired(metric: str, iteration: int, differences: list[float]) -> Paired:
    interval, p_value = (np.nan, np.nan), np.nan
    if len(differences) > 1 and np.ptp(differences) > 0:
        test = stats.ttest_1samp(differences, 0.0)
        p_value = float(test.pvalue)
        low, high = test.confidence_interval(1 - LEVEL)
        interval = float(low), float(high)
    mean = float(np.mean(differences))
    return Paired(metric, iteration, tuple(differences), mean, interval, p_value)
