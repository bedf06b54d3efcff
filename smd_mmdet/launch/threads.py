"""How many threads a process should compute with on this machine, as it is now.

    python smd_mmdet/launch/threads.py [--processes N] [--steady]

prints lines for a shell to evaluate. torch takes one thread for every core it sees,
also where a container may use two of 64, or where other processes keep the cores busy,
and its threads spin while they wait for each other: a small model is then many times
slower.
This module imports nothing but the standard library, because the number must be known
before torch is loaded.
"""

import argparse
import os
import re
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ['Choice', 'choose', 'cores_allowed', 'settings']

# How long the machine is watched; the kernel counts in hundredths of a second.
WATCHED = 0.5
# Threads that wait sleep. GNU's OpenMP, which torch's wheels bring, reads the first
# variable, and Intel's, of conda's torch, the second.
PASSIVE = {'OMP_WAIT_POLICY': 'PASSIVE', 'KMP_BLOCKTIME': '0'}

# What OpenMP takes: a number, or one for each level of nesting.
NUMBERS = re.compile(r'0*[1-9]\d*( *, *0*[1-9]\d*)*', re.ASCII)


class Choice:
    """A number of threads and why.

    Attributes:
        threads: How many threads each process takes, 1 or more.
        reason: Why, in a few words.
        faster: A number that would be faster as long as the machine is as busy, or 0.
    """

    def __init__(self, threads: int, reason: str, faster: int = 0) -> None:
        self.threads = threads
        self.reason = reason
        self.faster = faster

    def variables(self) -> dict[str, str]:
        """The variables that make torch, OpenMP and MKL compute with it."""
        count = str(self.threads)
        return {'OMP_NUM_THREADS': count, 'MKL_NUM_THREADS': count, **PASSIVE}

    def __str__(self) -> str:
        said = f'threads: {self.threads} ({self.reason}); '
        if self.faster:
            return f'{said}OMP_NUM_THREADS={self.faster} is faster while it is so busy'
        return f'{said}OMP_NUM_THREADS sets another'


def settings(
    env: Mapping[str, str],
    processes: int = 1,
    tell: Callable[[str], object] = print,
    steady: bool = False,
) -> dict[str, str]:
    """The variables to set before torch is imported, such as ``OMP_NUM_THREADS``.

    Args:
        env: The environment as it is; what it sets already stays.
        processes: How many processes of the run share this machine.
        tell: Is given one line on what was chosen.
        steady: Whether the number must not depend on how busy the machine is.

    Returns:
        Values by name. Where the user has set ``OMP_NUM_THREADS`` nothing is chosen;
        MKL takes that number too, and MMEngine, if told so, does not warn.
    """
    given = env.get('OMP_NUM_THREADS', '').strip()
    if NUMBERS.fullmatch(given):
        return {} if env.get('MKL_NUM_THREADS') else {'MKL_NUM_THREADS': given}
    if given:  # OpenMP would pass over it, and take every core
        tell(f'OMP_NUM_THREADS={given!r} is not a number above 0 and does not count')
    choice = choose(processes, steady=steady)
    tell(str(choice))
    found = {name: env.get(name) or value for name, value in choice.variables().items()}
    return {**found, 'OMP_NUM_THREADS': str(choice.threads)}


def choose(
    processes: int = 1,
    root: Path = Path('/'),
    cores: frozenset[int] | None = None,
    wait: Callable[[float], object] = time.sleep,
    steady: bool = False,
) -> Choice:
    """Choose the number of threads of each process, from what the machine has free.

    With another number of threads torch adds in another order, so that the bits of a
    training differ. A run that is resumed, or compared with another one, needs the same
    number whatever else the machine does in the meantime.

    Args:
        processes: How many processes of the run share this machine.
        root: Where ``proc`` and ``sys`` are; tests put their own there.
        cores: The cores this process may run on; None asks the system.
        wait: Sleeps for some seconds.
        steady: Whether to leave out of account how busy the machine is.

    Returns:
        The choice: free cores, within those allowed, shared among the processes.
    """
    mine = _affinity() if cores is None else cores
    allowed = cores_allowed(root, mine)
    whole = f'{len(mine)} core' + 's' * (len(mine) > 1)
    if allowed < len(mine):
        whole = f'{allowed:g} of {whole} allowed'
    free = _idle_cores(root, mine, wait)
    if free is not None and free < allowed - 0.5:
        whole += f', {free:.1f} idle'
    if processes > 1:
        whole += f', {processes} processes'
    # What was busy for a moment must not take a thread from a quiet machine, so half
    # an idle core counts as one. A quota is exact: beyond it every thread stands still.
    usable = allowed if free is None else min(allowed, free + 0.5)
    now, always = (max(1, int(each / processes)) for each in (usable, allowed))
    if not steady:
        return Choice(now, whole)
    return Choice(always, whole, now if now < always else 0)


