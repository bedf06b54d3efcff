"""docs/reliability.md: the cases, what was seen of each, and the verdict."""

import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..markdown import plain, table
from ..origin import origin
from .case import CannotTest, Case, Group
from .damage import DAMAGED_RECORDS
from .disks import DISKS
from .kills import KILLS, TWO_RUNS
from .names import ODD_NAMES
from .optimizers import ODD_WEIGHTS, OPTIMIZERS
from .settings import HOSTILE_SETTINGS

__all__ = ['FAILS', 'GROUPS', 'Result', 'examine', 'page']

# All cases, in the order of the page.
GROUPS = (
    *(KILLS, DISKS, DAMAGED_RECORDS, ODD_WEIGHTS),
    *(OPTIMIZERS, TWO_RUNS, ODD_NAMES, HOSTILE_SETTINGS),
)
INTRODUCTION = """\
# What runs survive

{origin}

The tiny model of `tests/tiny.py` is trained under each of these; the command ends with
1 if a case fails. A command is followed by its exit code; “same weights” are those of
the same run without SMDHook, bit for bit.
"""
FAILS = '**fails**'


@dataclass(frozen=True)
class Result:
    """What became of a case.

    Args:
        case: The case.
        seen: What was seen, or how it failed.
        verdict: 'survives', 'not tested', or :data:`FAILS`.
    """

    case: Case
    seen: str
    verdict: str


def examine(case: Case) -> Result:
    """Run a case in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return Result(case, case.run(Path(folder)), 'survives')
        except CannotTest as why:
            return Result(case, f'not tested: {why}', 'not tested')
        except Exception as fault:
            traceback.print_exc()
            return Result(case, f'{type(fault).__name__}: {fault}', FAILS)


def page(results: Sequence[tuple[Group, Sequence[Result]]]) -> str:
    """The page, with a table for each group that has results."""
    text = INTRODUCTION.format(origin=origin('python -m studies.reliability'))
    head = ('case', 'what was done', 'what was seen', 'verdict')
    for group, seen in results:
        rows = [
            (*map(plain, (r.case.title, r.case.done, r.seen)), r.verdict) for r in seen
        ]
        if rows:
            text += f'\n## {group.title}\n\n{table(head, rows)}\n'
    return text
