"""All audits, each in a process of its own, of which one may fail alone."""

import multiprocessing
import os
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from mmdet.utils import register_all_modules

from smd_mmdet._text import one_line

from .audits import audit_one
from .configs import MODES
from .results import Results

__all__ = ['Limits', 'outcome', 'run_all']


@dataclass(frozen=True)
class Limits:
    """What an audit may take.

    Args:
        seconds: Wall time.
        memory: Address space, in GiB.
        threads: Threads of torch.
    """

    seconds: int
    memory: int
    threads: int


def run_all(
    configs: Sequence[str],
    results: Results,
    limits: Limits,
    retry: bool,
    done: Callable[[str, str, dict], None],
) -> None:
    """Run the audits whose results are not kept yet.

    Args:
        configs: Paths of the configs in the zoo.
        results: Where results are kept.
        limits: What each audit may take.
        retry: Run those again that were skipped.
        done: Function that is told of every audit that was run: the config, the mode
            and the result.
    """
    # Once for all processes, which are forked from this one.
    register_all_modules(init_default_scope=False)
    torch.set_num_threads(limits.threads)
    results.folder.mkdir(parents=True, exist_ok=True)
    for mode in MODES:
        for name in configs:
            kept = results.read(name, mode)
            if kept is None or (retry and 'skipped' in kept):
                done(name, mode, _run_one(name, mode, results, limits))


def _run_one(name: str, mode: str, results: Results, limits: Limits) -> dict:
    """Audit in a process that may run out of time or memory, or crash, alone."""
    results.path(name, mode).unlink(missing_ok=True)
    # Forked, it need not import everything again.
    context = multiprocessing.get_context('fork')
    task = (name, mode, results, limits)
    child = context.Process(target=_run_in_child, args=task)
    child.start()
    child.join(limits.seconds)
    reason = f'ended with exit status {child.exitcode}'
    if child.is_alive():
        child.kill()
        child.join()
        reason = f'took over {limits.seconds} s'
    result = results.read(name, mode)
    if result is None:
        result = dict(skipped=reason)
        results.write(name, mode, result)
    return result


def _run_in_child(name: str, mode: str, results: Results, limits: Limits) -> None:
    os.nice(max(0, 19 - os.nice(0)))
    size = limits.memory * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    try:
        result = audit_one(name, mode)
    except Exception as error:  # whatever the code of a foreign model may raise
        result = dict(skipped=one_line(error))
    results.write(name, mode, result)


def outcome(result: dict) -> str:
    """A result in a few words."""
    if 'skipped' in result:
        return f'skipped, {result["skipped"]}'
    if result.get('same'):
        return 'nothing is frozen'
    wrong = len(result['only_structure']), len(result['only_proof'])
    return (
        f'{result["both"]} invariant, {wrong[0]} false, {wrong[1]} missed, '
        f'{result["undecided"]} undecided, {result["seconds"]:.0f} s'
    )
