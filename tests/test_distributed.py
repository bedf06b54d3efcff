"""Several processes: measuring together, faults, kills, resumes, launchers."""

import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from smd_mmdet.quantities import QUANTITIES
from smd_mmdet.sharing import PER_LAYER, share_out

TESTS = Path(__file__).parent
ROOT = TESTS.parent


def free_port():
    with socket.socket() as some:
        some.bind(('127.0.0.1', 0))
        return some.getsockname()[1]


def environment(**more):
    path = os.pathsep.join([str(ROOT), str(TESTS)])
    return os.environ | {'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'} | more


def on_ranks(world, folder, *functions):
    """Run functions of ranks.py in so many processes."""
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, TESTS / 'ranks.py', folder, *functions],
            env=environment(
                RANK=str(rank), WORLD_SIZE=str(world),
                MASTER_ADDR='127.0.0.1', MASTER_PORT=port,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes), '\n'.join(outputs)


# ---------------------------------------------------------------- shares


def test_every_rank_has_about_as_much_to_read():
    generator = np.random.default_rng(0)
    for ranks in (1, 2, 4, 8):
        sizes = (10 ** generator.uniform(2, 6.4, 60)).astype(int).tolist()
        shares = share_out(sizes, ranks)
        assert sorted(itertools.chain(*shares)) == list(range(60))
        loads = [sum(sizes[i] + PER_LAYER for i in share) for share in shares]
        # Of this greedy rule: no load exceeds the mean by more than the last layer
        # it was given, and that is not above what the mean leaves room for.
        assert max(loads) <= sum(loads) / ranks + max(sizes) + PER_LAYER
        assert max(loads) <= 4 / 3 * max(sum(loads) / ranks, max(sizes) + PER_LAYER)


def test_more_ranks_than_layers():
    assert share_out([5, 7], 4) == [[1], [0], [], []]


# ---------------------------------------------------------------- plain torch


KEYS = ('iter', 'count', 'lr', 'weight_decay', 'momentum', 'stage')


def assert_equal_but_for_rounding(rows, expected, quantities):
    """Of float32 training, whose sums were taken in another order."""
    for key in KEYS:
        np.testing.assert_array_equal(rows[key], expected[key], err_msg=key)
    for quantity in quantities:
        key = f'{quantity}_mean'
        tolerance = {'atol': 1e-5} if quantity == 'cosine' else {'rtol': 1e-3}
        np.testing.assert_allclose(
            rows[key], expected[key], **{'rtol': 0, **tolerance}, err_msg=key
        )


@pytest.mark.parametrize(
    'world', [2, pytest.param(4, marks=pytest.mark.slow)]
)  # fmt: skip
def test_ranks_measure_together_what_one_measures_alone(tmp_path, world):
    on_ranks(world, tmp_path, 'monitors', 'saved', 'broken')
    files = sorted(tmp_path.glob('*.npz'))
    assert len(files) == 6
    for file in files:
        both = np.load(file)
        rows, expected = (
            {key.split('/')[1]: both[key] for key in both if key.startswith(which)}
            for which in ('shared', 'single')
        )
        assert_equal_but_for_rounding(rows, expected, QUANTITIES)
