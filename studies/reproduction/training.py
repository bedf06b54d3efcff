"""Trains what is not trained yet; killed at any moment, it goes on the next time."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from .. import ROOT
from .experiments import DATA, Data, Experiment

__all__ = ['Task', 'Training', 'draw_data', 'tasks_of', 'train_all']

# A file in the folder of a run that has come to its end.
FINISHED = 'finished'
# What a run under way writes to its terminal.
OUTPUT = 'output.log'


@dataclass(frozen=True)
class Task:
    """One run.

    Args:
        experiment: Experiment that it is a run of.
        seed: Seed of its random numbers.
        root: Folder of all runs.
    """

    experiment: Experiment
    seed: int
    root: Path

    @property
    def name(self) -> str:
        return f'{self.experiment.name}-seed{self.seed}'

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def state(self) -> str:
        """'finished', 'interrupted' or 'not done'."""
        if (self.folder / FINISHED).exists():
            return 'finished'
        return 'interrupted' if self.folder.exists() else 'not done'

    def command(self) -> list[str]:
        """The command that trains it, from its last checkpoint if there is one."""
        python = sys.executable, '-W', 'ignore'
        if self.experiment.module:
            own = self.experiment.name, str(self.seed), str(self.folder)
            return [*python, '-m', self.experiment.module, *own]
        options = {'randomness.seed': self.seed} | self.experiment.options
        return [
            *(*python, str(ROOT / 'tools' / 'train.py')),
            str(ROOT / self.experiment.config),
            *('--work-dir', str(self.folder), '--resume', *self._checkpoint()),
            '--cfg-options',
            *(f'{key}={value}' for key, value in options.items()),
        ]

    def _checkpoint(self) -> list[str]:
        """The last checkpoint, if there is one, as arguments of ``--resume``.

        It is looked for in this folder: the path that MMEngine noted is wrong once the
        folder was moved.
        """
        try:
            noted = (self.folder / 'last_checkpoint').read_text().strip()
        except OSError:
            return []
        here = self.folder / Path(noted).name
        return [str(here)] if here.is_file() else []


def tasks_of(
    experiments: Sequence[Experiment], root: Path, only: str = '*', quick: bool = False
) -> list[Task]:
    """Runs in the order of their importance.

    Args:
        experiments: Experiments to take the runs from.
        root: Folder of all runs.
        only: Pattern that the name of the run or its experiment must match.
        quick: Take the first seed of the experiments marked so.
    """
    tasks = [
        Task(experiment, seed, root)
        for experiment in experiments
        for seed in range(experiment.seeds)
        if not quick or (experiment.quick and seed == 0)
    ]
    tasks.sort(key=lambda task: (task.experiment.rank, task.seed))
    return [
        task
        for task in tasks
        if fnmatch(task.name, only) or fnmatch(task.experiment.name, only)
    ]


def draw_data(
    tasks: Sequence[Task],
    say: Callable[[str], None],
    known: Mapping[str, Data] = DATA,
) -> None:
    """Draw the data sets that the tasks need and that are not there.

    Args:
        tasks: Runs to come.
        say: Function that is told of every data set, in a line.
        known: The data sets by their names.

    Raises:
        OSError: If one cannot be drawn.
    """
    for name in dict.fromkeys(task.experiment.data for task in tasks):
        if not name:
            continue
        data = known[name]
        # This file is written last, so a set that was interrupted is drawn again.
        mark = ROOT / data.folder / 'made'
        if mark.is_file() and mark.read_text().strip() == data.options:
            continue
        say(f'drawing {data.folder}')
        done = subprocess.run(
            [sys.executable, *data.program, data.folder, *data.options.split()],
            cwd=ROOT,
            env=os.environ | _python_path(),
        )
        if done.returncode:
            raise OSError(f'{data.folder} could not be drawn')
        mark.write_text(f'{data.options}\n')


def _python_path() -> dict[str, str]:
    paths = [str(ROOT), os.environ.get('PYTHONPATH')]
    return {'PYTHONPATH': os.pathsep.join(filter(None, paths))}


class Training:
    """A run under way, in a process of its own.

    Args:
        task: The run.
        threads: How many threads it may use.
        lock: File descriptor of the lock on its folder. The process inherits the lock
            and holds it for as long as it lives, also when whoever started it was
            killed: a run is never trained twice at once.
    """

    def __init__(self, task: Task, threads: int, lock: int) -> None:
        self.task, self._lock = task, lock
        environment = {
            # So that the result is the same with and without a GPU at hand.
            'CUDA_VISIBLE_DEVICES': '-1',
            'OMP_NUM_THREADS': str(threads),
        }
        with open(task.folder / OUTPUT, 'w') as output:
            self.process = subprocess.Popen(
                task.command(),
                cwd=ROOT,
                env=os.environ | _python_path() | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[self._lock],
            )

    def ended(self) -> int | None:
        """Its exit status; None while it runs."""
        status = self.process.poll()
        if status == 0:
            (self.task.folder / FINISHED).touch()
            _tidy(self.task.folder)
        if status is not None:
            os.close(self._lock)
        return status

    def why(self) -> str:
        """The last line it wrote."""
        lines = (self.task.folder / OUTPUT).read_text(errors='replace').splitlines()
        return next((line for line in reversed(lines) if line.strip()), 'no output')

    def stop(self) -> None:
        """End it; it goes on from its last checkpoint the next time."""
        self.process.terminate()
        self.process.wait()
        os.close(self._lock)


def _lock(folder: Path) -> int | None:
    """A lock on a run's folder, or nothing if another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / 'lock', os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _tidy(folder: Path) -> None:
    """Leave records, scores and the log; checkpoints are large and not needed."""
    for path in [*folder.glob('*.pth'), folder / 'last_checkpoint', folder / OUTPUT]:
        path.unlink(missing_ok=True)


def train_all(tasks: Sequence[Task], jobs: int, say: Callable[[str], None]) -> int:
    """Train all tasks that are not finished, some at a time.

    Args:
        tasks: Runs, in the order in which to train them.
        jobs: How many are trained at a time.
        say: Function that is told of every run that begins or fails, in a line.

    Returns:
        How many failed.
    """
    waiting = [task for task in tasks if task.state != 'finished']
    threads = max(1, (os.cpu_count() or 1) // jobs)
    running: list[Training] = []
    failed = 0
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                training = _start_first(waiting, threads, say)
                if training is None:
                    break
                running.append(training)
            time.sleep(0.2)
            for training in running[:]:
                status = training.ended()
                if status is None:
                    continue
                running.remove(training)
                if status:
                    failed += 1
                    name = training.task.name
                    say(f'{name}: failed with exit status {status}: {training.why()}')
    finally:
        for training in running:
            training.stop()
        signal.signal(signal.SIGTERM, before)
    return failed


def _start_first(
    waiting: list[Task], threads: int, say: Callable[[str], None]
) -> Training | None:
    """Start the first task that no other process trains, and take it off the list."""
    for task in waiting[:]:
        again = task.state == 'interrupted'
        lock = _lock(task.folder)
        if lock is None:
            continue
        waiting.remove(task)
        if task.state == 'finished':  # by the process that had the lock
            os.close(lock)
            continue
        say(f'{task.name}{": goes on" if again else ""}, {len(waiting)} to follow')
        return Training(task, threads, lock)
    return None
