"""The ``smd`` command: it reads arguments, calls the package, and prints.

What a command needs is imported when it runs, so that `smd check` works where neither
torch nor MMEngine is installed.
"""

import argparse
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NoReturn

from smd_mmdet import __version__
from smd_mmdet._text import one_line, visible
from smd_mmdet.launch.arguments import CONFIG_HELP, add_cfg_options, path_argument
from smd_mmdet.launch.streams import (
    finish,
    open_streams,
    put,
    results,
    results_alone,
    tell,
)
from smd_mmdet.stages import WARMUP, stage_name

if TYPE_CHECKING:
    from smd_mmdet.records import Records

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
# Columns of a pipe or a file, which have no width of their own, and the least that a
# table is made for: a narrower terminal breaks lines itself.
WIDTH, NARROWEST = 120, 40
# So many parts are read within a second or two, and need no bar.
FEW_PARTS = 200


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line on stderr, and end with exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(
            2, f'{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n'
        )


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
        The exit code: 0; 1, if what is checked does not hold; 2, if the input is
        bad, which one line on stderr names; or 130, after Ctrl-C.

    Example:
        >>> main(['check', 'nowhere'])
        2
    """
    # MMEngine causes it itself: a user can do nothing about it.
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated')
    open_streams('smd')
    try:
        args = _parser().parse_args(argv)
    except SystemExit as ended:  # argparse has printed its help, or what is wrong
        ended.code = finish('smd', int(ended.code or 0))
        raise
    return finish(f'smd {args.command}', _run(args))


def _run(args: argparse.Namespace) -> int:
    """The exit code of a command, once an error has been told."""
    try:
        # One JSON document, and nothing else.
        with results_alone() if getattr(args, 'json', False) else nullcontext():
            return args.run(args)
    except (ValueError, OSError) as error:
        # Everything that reads input raises these with a message for the user.
        message = one_line(error)
    except ModuleNotFoundError as error:
        missing = (error.name or '').partition('.')[0]
        if missing not in EXTRAS:
            raise
        message = f'it needs {missing}: pip install {EXTRAS[missing]}'
    except KeyboardInterrupt:
        tell(f'smd {args.command}: interrupted')
        return 130
    tell(f'smd {args.command}: error: {message}')
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
    _add_transfer(commands)
    _add_check(commands)
    _add_report(commands)
    _add_compare(commands)
    _add_shapes(commands)
    _add_env(commands)
    return parser


def _add_audit(commands: Any) -> None:
    parser = commands.add_parser(
        'audit', help='which parameters of a model are scale-invariant, and why'
    )
    parser.add_argument('config', type=path_argument, help=CONFIG_HELP)
    parser.add_argument(
        '--verify', action='store_true', help='prove it by numbers, in float64'
    )
    add_cfg_options(parser)
    parser.add_argument('--json', action='store_true', help='print one JSON document')
    parser.set_defaults(run=_audit)


def _audit(args: argparse.Namespace) -> int:
    from smd_mmdet.audit import audit
    from smd_mmdet.report.tables import render_audit

    found = audit(args.config, args.verify, args.cfg_options)
    _print(found, args.json, render_audit)
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
    from smd_mmdet.report.planning import render_plan

    result = plan(
        args.config,
        args.iters_per_epoch,
        args.work_dir,
        args.gpus,
        args.cfg_options,
    )
    _print(result, args.json, render_plan)
    return result['exit_code']


def _add_transfer(commands: Any) -> None:
    parser = commands.add_parser(
        'transfer', help='a config that follows the angular updates of a run'
    )
    parser.add_argument(
        'run_dir',
        type=path_argument,
        metavar='RUN',
        help='folder of a run trained with SMDHook',
    )
    parser.add_argument('config', type=path_argument, help=CONFIG_HELP)
    parser.add_argument(
        *('-o', '--out'),
        type=path_argument,
        metavar='NEW.py',
        required=True,
        help='the config to write',
    )
    parser.add_argument(
        '--force', action='store_true', help='write over a file that is there'
    )
    parser.add_argument(
        '--iters-per-epoch',
        type=int,
        metavar='N',
        help='where the data of the config are not at hand',
    )
    parser.add_argument('--gpus', type=int, metavar='N', help='training processes')
    parser.add_argument('--json', action='store_true', help='print one JSON document')
    parser.set_defaults(run=_transfer)


def _transfer(args: argparse.Namespace) -> int:
    from smd_mmdet.report.transferring import render_transfer
    from smd_mmdet.transfer import transfer

    found = transfer(
        args.run_dir,
        args.config,
        args.out,
        force=args.force,
        iters_per_epoch=args.iters_per_epoch,
        gpus=args.gpus,
    )
    _print(found, args.json, render_transfer)
    return 0


def _add_check(commands: Any) -> None:
    parser = commands.add_parser(
        'check', help='whether the theory holds for a run, per layer and stage'
    )
    parser.add_argument(
        'work_dir', type=path_argument, help='folder of a run trained with SMDHook'
    )
    parser.add_argument('--json', action='store_true', help='print one JSON document')
    parser.add_argument(
        '--verbose', action='store_true', help='what every check of every stage found'
    )
    parser.add_argument(
        '--layer',
        action='append',
        default=[],
        metavar='NAME',
        help='every check of this layer; may be given again',
    )
    parser.add_argument(
        '--stage', type=_stage_argument, metavar='N', help="or 'warm-up': that alone"
    )
    _add_skip_damaged(parser)
    parser.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    from smd_mmdet.checks import READ, check
    from smd_mmdet.report.grouping import select
    from smd_mmdet.report.tables import render_report

    records = _reader(args)(args.work_dir, READ)
    report = select(check(records), args.layer, args.stage)
    _print(
        report,
        args.json,
        lambda report: render_report(report, args.verbose, by_layer=bool(args.layer)),
    )
    return report.exit_code


def _stage_argument(text: str) -> int:
    """The number of a stage, which is given as tables show it."""
    if text == stage_name(WARMUP):
        return WARMUP
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number nor 'warm-up'"
        ) from None


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
    _add_skip_damaged(parser)
    parser.set_defaults(run=_report)


def _report(args: argparse.Namespace) -> int:
    from smd_mmdet.report import write_report

    read = _reader(args)
    for path in write_report(args.work_dir, args.out, args.svg, args.layer, read):
        put(f'{visible(path)}\n')
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
    _add_skip_damaged(parser)
    parser.set_defaults(run=_compare)


def _compare(args: argparse.Namespace) -> int:
    from smd_mmdet.report.compare import compare
    from smd_mmdet.report.tables import render_comparison

    _print(
        compare(args.work_dirs, args.out, _reader(args)), args.json, render_comparison
    )
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
    from smd_mmdet.datasets.shapes import write_shapes

    write_shapes(
        args.directory,
        args.train,
        args.val,
        args.size,
        args.seed,
        progress=_progress,
        kind=args.kind,
    )
    return 0


def _add_env(commands: Any) -> None:
    parser = commands.add_parser(
        'env', help='versions, devices and what measures on them, for a report'
    )
    parser.add_argument('--json', action='store_true', help='print one JSON document')
    parser.set_defaults(run=_env)


def _env(args: argparse.Namespace) -> int:
    from smd_mmdet.environment import environment, render_environment

    _print(environment(), args.json, render_environment)
    return 0


def _add_skip_damaged(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--skip-damaged',
        action='store_true',
        help='go on without parts of the records that cannot be read, and tell which '
        'iterations are missing',
    )


def _reader(args: argparse.Namespace) -> Callable[..., 'Records']:
    """What reads a run's records as a command was asked to."""
    from smd_mmdet.records import DamagedPartError, read_records

    def read(work_dir: str | os.PathLike, columns: Collection[str]) -> 'Records':
        try:
            records = read_records(
                work_dir,
                columns=columns,
                skip_damaged=args.skip_damaged,
                progress=_progress_of_reading,
            )
        except DamagedPartError as fault:
            raise ValueError(f'{fault} (--skip-damaged goes on without it)') from fault
        for sentence in records.left_out:
            tell(f'smd {args.command}: warning: left out {one_line(sentence)}')
        return records

    return read


def _progress_of_reading(items: Iterable, total: int, description: str) -> Iterable:
    return items if total < FEW_PARTS else _progress(items, total, description)


def _progress(items: Iterable, total: int, description: str) -> Iterable:
    """The items, with a bar on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(items, description=description, total=total, console=console)


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
        put(json.dumps(plain, indent=2, allow_nan=False) + '\n')
        return
    from rich.console import Console

    kept = _Kept()
    Console(file=kept, width=_width()).print(render(result))
    put(kept.getvalue())


class _Kept(io.StringIO):
    """Keeps what rich would write to standard output, in the same letters and colours.

    Where a pipe is closed rich ends the process with exit code 1, which is a verdict.
    """

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return results().encoding

    def isatty(self) -> bool:
        return results().isatty()


def _width() -> int:
    """How many columns there are to print in."""
    from rich.console import Console

    if not results().isatty() and not os.environ.get('COLUMNS', '').isdecimal():
        return WIDTH
    return max(Console().width, NARROWEST)


if __name__ == '__main__':
    sys.exit(main())
