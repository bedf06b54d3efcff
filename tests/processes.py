"""Several processes of one test, on the CPU."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from torch.distributed import TCPStore

TESTS = Path(__file__).parent
ROOT = TESTS.parent
# Seconds after which a process counts as one that waits for another for ever.
TIMEOUT = 240


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
    # They meet at a store of this process, as those of torchrun do: the port of a store
    # that one of them opened might be another's by then.
    store = TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    common = dict(
        WORLD_SIZE=str(world), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(store.port),
        TORCHELASTIC_USE_AGENT_STORE='True', TORCHELASTIC_RESTART_COUNT='0',
    )  # fmt: skip
    with contextlib.ExitStack() as opened:
        outputs = [opened.enter_context(TemporaryFile('w+')) for _ in range(world)]
        processes = [
            subprocess.Popen(
                [sys.executable, TESTS / program, folder, *functions],
                env=environment(RANK=str(rank), LOCAL_RANK=str(rank), **common),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            for rank, output in enumerate(outputs)
        ]
        try:
            codes = wait_for_all(processes)
        finally:
            for process in processes:
                process.kill()
        for output in outputs:
            output.seek(0)
        told = '\n'.join(
            f'rank {rank}, exit code {code}:\n{output.read()}'
            for rank, (code, output) in enumerate(zip(codes, outputs, strict=True))
        )
    assert codes == [0] * world, told


def wait_for_all(processes):
    """Their exit codes; None of those that still run a while after one has failed."""
    deadline = time.monotonic() + TIMEOUT
    while None in (codes := [process.poll() for process in processes]):
        if any(codes):
            deadline = min(deadline, time.monotonic() + 10)
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return codes


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
