"""Several processes of one test, on the CPU."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parent
ROOT = TESTS.parent
# Seconds after which a process counts as one that waits for another for ever.
TIMEOUT = 240


def free_port():
    with socket.socket() as some:
        some.bind(('127.0.0.1', 0))
        return some.getsockname()[1]


def environment(**more):
    """For processes on the CPU: a machine may have fewer GPUs than a test has ranks."""
    paths = [str(ROOT), str(TESTS), os.environ.get('PYTHONPATH', '')]
    fixed = {
        'PYTHONPATH': os.pathsep.join(filter(None, paths)),
        'OMP_NUM_THREADS': '1',
        'CUDA_VISIBLE_DEVICES': '-1',
    }
    return os.environ | fixed | more


def on_ranks(world, folder, *functions, program='ranks.py'):
    """Run functions of a program of tests/ in so many processes."""
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, TESTS / program, folder, *functions],
            env=environment(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world),
                MASTER_ADDR='127.0.0.1', MASTER_PORT=port,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=TIMEOUT)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes), '\n'.join(outputs)


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
