"""Runs of the tiny model that something befalls: kills, full disks, odd weights."""

import contextlib
import io
import os
import random
import shutil
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tiny import forget_runs, rows_of, tiny_config
from tiny import log_of as log_of

from smd_mmdet import records
from smd_mmdet.cli import main
from smd_mmdet.records import RecordsError, read_records

# Of one layer: what the file system is asked for while records are written.
FILE_CALLS = ('fsync', 'replace', 'unlink', 'rename', 'mkdir')

PLAN = """
train_cfg = dict(type='IterBasedTrainLoop', max_iters=60)
train_dataloader = dict(batch_size=8)
optim_wrapper = dict(optimizer=dict(
    type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-3))
param_scheduler = dict(
    type='MultiStepLR', by_epoch=False, milestones=[40], gamma=0.1)
"""


class Act(Hook):
    """Does something before an iteration, 0-based; before SMDHook sees it."""

    priority = 'HIGH'

    def __init__(self, act: Callable[[Runner], None], at: int) -> None:
        self.act, self.at = act, at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            self.act(runner)


def train(
    folder: Path,
    act: Callable[[Runner], None] | None = None,
    at: int = 30,
    hook: dict | None = None,
    build: Callable[[], Runner] | None = None,
    **changes,
) -> Runner:
    """A run of the tiny model, with SMDHook unless ``hook`` is empty."""
    forget_runs()
    hook = dict(window=10) if hook is None else hook
    config = tiny_config(folder, hook=hook or None, **changes)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        runner = Runner.from_cfg(config)
        if act is not None:
            runner.register_hook(Act(act, at))
        runner.train()
    return runner


def same_weights(one: Runner, other: Runner) -> bool:
    """Whether two runs ended with the same weights, bit for bit."""
    a, b = one.model.state_dict(), other.model.state_dict()
    return a.keys() == b.keys() and all(
        torch.equal(a[k].nan_to_num(7), b[k].nan_to_num(7)) for k in a
    )


def same_rows(one: Path, other: Path) -> bool:
    """Whether two runs have the same records, bit for bit."""
    try:
        pd.testing.assert_frame_equal(rows_of(one), rows_of(other), check_exact=True)
    except AssertionError:
        return False
    return True


def smd(*argv: object) -> tuple[int, str]:
    """Exit code of a command, and what it writes to stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in argv])
        except SystemExit as end:
            code = end.code
    return code, err.getvalue()


def plan_config(folder: Path) -> Path:
    path = folder / 'plan.py'
    path.write_text(PLAN)
    return path


def read_commands(folder: Path, beside: Path) -> dict[str, tuple]:
    """Every command that reads records, by name."""
    return {
        'check': ('check', folder),
        'report': ('report', folder, '-o', beside / 'report'),
        'compare': ('compare', beside, folder, '-o', beside / 'compare'),
        'plan': ('plan', plan_config(beside), '--work-dir', folder),
    }


# ------------------------------------------------------------------ kills


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def killed_at(call: int) -> Iterator[None]:
    """SIGKILL at the n-th call to the file system, half of them in its middle."""
    count = 0

    def turn() -> bool:
        nonlocal count
        count += 1
        return count == call

    def wrapped(function):
        def called(*args, **kwargs):
            now = turn()
            if now and call % 2:
                _kill()
            result = function(*args, **kwargs)
            if now:
                _kill()
            return result

        return called

    write = records.pq.write_table

    def written(table, file, **kwargs):
        if turn():
            whole = io.BytesIO()
            write(table, whole, **kwargs)
            file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
            file.flush()
            _kill()
        write(table, file, **kwargs)

    with contextlib.ExitStack() as stack:
        for name in FILE_CALLS:
            stack.enter_context(patch.object(os, name, wrapped(getattr(os, name))))
        stack.enter_context(patch.object(records.pq, 'write_table', written))
        yield


def fork(action: Callable[[], object]) -> int:
    """Start an action in a process of its own, which has nothing to import."""
    if (child := os.fork()) != 0:
        return child
    code = 1
    try:
        torch.set_num_threads(1)  # torch's threads are not there after a fork
        with open(os.devnull, 'w') as null:
            os.dup2(null.fileno(), 1)
            os.dup2(null.fileno(), 2)
        action()
        code = 0
    finally:
        os._exit(code)


def ended(child: int) -> int | None:
    """The signal or exit code that a child ended with; None while it runs."""
    done, status = os.waitpid(child, os.WNOHANG)
    return None if done == 0 else -os.waitstatus_to_exitcode(status)


def newest_checkpoint(folder: Path) -> str | None:
    """The newest that loads: MMEngine's own may be half-written at a kill."""
    found = sorted(folder.glob('iter_*.pth'), key=lambda p: int(p.stem[5:]))
    for path in reversed(found):
        with contextlib.suppress(Exception):
            torch.load(path, weights_only=False)
            return str(path)
    return None


def poll(folder: Path) -> int:
    """Read a run's records while it goes on; how many rows there are.

    Raises:
        AssertionError: If a row is there twice.
        RecordsError: If they cannot be read.
    """
    try:
        rows = read_records(folder).table.select(['iter', 'layer']).to_pandas()
    except RecordsError as error:
        if any(w in str(error) for w in ('no records', 'no such folder')):
            return 0
        raise
    assert not rows.duplicated().any(), 'a row is there twice'
    return len(rows)


def killed_run(folder: Path, rng: random.Random, kills: int, **settings) -> dict:
    """Train, killed and resumed so many times, then to the end; read all the time."""
    counts = dict(kills=0, calls=0, polls=0, attempts=0)
    while True:
        left = kills - counts['kills']
        by_call = rng.random() < 0.6
        call, delay = rng.randint(1, 60), rng.uniform(0.05, 1.5)
        checkpoint = newest_checkpoint(folder)
        resume = dict(resume=True, load_from=checkpoint) if checkpoint else {}

        def go(by_call=by_call and left > 0, call=call, resume=resume):
            with killed_at(call) if by_call else contextlib.nullcontext():
                train(folder, **settings, **resume)

        counts['attempts'] += 1
        assert counts['attempts'] < 20 * kills + 20, 'the run comes to no end'
        child, start = fork(go), time.monotonic()
        while (end := ended(child)) is None:
            counts['polls'] += bool(poll(folder))
            if left and not by_call and time.monotonic() - start > delay:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.02)
        poll(folder)
        if end == signal.SIGKILL:
            counts['kills'] += 1
            counts['calls'] += by_call
            continue
        assert end == 0, f'the run ended with {end}'
        return counts


# ------------------------------------------------------------------ file systems


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[..., None]]:
    """A file system of its own; yields a way to mount it anew with other options.

    Raises:
        PermissionError: If this user may not mount.
    """
    folder.mkdir(parents=True)

    def mount(options: str, *more: str) -> None:
        command = ['mount', '-t', 'tmpfs', '-o', options, *more, 'none', str(folder)]
        done = subprocess.run(command, capture_output=True)
        if done.returncode:
            raise PermissionError('file systems cannot be mounted here')

    if shutil.which('mount') is None or os.geteuid() != 0:
        raise PermissionError('file systems cannot be mounted here')
    mount(f'size={size}')
    try:
        yield lambda options: mount(f'remount,{options}')
    finally:
        subprocess.run(['umount', '-l', str(folder)], check=True)


def finite_share(folder: Path, column: str) -> float:
    return float(np.isfinite(rows_of(folder)[column]).mean())