def cores_allowed(root: Path = Path('/'), cores: frozenset[int] | None = None) -> float:
    """How many cores' time this process may use: by affinity and by cgroup quota.

    Args:
        root: Where ``proc`` and ``sys`` are.
        cores: The cores this process may run on; None asks the system.

    Returns:
        A number of cores, such as 1.5.
    """
    mine = _affinity() if cores is None else cores
    return min([float(len(mine)), *_quotas(root)])


def _affinity() -> frozenset[int]:
    if hasattr(os, 'sched_getaffinity'):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _quotas(root: Path) -> list[float]:
    """The quotas of this process's control groups and all above them, in cores."""
    found = []
    for line in _read(root / 'proc/self/cgroup').splitlines():
        _, _, rest = line.partition(':')
        controllers, _, path = rest.partition(':')
        if not controllers:  # version 2
            homes = [root / 'sys/fs/cgroup']
        elif 'cpu' in controllers.split(','):
            homes = [root / 'sys/fs/cgroup' / name for name in (controllers, 'cpu')]
        else:
            continue
        # In a container the path may be the host's, of which only the top is there.
        group = Path(path.lstrip('/'))
        found += [
            quota
            for home in homes
            for folder in (group, *group.parents)
            if (quota := _quota(home / folder)) is not None
        ]
    return found


def _quota(folder: Path) -> float | None:
    """The quota that one control group sets itself, in cores."""
    words = _read(folder / 'cpu.max').split() or [
        _read(folder / 'cpu.cfs_quota_us').strip(),
        _read(folder / 'cpu.cfs_period_us').strip(),
    ]
    try:
        quota, period = (float(word) for word in words)
    except ValueError:  # `max`, or nothing there
        return None
    return quota / period if quota > 0 and period > 0 else None


def _idle_cores(
    root: Path, cores: frozenset[int], wait: Callable[[float], object]
) -> float | None:
    """How many of these cores stand idle; None where the system does not tell."""
    before = _times(root, cores)
    if not before:
        return None
    wait(WATCHED)
    after = _times(root, cores)
    idle = 0.0
    for core, (unused, total) in before.items():
        gone = after.get(core, (0, 0))[1] - total
        # A core that sleeps deeply may not have counted at all.
        idle += (after[core][0] - unused) / gone if gone > 0 else 1.0
    return idle


def _times(root: Path, cores: frozenset[int]) -> dict[int, tuple[int, int]]:
    """Per core the time it was idle and all of its time, in ticks since boot."""
    times = {}
    for line in _read(root / 'proc/stat').splitlines():
        # user nice system idle iowait irq softirq steal; guests are counted as user
        if match := re.match(r'cpu(\d+)((?: +\d+){8})', line, re.ASCII):
            ticks = [int(word) for word in match[2].split()]
            if (core := int(match[1])) in cores:
                times[core] = (ticks[3] + ticks[4], sum(ticks))
    return times


def _read(path: Path) -> str:
    try:
        return path.read_text(errors='replace')
    except OSError:
        return ''


def main() -> None:
    """Print what a shell has to evaluate to have the settings."""
    parser = argparse.ArgumentParser(description='Chooses the number of threads.')
    parser.add_argument('--processes', type=int, default=1)
    parser.add_argument('--cores', action='store_true', help='print the cores allowed')
    parser.add_argument(
        '--steady', action='store_true', help='the same number on a busy machine'
    )
    args = parser.parse_args()
    if args.cores:
        print(max(1, int(cores_allowed())))
        return

    def tell(line: str) -> None:
        print(f'echo {shlex.quote(line)}')

    found = settings(os.environ, max(1, args.processes), tell, args.steady)
    for name, value in found.items():
        print(f'export {name}={shlex.quote(value)}')


if __name__ == '__main__':
    main()
