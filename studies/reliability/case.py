"""What the cases share: how one is stated, and what must be true of a run after it.

A case is a function that takes an empty folder, does something to a run of the tests'
tiny model (60 iterations in windows of 10, the rate falls after 40), and returns what
was seen, in words. It raises where that is wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from disturbed import log_of, read_commands, rows_of, same_weights, smd, train
from mmengine.runner import Runner
from tiny import SCALE_INVARIANT, TinyNet
from torch import nn

from smd_mmdet.checks import check
from smd_mmdet.engine import SettingError
from smd_mmdet.records import read_records

__all__ = [
    *('WINDOWS_OF_A_RUN', 'CannotTest', 'Case', 'Group', 'ask', 'commands_end'),
    *('healthy', 'make', 'refused', 'states', 'survives', 'unchanged', 'weight'),
    'windows',
]

# Last iterations of the windows of a run that nothing befalls.
WINDOWS_OF_A_RUN = [9, 19, 29, 39, 40, 50, 60]

# What befalls a run: called with its runner, before an iteration.
Act = Callable[[Runner], None]


@dataclass(frozen=True)
class Case:
    """Something that befalls a run.

    Args:
        name: Name of its function, by which ``--only`` chooses it.
        title: What befalls the run, in a phrase.
        done: What is done to the run, in a sentence.
        run: Function that takes an empty folder and returns what was seen; it raises
            if that is wrong.
    """

    name: str
    title: str
    done: str
    run: Callable[[Path], str]


@dataclass
class Group:
    """Cases that are a table of the page together.

    Args:
        title: Heading of the table.
        cases: The cases, in the order of their rows; :meth:`case` adds one.
    """

    title: str
    cases: list[Case] = field(default_factory=list)

    def case(self, title: str, done: str | None = None):
        """A decorator that makes a function a case of this group.

        Args:
            title: What befalls the run, in a phrase.
            done: What is done to it; None takes the docstring of the function.
        """

        def add(run: Callable[[Path], str]) -> Callable[[Path], str]:
            text = ' '.join((done or run.__doc__).split()).rstrip('.')
            self.cases.append(Case(run.__name__, title, text, run))
            return run

        return add


class CannotTest(Exception):
    """This machine does not allow the case; the message says what it lacks."""


def ask(holds: object, what: str) -> None:
    """Demand that something holds.

    Raises:
        AssertionError: If it does not; ``what`` is its message.
    """
    if not holds:
        raise AssertionError(what)


# ------------------------------------------------------------------ runs


def make(folder: Path) -> Path:
    """The folder, which is there then."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def healthy(folder: Path) -> Path:
    """A run that nothing befalls, trained once for each folder."""
    run = folder / 'healthy'
    if not run.exists():
        train(run)
    return run


def windows(folder: Path) -> list[int]:
    """Last iterations of the windows that are recorded."""
    return sorted(set(rows_of(folder)['iter'].tolist()))


def weight(runner: Runner, name: str = SCALE_INVARIANT[0]) -> nn.Parameter:
    """A weight of the model by its name."""
    return dict(runner.model.named_parameters())[name]


def states(folder: Path) -> str:
    """The states that ``smd check`` gives the layers at the end of FOLDER/run."""
    report = check(read_records(folder / 'run'))
    found = (layer.stages[-1].state for layer in report.layers)
    return ', '.join(dict.fromkeys(found))


# ------------------------------------------------------------------ what must be true


def unchanged(runner: Runner, folder: Path, act: Act | None = None, **changes) -> None:
    """Demand that the weights are those of the same run without SMDHook.

    Args:
        runner: Runner of the run, which has ended.
        folder: Folder for the run without SMDHook.
        act: What befell the run.
        changes: Settings of the config that the run had.
    """
    plain = train(folder / 'unmonitored', act, hook={}, **changes)
    ask(same_weights(runner, plain), 'the weights differ from those without SMDHook')


def commands_end(folder: Path, beside: Path, allowed: set[int], *names: str) -> str:
    """Demand that commands end well: at most one line on stderr, and no traceback.

    Args:
        folder: Folder of the run that they read.
        beside: Folder of another run, for comparison and for what they write.
        allowed: Exit codes that a command may end with.
        names: Names of the commands; none for all that read records.

    Returns:
        The commands, each with its exit code.
    """
    codes = []
    for name, command in read_commands(folder, beside).items():
        if names and name not in names:
            continue
        code, error = smd(*command)
        ask(code in allowed, f'smd {name} ends with {code}: {error}')
        ask(error.count('\n') == (code == 2), f'smd {name} writes: {error}')
        codes.append(f'{name} {code}')
    return ', '.join(codes)


def survives(folder: Path, act: Act | None, **changes) -> tuple[Runner, str]:
    """Train FOLDER/run and demand that it goes on as if it were not monitored.

    Args:
        folder: An empty folder.
        act: What befalls the run before iteration 31; None for nothing.
        changes: Settings of the config.

    Returns:
        The runner, and the commands that then read the run, with their exit codes.
    """
    beside = healthy(folder)
    run = folder / 'run'
    runner = train(run, act, **changes)
    ask(runner.iter == 60, 'training stopped')
    ask('monitoring stopped' not in log_of(runner), 'monitoring stopped')
    unchanged(runner, folder, act, **changes)
    return runner, commands_end(run, beside, {0, 1})


def refused(action: Callable[[], object], words: str) -> str:
    """Demand that a training is refused before its first iteration.

    Args:
        action: Function that starts the training.
        words: What the message must say.

    Returns:
        The first line of the message, in a sentence.
    """
    try:
        with patch.object(TinyNet, 'train_step', side_effect=RuntimeError('trained')):
            action()
    except SettingError as error:
        ask(words in str(error), str(error))
        return f'refused before the first iteration: “{str(error).splitlines()[0]}”'
    raise AssertionError('it was not refused')
