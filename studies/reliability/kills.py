"""Runs that are killed, and two runs that share a folder."""

import os
import random
import re
import signal
import time
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import torch
from disturbed import ended, fork, killed_run, same_rows, train

from smd_mmdet import records

from .case import Group, ask, healthy, refused

__all__ = ['KILLS', 'NUMBER', 'TWO_RUNS', 'killed_runs', 'kills']

KILLS = Group('Kills')
TWO_RUNS = Group('Two runs')

# How many kills there are unless --kills says otherwise.
NUMBER = 50


@KILLS.case('kill -9 at random moments')
def kills(folder: Path) -> str:
    """SIGKILL at random times and at random calls to the file system, in the middle
    of writing a part and of merging parts too; after each the run is resumed, and
    read all the time."""
    return killed_runs(folder, NUMBER)


def killed_runs(folder: Path, number: int, per_run: int = 7) -> str:
    """Kill runs at random moments and resume them, until they come to their end.

    Args:
        folder: An empty folder.
        number: How many kills there are in all.
        per_run: How many of them befall one run, at most.

    Returns:
        What was seen, in words.

    Raises:
        AssertionError: If a run cannot be read in between, or its records or weights
            at the end are not those of a run that was never killed.
    """
    rng, total, runs = random.Random(0), Counter(), 0
    settings = {
        'hook': dict(window=3),
        'default_hooks.checkpoint.interval': 5,
    }
    # Parts are merged often, so that kills hit that too.
    with patch.object(records, 'MERGE_AT', 4):
        whole = folder / 'whole'
        child = fork(lambda: train(whole, **settings))
        while (end := ended(child)) is None:
            time.sleep(0.05)
        ask(end == 0, 'the uninterrupted run fails')
        while total['kills'] < number:
            run = folder / f'run{runs}'
            wanted = min(per_run, number - total['kills'])
            total.update(killed_run(run, rng, wanted, **settings))
            runs += 1
            _ask_for_the_same_end(run, whole)
    return (
        f'{total["kills"]} kills over {runs} runs, {total["calls"]} of them '
        f'at a call to the file system; {total["polls"]} reads in between, none failed '
        'or showed a row twice; rows and weights at the end equal those of an '
        'uninterrupted run, bit for bit'
    )


def _ask_for_the_same_end(run: Path, whole: Path) -> None:
    ask(same_rows(run, whole), 'the rows differ from an uninterrupted run')
    last, wanted = (
        torch.load(folder / 'iter_60.pth', weights_only=False)['state_dict']
        for folder in (run, whole)
    )
    same = all(torch.equal(last[name], wanted[name]) for name in wanted)
    ask(same, 'the weights differ from an uninterrupted run')


@TWO_RUNS.case('in one WORK_DIR at once')
def two_runs(folder: Path) -> str:
    """A second process trains in the WORK_DIR of a run that is going on; then the
    first is killed, and a third resumes."""
    run, ready = folder / 'run', folder / 'ready'

    def wait(runner):
        ready.write_text('')
        time.sleep(600)

    child = fork(lambda: train(run, wait, at=27))
    while not ready.exists():
        ask(ended(child) is None, 'the first run fails')
        time.sleep(0.05)
    before = {p: p.read_bytes() for p in (run / 'smd').iterdir()}
    try:
        seen = refused(lambda: train(run), f'process {child} on')
        ask(before == {p: p.read_bytes() for p in (run / 'smd').iterdir()}, 'touched')
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    seen = seen.replace(str(run), 'WORK_DIR')
    seen = re.sub(r'process \d+ on [\w.-]+', 'process PID on HOST', seen)
    train(run, resume=True, load_from=str(run / 'iter_25.pth'))
    ask(same_rows(run, healthy(folder)), 'rows differ from an uninterrupted run')
    return f'{seen}; the lock of the killed run is no obstacle to the resume'
