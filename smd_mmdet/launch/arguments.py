"""What the command lines of this package have in common.

The ``smd`` command uses this module too and must start without MMEngine, which is
therefore imported only where an argument needs it.
"""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from smd_mmdet._text import first_line, one_line

__all__ = [
    'CONFIG_HELP',
    'OneLineParser',
    'add_cfg_options',
    'add_common_arguments',
    'path_argument',
]

# A value, or an element of a list, that is a dict.
_DICT = re.compile(r'(?:^|[\[(,])[\s\'"]*(?:\{|dict\()')
CONFIG_HELP = 'file, or folder/name.py after mmdet::, mmpretrain:: or smd_mmdet::'


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line on stderr, without the usage before it.

    Example:
        >>> parser = OneLineParser(prog='train.py')
        >>> _ = parser.add_argument('--work-dir', type=path_argument)
        >>> parser.parse_args(['--work-dir', 'runs/a']).work_dir
        'runs/a'
    """

    def error(self, message: str) -> NoReturn:
        """End the process with exit code 2."""
        self.exit(2, f'error: {one_line(message)} (see {self.prog} --help)\n')


def path_argument(text: str) -> str:
    """Take a path from the command line; for ``type`` of an argument of argparse.

    Args:
        text: What was given on the command line.

    Returns:
        The same text.

    Raises:
        argparse.ArgumentTypeError: If it is empty. A shell variable that is not set
            gives an empty path, which would mean the current folder.

    Example:
        >>> path_argument('work_dirs/run')
        'work_dirs/run'
    """
    if not text.strip():
        raise argparse.ArgumentTypeError('the path is empty')
    return text


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, as MMDetection's train.py has it.

    Args:
        parser: The parser.

    Example:
        >>> parser = OneLineParser(prog='plan')
        >>> add_cfg_options(parser)
        >>> options = ['--cfg-options', 'train_cfg.max_epochs=24', 'a.b=[1,2]']
        >>> parser.parse_args(options).cfg_options
        {'train_cfg.max_epochs': 24, 'a.b': [1, 2]}
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_ConfigOptions,
        metavar='KEY=VALUE',
        help='settings to change in the config, such as optim_wrapper.optimizer.lr='
        '0.01; lists as KEY="[a,b]" or KEY=a,b, nested ones as KEY="[(a,b),(c,d)]", '
        'quoted and without spaces',
    )


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that MMDetection's train.py and test.py have in common.

    Args:
        parser: The parser that gets ``--cfg-options``, ``--launcher`` and
            ``--local_rank``.

    Example:
        >>> parser = OneLineParser(prog='train.py')
        >>> add_common_arguments(parser)
        >>> parser.parse_args(['--launcher', 'slurm']).launcher
        'slurm'
    """
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes of a distributed run (default: none)',
    )
    # torch's former launcher passes it; torchrun sets LOCAL_RANK instead.
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS
    )


class _ConfigOptions(argparse.Action):
    """Reads KEY=VALUE as MMEngine does; a malformed one is a usage error."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        from mmengine.config import DictAction

        for pair in values or ():
            if not re.fullmatch(r'[^=\s]+=.*', pair, re.DOTALL):
                parser.error(f'{option_string}: expected KEY=VALUE, got {pair!r}')
            key, _, value = pair.partition('=')
            if _DICT.search(value):  # MMEngine would make texts of its parts
                parser.error(
                    f'{option_string}: {key}: a dict cannot be given here; change one '
                    f'that is there by {key}.NAME=VALUE, in a list by {key}.0.NAME='
                    'VALUE, or write it into a config'
                )
        read = DictAction(self.option_strings, self.dest, nargs=self.nargs)
        try:
            read(parser, namespace, values, option_string)
        except (AssertionError, ValueError) as error:
            parser.error(f'{option_string}: {first_line(error)}')
