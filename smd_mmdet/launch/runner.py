"""Builds the runner of a training or test run, and tells of errors.

Shared by tools/train.py and tools/test.py.
"""

import argparse
import ctypes
import os
import pickle
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from smd_mmdet._text import first_line, one_line
from smd_mmdet.config.errors import SettingError

from . import machine
from .checkpoints import check_checkpoint, find_last_checkpoint
from .data_files import check_data_files

__all__ = ['build_runner', 'one_line_errors']

# MMEngine causes these warnings itself: a user can do nothing about them.
warnings.filterwarnings('ignore', message='pkg_resources is deprecated')
warnings.filterwarnings('ignore', message='`broadcast_buffers` is deprecated')


def build_runner(args: argparse.Namespace, cfg: Config, training: bool) -> Runner:
    """Finish a loaded config by the command line, check it, and build its runner.

    Args:
        args: Arguments of the command line: ``config``, ``work_dir`` and those of
            :func:`.arguments.add_common_arguments`.
        cfg: The whole config; ``launcher``, ``work_dir`` and what the machine needs
            are set in it.
        training: Whether the run trains; otherwise it tests.

    Returns:
        A runner, ready for ``train()`` or ``test()``.

    Raises:
        SettingError: If data or a checkpoint are missing, or the config cannot run on
            this machine.
    """
    if args.launcher in ('none', 'pytorch'):  # Slurm and MPI number their processes
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.launcher == 'pytorch':
        _end_with_parent()
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(args.config).stem))
    check_data_files(cfg, training)
    found = None
    if cfg.get('load_from'):
        if 'runner_type' not in cfg:  # others write folders
            check_checkpoint(cfg.load_from)
    elif cfg.get('resume') and (found := find_last_checkpoint(cfg)):
        cfg.load_from = found
    machine.prepare(cfg, training=training)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if found:
        runner.logger.info(
            f'The work dir was copied or moved: going on from its own {found}.'
        )
    return runner


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process on an error: with one line and status 2 on a wrong setting.

    A checkpoint that torch refuses to load, because it would run code, is such a
    setting. Any other exception keeps its traceback and gives status 1.

    Under torchrun the error is handed over instead of printed. When a process fails,
    all others fail too, as their connection to it breaks: only torchrun knows which
    error came first and is the cause. tools/processes.py prints that one.
    """
    try:
        with _refused_checkpoint_is_a_setting():
            yield
    except Exception as error:
        wrong_setting = isinstance(error, SettingError)
        if 'TORCHELASTIC_ERROR_FILE' in os.environ:
            _hand_over(error)
        elif wrong_setting:
            print('error:', one_line(error), file=sys.stderr, flush=True)
        else:
            raise
        sys.exit(2 if wrong_setting else 1)
    if dist.is_available() and dist.is_initialized():
        # Left to the end of the interpreter, the threads of a process group can end
        # the process with an error after all is done.
        dist.destroy_process_group()


def _hand_over(error: Exception) -> None:
    """Write an error to the file from which torchrun reads it."""
    # Where another process failed first, torchrun ends this one at any moment, and
    # half a file would be an error of torchrun's own.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    get_error_handler().record_exception(error)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _refused_checkpoint_is_a_setting() -> Iterator[None]:
    try:
        yield
    except pickle.UnpicklingError as error:
        refused = re.search(r'GLOBAL (\S+)', str(error))
        why = f'it would load {refused[1]}' if refused else first_line(error)
        raise SettingError(
            'the checkpoint is refused: only weights and plain values are loaded, '
            f'and {why}'
        ) from error


def _end_with_parent() -> None:
    """Let this process end when its launcher does.

    A launcher that is killed cannot end its processes, and they would hold the GPUs
    and train on. Only Linux can do this.
    """
    if sys.platform == 'linux':
        set_death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)
