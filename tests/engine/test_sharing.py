"""Processes that measure together, in a plain torch loop: shares, faults, resumes."""

import itertools

import numpy as np
import pytest
from processes import assert_equal_but_for_rounding, on_ranks
from versions import TORCH

from smd_mmdet.monitor.quantities import QUANTITIES
from smd_mmdet.monitor.sharing import PER_LAYER, share_out

# Functions of torch_ranks.py that need no run.
PLAIN = ('monitors', 'followed', 'saved', 'broken')


def test_every_rank_has_about_as_much_to_read():
    generator = np.random.default_rng(0)
    for world in (1, 2, 4, 8):
        sizes = (10 ** generator.uniform(2, 6.4, 60)).astype(int).tolist()
        shares = share_out(sizes, world)
        assert sorted(itertools.chain(*shares)) == list(range(60))
        loads = [sum(sizes[i] + PER_LAYER for i in share) for share in shares]
        # Of this greedy rule: no load exceeds the mean by more than the last layer
        # it was given, and that is not above what the mean leaves room for.
        assert max(loads) <= sum(loads) / world + max(sizes) + PER_LAYER
        assert max(loads) <= 4 / 3 * max(sum(loads) / world, max(sizes) + PER_LAYER)


def test_more_ranks_than_layers():
    assert share_out([5, 7], 4) == [[1], [0], [], []]


@pytest.mark.parametrize(
    'world', [2, pytest.param(4, marks=pytest.mark.slow)]
)  # fmt: skip
def test_ranks_measure_together_what_one_measures_alone(tmp_path, world):
    # Mixed precision on the CPU came with torch 2.4.
    scaled = ('scaled',) if TORCH >= (2, 4) else ()
    on_ranks(world, tmp_path, *PLAIN, *scaled, program='torch_ranks.py')
    files = sorted(tmp_path.glob('*.npz'))
    assert len(files) == 6
    for file in files:
        both = np.load(file)
        rows, expected = (
            {key.split('/')[1]: both[key] for key in both if key.startswith(which)}
            for which in ('shared', 'single')
        )
        assert_equal_but_for_rounding(rows, expected, QUANTITIES)
        clipped = rows['clipped_share']
        assert 0 < np.nanmean(clipped) < 1  # a layer may take no step of a window
        np.testing.assert_array_equal(clipped, expected['clipped_share'])
