"""Trains the reproduction's runs and writes its page.

    bash tools/reproduce.sh [--quick] [--jobs N] [--only PATTERN] [--page] [--list]

sets up the environment, then starts this as ``python -m studies.reproduction``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from smd_mmdet._text import one_line
from smd_mmdet.launch.arguments import OneLineParser

from .. import ROOT
from . import training
from .experiments import EXPERIMENTS


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        prog='reproduce.sh', description="The paper's claims on small models."
    )
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
        default=ROOT / 'work_dirs' / 'reproduction',
        metavar='DIR',
        help='folder of the runs (default: work_dirs/reproduction)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=ROOT / 'docs' / 'reproduction.md',
        metavar='FILE',
        help='the page (default: docs/reproduction.md)',
    )
    args = parser.parse_args(arguments)
    if args.jobs < 1:
        parser.error(f'--jobs: expected a number above 0, got {args.jobs}')
    if args.out.is_dir() or args.out.suffix != '.md':
        parser.error(f'--out: expected a file ending in .md, got {args.out}')
    args.tasks = training.tasks_of(
        EXPERIMENTS, args.work_dir.resolve(), args.only, args.quick
    )
    if not args.tasks:
        parser.error(f'--only: no run is called {args.only!r} (--list tells which)')
    return args


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and write.

    Args:
        arguments: Arguments without the program's name; None takes those that the
            process was started with.

    Returns:
        The exit code: 0, 1 (a run failed; the page says which are missing), or 2.
    """
    args = parse_args(arguments)
    if args.list:
        for task in args.tasks:
            print(f'{task.name:45} {task.state:12} {task.experiment.config}')
        return 0
    failed = 0
    try:
        if not args.page:
            training.draw_data(args.tasks, say)
            failed = training.train_all(args.tasks, args.jobs, say)
        # Only now: what draws the figures takes long to import.
        from .page import write_page

        write_page(args.work_dir, args.out)
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


if __name__ == '__main__':
    sys.exit(main())
