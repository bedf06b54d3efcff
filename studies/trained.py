"""The command line of a study that trains runs and writes a page from them."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from smd_mmdet._text import one_line
from smd_mmdet.launch.arguments import OneLineParser

from . import ROOT
from .reproduction import training
from .reproduction.experiments import Data, Experiment

__all__ = ['Study', 'run_study']


@dataclass(frozen=True)
class Study:
    """What is trained, and what is written of it.

    Args:
        name: Name of the page in docs/ and of the folder in work_dirs/.
        program: What starts the study, for its help.
        description: What the study is about, in a line.
        experiments: What is trained.
        data: Data sets that are drawn before, by name.
        page: The module whose ``write_page`` takes the folder of the runs and the file
            of the page. It imports what draws the figures, which takes long.
    """

    name: str
    program: str
    description: str
    experiments: Sequence[Experiment]
    data: Mapping[str, Data]
    page: str


def parse_args(study: Study, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the arguments; those that are wrong end the process."""
    parser = OneLineParser(prog=study.program, description=study.description)
    parser.add_argument(
        '--quick', action='store_true', help='the first seed of the main runs only'
    )
    parser.add_argument(
        '--jobs', type=int, default=2, metavar='N', help='trainings at a time'
    )
    parser.add_argument(
        '--only',
        default='*',
        metavar='PATTERN',
        help="runs whose name matches, such as 'retinanet*' or '*-seed0'",
    )
    parser.add_argument(
        '--page', action='store_true', help='train nothing, write the page'
    )
    parser.add_argument(
        '--list', action='store_true', help='tell which runs there are, do nothing'
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        default=ROOT / 'work_dirs' / study.name,
        metavar='DIR',
        help=f'folder of the runs (default: work_dirs/{study.name})',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=ROOT / 'docs' / f'{study.name}.md',
        metavar='FILE',
        help=f'the page (default: docs/{study.name}.md)',
    )
    args = parser.parse_args(arguments)
    if args.jobs < 1:
        parser.error(f'--jobs: expected a number above 0, got {args.jobs}')
    if args.out.is_dir() or args.out.suffix != '.md':
        parser.error(f'--out: expected a file ending in .md, got {args.out}')
    args.tasks = training.tasks_of(
        study.experiments, args.work_dir.resolve(), args.only, args.quick
    )
    if not args.tasks:
        parser.error(f'--only: no run is called {args.only!r} (--list tells which)')
    return args


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run_study(study: Study, arguments: Sequence[str] | None = None) -> int:
    """Train and write.

    Args:
        study: The study.
        arguments: Arguments without the program's name; None takes those that the
            process was started with.

    Returns:
        The exit code: 0, 1 (a run failed; the page says which are missing), or 2.
    """
    args = parse_args(study, arguments)
    if args.list:
        for task in args.tasks:
            print(f'{task.name:45} {task.state:12} {task.experiment.config}')
        return 0
    failed = 0
    try:
        if not args.page:
            training.draw_data(args.tasks, say, study.data)
            failed = training.train_all(args.tasks, args.jobs, say)
        import_module(study.page).write_page(args.work_dir, args.out)
    except KeyboardInterrupt:
        say('interrupted; the same command goes on')
        return 130
    except (OSError, ValueError) as error:
        say(f'error: {one_line(error)}')
        return 2
    say(f'wrote {args.out}')
    if failed:
        say(f'{failed} of the runs failed; the same command tries them again')
    return int(failed > 0)
