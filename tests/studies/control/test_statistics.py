"""Distances, intervals and best points, against closed forms."""

import numpy as np
import pytest
from scipy import stats

from studies.control.statistics import (
    best_of,
    distance,
    effect_of,
    interval_of,
    smoothed,
    spread_of,
)


def test_the_interval_is_that_of_students_t():
    values = [0.3, 0.9, 0.45, 0.6]
    found = interval_of([*values, np.nan])
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.mean, found.seeds) == (pytest.approx(0.5625), 4)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_one_seed_has_no_interval_and_none_no_mean():
    one, none = interval_of([2.0]), interval_of([])
    assert one.mean == 2 and np.isnan([one.low, one.high]).all()
    assert np.isnan(none.mean) and none.seeds == 0


def test_a_curve_has_the_logarithm_of_means():
    found = smoothed([1.0, 3.0, 8.0, 0.0, 99.0], 2)
    assert found == pytest.approx(np.log([2, 4]))


def test_a_factor_of_the_loss_is_as_far_as_its_logarithm():
    curve = np.log(np.linspace(2, 1, 20))
    assert distance(curve, curve + np.log(1.1)) == pytest.approx(np.log(1.1))
    # Pairs of 0, 1 and 3 are 1, 2 and 3 apart.
    assert spread_of([curve, curve + 1, curve + 3]) == pytest.approx(2)
    assert np.isnan(spread_of([curve]))


def curves(*shifts):
    return {seed: np.full(5, shift) for seed, shift in enumerate(shifts)}


REFERENCE = curves(0.0, 0.2, 0.4)


@pytest.mark.parametrize(
    ('plain', 'replayed', 'verdict'),
    [
        # The spread of the reference is 0.8/3, so these are 3 and 0.375 of it.
        (curves(0.8, 1.01, 1.19), curves(0.1, 0.3, 0.5), 'nearer, and within'),
        (curves(0.8, 1.01, 1.19), curves(0.3, 0.52, 0.7), 'nearer'),
        (curves(0.1, 0.31, 0.5), curves(0.3, 0.5, 0.7), 'further'),
        (curves(0.1, 0.5, 0.5), curves(0.2, 0.3, 0.6), 'cannot be told'),
    ],
)
def test_the_verdict_is_what_the_intervals_allow(plain, replayed, verdict):
    effect = effect_of(REFERENCE, plain, replayed)
    assert effect.verdict.startswith(verdict)
    assert effect.verdict == verdict or effect.verdict.startswith(f'{verdict} the')
    assert effect.closed.mean == pytest.approx(effect.plain.mean - effect.replayed.mean)


def test_the_effect_is_in_units_of_the_spread():
    effect = effect_of(REFERENCE, curves(0.8, 1.0, 1.2), curves(0.1, 0.3, 0.5))
    assert effect.plain.mean == pytest.approx(3)
    assert effect.replayed.mean == pytest.approx(0.375)


def test_seeds_that_one_of_them_lacks_do_not_count():
    effect = effect_of(REFERENCE, curves(0.8), curves(0.1, 0.3))
    assert effect.closed.seeds == 1
    assert effect.verdict == 'one seed: no interval'


def test_the_best_point_is_that_of_the_parabola():
    peaks = np.geomspace(1e-3, 1e-1, 5)
    losses = 0.4 + 0.05 * (np.log(peaks) - np.log(7e-3)) ** 2
    assert best_of(peaks, losses) == (pytest.approx(7e-3), False)


@pytest.mark.parametrize('best', [1e-4, 1.0])
def test_a_best_point_at_an_end_is_told(best):
    peaks = np.geomspace(1e-3, 1e-1, 5)
    losses = np.abs(np.log(peaks / best))
    assert best_of(peaks, losses) == (peaks[np.argmin(losses)], True)
