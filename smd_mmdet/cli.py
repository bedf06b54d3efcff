"""The ``smd`` command: it reads arguments, calls the package, and prints.

What a command needs is imported when it runs, so that `smd check` works where neither
torch nor MMEngine is installed.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from smd_mmdet import __version__
from smd_mmdet._text import one_line
from smd_mmdet.launch.arguments import CONFIG_HELP, add_cfg_options, path_argument

__all__ = ['main']

# Modules that only some commands need, with what to ask pip for where one is missing.
STACK = 'mmengine==0.10.7 mmcv==2.1.0 mmdet==3.3.0, as docs/gpu.md tells'
PLOT = 'jinja2 matplotlib plotly'
EXTRAS = {
    'cv2': 'opencv-python-headless',
    'jinja2': PLOT,
    'matplotlib': PLOT,
    'mmcv': STACK,
    'mmdet': STACK,
    'mmengine': STACK,
    'plotly': PLOT,
    'pycocotools': 'pycocotools',
    'torch': 'torch',
}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line on stderr, and end with exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'{self.prog}: error: {message} (see {self.prog} --help)\n')


class _Command(_Parser):
    """The parser of one command, whose errors point to that command's help."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f'unrecognized arguments: {" ".join(unknown)}')
        return namespace, unknown


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments without the program's name. None takes those of the
            process.

    Returns:
        The exit code: 0; 1, if what is checked does not hold; or 2, if the input is
        bad, which one line on stderr names.

    Example:
        >>> main(['check', 'nowhere'])
        2
    """
    args = _parser().parse_args(argv)
    try:
        code = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our output wants no more. What Python flushes when it ends goes
        # nowhere, for it must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        # Everything that reads input raises these with a message for the user.
        message = one_line(error)
    except ModuleNotFoundError as error:
        missing = (error.name or '').partition('.')[0]
        if missing not in EXTRAS:
            raise
        message = f'it needs {missing}: pip install {EXTRAS[missing]}'
    print(f'smd {args.command}: error: {message}', file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog='smd',
        description='Spherical Motion Dynamics of a training run: what to expect of it '
        'before, what came of it after. Training itself is done by tools/train.py.',
    )
    parser.add_argument(
        '--version', action='version', version=f'%(prog)s {__version__}'
    )
    commands = parser.add_subparsers(
        dest='command', required=True, metavar='COMMAND', parser_class=_Command
    )
    _add_audit(commands)
    _add_plan(commands)
    _add_check(commands)
    _add_report(commands)
    _add_compare(commands)
    _add_shapes(commands)
    return parser


def _add_audit(commands: Any) -> None:
    parser = commands.add_parser(
        'audit', help='which parameters of a model are scale-invariant, and why'
    )
    parser.add_argument('config', type=path_argument, help=CONFIG_HELP)
    parser.add_argument(
        '--verify', action='store_true', help='prove it by numbers, in float64'
    )
    parser.add_argument('--json', action='store_true', help='print one JSON document')
    parser.set_defaults(run=_audit)


def _audit(args: argparse.Namespace) -> int:
    from smd_mmdet.audit import audit
    from smd_mmdet.report.tables import render_audit

    _print(audit(args.config, verify=args.verify), args.json, render_audit)
    return 0


def _add_plan(commands: Any) -> None:
    parser = commands.add_parser(
        'plan', help='whether a schedule lets the network reach equilibrium'
    )
    parser.add_argument('config', type=path_argument, help=CONFIG_HELP)
    parser.add_argument(
        '--iters-per-epoch',
        type=int,
        metavar='N',
        help='where the data are not at hand',
    )
    parser.add_argument(
        '--work-dir',
        type=path_argument,
        help='a measured run of this model, for figures per layer',
    )
    parser.add_argument('--gpus', type=int, metavar='N', help='training processes')
    add_cfg_options(parser)
    parser.add_argument('--json', action='store_true', help='print one JSON document')
    parser.set_defaults(run=_plan)


def _plan(args: argparse.Namespace) -> int:
    from smd_mmdet.plan import plan
    from smd_mmdet.report.tables import render_plan

    result = plan(
        args.config,
        args.iters_per_epoch,
        args.work_dir,
        args.gpus,
        args.cfg_options,
    )
    _print(result, args.json, render_plan)
    return result['exit_code']


def _add_check(commands: Any) -> None:
    parser = commands.add_parser(
        'check', help='whether the theory holds for a run, per layer and stage'
    )
    parser.add_argument(
        'work_dir', type=path_argument, help='folder of a run trained with SMDHook'
    )
    parser.add_argument('--json', action='store_true', help='print one JSON document')
    parser.add_argument(
        '--verbose', action='store_true', help='every check of every layer'
    )
    parser.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    from smd_mmdet.checks import check
    from smd_mmdet.records import read_records
    from smd_mmdet.report.tables import render_report

    report = check(read_records(args.work_dir))
    _print(report, args.json, lambda r: render_report(r, verbose=args.verbose))
    return report.exit_code


def _add_report(commands: Any) -> None:
    parser = commands.add_parser(
        'report', help='figures of a run, and one page that explains it'
    )
    parser.add_argument(
        'work_dir', type=path_argument, help='folder of a run trained with SMDHook'
    )
    parser.add_argument(
        *('-o', '--out'),
        type=path_argument,
        metavar='DIR',
        help='default: WORK_DIR/report',
    )
    parser.add_argument('--svg', action='store_true', help='write SVG as well as PNG')
    parser.add_argument(
        '--layer',
        action='append',
        default=[],
        metavar='NAME',
        help='a layer for the figures of single layers; may be given again',
    )
    parser.set_defaults(run=_report)


def _report(args: argparse.Namespace) -> int:
    from smd_mmdet.report import write_report

    for path in write_report(args.work_dir, args.out, args.svg, args.layer):
        print(path)
    return 0


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser('compare', help='runs beside one another')
    parser.add_argument(
        'work_dirs',
        nargs='+',
        type=path_argument,
        metavar='WORK_DIR',
        help='two or more',
    )
    parser.add_argument(
        *('-o', '--out'),
        type=path_argument,
        metavar='DIR',
        help='default: FIRST/compare',
    )
    parser.add_argument('--json', action='store_true', help='print one JSON document')
    parser.set_defaults(run=_compare)


def _compare(args: argparse.Namespace) -> int:
    from smd_mmdet.report.compare import compare
    from smd_mmdet.report.tables import render_comparison

    _print(compare(args.work_dirs, args.out), args.json, render_comparison)
    return 0


def _add_shapes(commands: Any) -> None:
    parser = commands.add_parser(
        'shapes', help="write a data set of drawn shapes, in COCO's format"
    )
    parser.add_argument('directory', type=path_argument, help='folder to make')
    parser.add_argument('--train', type=int, required=True, metavar='N', help='images')
    parser.add_argument('--val', type=int, required=True, metavar='M', help='images')
    parser.add_argument('--size', type=int, default=128, metavar='S', help='pixels')
    parser.add_argument('--seed', type=int, default=0, metavar='K')
    parser.add_argument(
        '--kind',
        choices=['detection', 'classification'],
        default='detection',
        help="COCO's format with boxes and masks (default), or a folder of pictures "
        'per class',
    )
    parser.set_defaults(run=_shapes)


def _shapes(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import track

    from smd_mmdet.datasets.shapes import write_shapes

    console = Console(stderr=True)

    def progress(items: Iterable, total: int, description: str) -> Iterable:
        return track(items, description=description, total=total, console=console)

    write_shapes(
        args.directory,
        args.train,
        args.val,
        args.size,
        args.seed,
        progress=progress,
        kind=args.kind,
    )
    return 0


def _print(result: Any, as_json: bool, render: Callable[[Any], Any]) -> None:
    """Print a result.

    Args:
        result: A dictionary of plain values, or what has them as ``to_dict()``.
        as_json: Whether to print one JSON document.
        render: Makes of the result what rich prints in the other case.
    """
    if as_json:
        plain = result if isinstance(result, dict) else result.to_dict()
        # allow_nan=False: NaN is no JSON; results say null.
        print(json.dumps(plain, indent=2, allow_nan=False))
        return
    from rich.console import Console

    # A pipe or a file has no width of its own; 80 columns would cut the tables.
    width = None if sys.stdout.isatty() else 120
    Console(width=width).print(render(result))


if __name__ == '__main__':
    sys.exit(main())
