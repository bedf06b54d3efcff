"""What tools/train.py and tools/test.py share: arguments, config, clean errors."""

import argparse
import ctypes
import os
import pickle
import re
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import distributed as dist

from smd_mmdet._text import first_line
from smd_mmdet.config.errors import SettingError

from . import machine
from .data_files import check_data_files

__all__ = ['add_common_arguments', 'build_runner', 'one_line_errors']

# MMEngine's own use of it: nothing that a user can change, and much to read.
warnings.filterwarnings('ignore', message='pkg_resources is deprecated')
warnings.filterwarnings('ignore', message='`broadcast_buffers` is deprecated')


class _Options(DictAction):
    """``DictAction`` that calls a malformed KEY=VALUE a usage error."""

    def __call__(self, parser, namespace, values, option_string=None):
        for pair in values:
            if not re.fullmatch(r'[^=\s]+=.*', pair, re.DOTALL):
                parser.error(f'{option_string}: expected KEY=VALUE, got {pair!r}')
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, ValueError) as error:
            parser.error(f'{option_string}: {first_line(error)}')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that MMDetection's train.py and test.py have in common."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Options,
        metavar='KEY=VALUE',
        help='settings to change in the config, such as optim_wrapper.optimizer.lr='
        '0.01; lists as KEY="[a,b]" or KEY=a,b, nested ones as KEY="[(a,b),(c,d)]", '
        'quoted and without spaces',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes of a distributed run (default: none)',
    )
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS
    )


def build_runner(args: argparse.Namespace, cfg: Config, training: bool) -> Runner:
    """Finish a loaded config by the common arguments and build its runner."""
    if args.launcher in ('none', 'pytorch'):  # the others have their own
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.launcher == 'pytorch':
        _end_with_parent()
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(args.config).stem))
    limit = os.environ.get('DYNAMO_CACHE_SIZE_LIMIT')
    if limit:
        import torch._dynamo

        torch._dynamo.config.cache_size_limit = int(limit)
    check_data_files(cfg, training)
    machine.prepare(cfg, training=training)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def _end_with_parent() -> None:
    """Let no process go on alone when what launched it is killed (Linux)."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError, TypeError):
        return


def check_checkpoint(path: str) -> None:
    """Raise SettingError if path is a local file that is not there."""
    if '://' not in path and not Path(path).is_file():
        raise SettingError(f'no such checkpoint: {path}')


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line and status 2 on a wrong setting.

    A checkpoint that torch refuses to load, because it would run code, is such a
    setting. Where another process of the run is gone, which is no fault of this one, it
    is one line and status 1. Any other exception keeps its traceback.
    """
    status = 2
    try:
        yield
    except SettingError as error:
        message = str(error)
    except RuntimeError as error:
        if not _LOST_PEER.search(str(error)):
            raise
        what = first_line(error).split('. This is typically')[0]
        message, status = f'another process is gone: {what}', 1
    except pickle.UnpicklingError as error:
        refused = re.search(r'GLOBAL (\S+)', str(error))
        why = f'it would load {refused[1]}' if refused else first_line(error)
        message = (
            'the checkpoint is refused: only weights and plain values are loaded, '
            f'and {why}'
        )
    else:
        if dist.is_available() and dist.is_initialized():
            # At the end of the interpreter its threads could end the process by force.
            dist.destroy_process_group()
        return
    if status == 1 or _position() != '0':
        # The launcher ends all processes with the first that fails, which says why:
        # where all fail alike that of rank 0, else the one that is gone.
        time.sleep(10)
    print('error:', ' '.join(message.split()), file=sys.stderr, flush=True)
    sys.exit(status)


# What gloo and NCCL say of a connection that the other side has closed.
_LOST_PEER = re.compile(
    r'Connection (closed|reset) by peer|Broken pipe|Socket (closed|timeout)'
    r'|NCCL.*remote process exited|failed to recv, got 0 bytes',
    re.IGNORECASE,
)


def _position() -> str:
    """Of this process among those of the run."""
    for name in ('LOCAL_RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'):
        if name in os.environ:
            return os.environ[name]
    return '0'
