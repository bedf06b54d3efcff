"""The reduction of lines, against numpy."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smd_mmdet.report.reduce import min_max, split_points, time_bounds, time_means

lines = st.lists(
    st.one_of(st.just(np.nan), st.floats(-1e6, 1e6)), min_size=1, max_size=300
)


@settings(max_examples=150, deadline=None)
@given(lines, st.integers(1, 40))
def test_every_bucket_keeps_its_extremes(values, buckets):
    values = np.array(values)
    kept = min_max(values, buckets)
    assert (np.diff(kept) > 0).all()
    assert kept[0] == 0
    assert kept[-1] == len(values) - 1
    assert len(kept) <= 2 * buckets + 2
    width = -(-len(values) // buckets)
    for start in range(0, len(values), width):
        bucket = values[start : start + width]
        left = values[kept[(kept >= start) & (kept < start + width)]]
        known, still = bucket[np.isfinite(bucket)], left[np.isfinite(left)]
        if len(known):
            assert (still.min(), still.max()) == (known.min(), known.max())
        else:
            assert len(left) >= 1
            assert np.isnan(left).all()


def test_short_lines_are_kept_whole():
    assert min_max(np.arange(20.0), 10).tolist() == list(range(20))
    with pytest.raises(ValueError, match='buckets must be at least 1'):
        min_max(np.arange(20.0), 0)


@settings(max_examples=100, deadline=None)
@given(lines, st.integers(1, 30))
def test_time_columns_against_numpy(values, columns):
    values = np.array(values)
    times = np.cumsum(np.random.default_rng(0).integers(1, 9, len(values)))
    edges = split_points(times, columns)
    means, (low, high) = (
        time_means(times, values, edges),
        time_bounds(times, values, edges),
    )
    for i, (start, end) in enumerate(pairwise(edges)):
        inside = values[(times > start) & (times <= end)]
        inside = inside[np.isfinite(inside)]
        if not len(inside):
            assert np.isnan([means[i], low[i], high[i]]).all()
            continue
        assert means[i] == pytest.approx(inside.mean(), rel=1e-9, abs=1e-6)
        assert (low[i], high[i]) == (inside.min(), inside.max())
