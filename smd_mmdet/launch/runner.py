"""Builds the runner of a training or test run, and tells of errors.

Shared by tools/train.py and tools/test.py.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from smd_mmdet._text import one_line

from . import machine
from .checkpoints import check_checkpoint, find_last_checkpoint
from .data_files import check_data_files
from .errors import as_setting_error
from .streams import tell
from .whole_files import write_whole_files

__all__ = ['build_runner', 'one_line_errors']

# tools/processes.py, which must start at once, says the same.
GO_ON = (
    'records and checkpoints written so far are readable; the same command with '
    '--resume goes on from the last checkpoint'
)

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
    write_whole_files()
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
def one_line_errors(training: bool = False) -> Iterator[None]:
    """End the process on an error: with one line and status 2 on a wrong setting.

    What else a user can mend, such as a checkpoint that is damaged or a name that is
    not registered, is such a setting. Ctrl-C and SIGTERM end with one line and status
    130 and 143. Any other exception keeps its traceback and gives status 1.

    Under torchrun the error is handed over instead of printed. When a process fails,
    all others fail too, as their connection to it breaks: only torchrun knows which
    error came first and is the cause. tools/processes.py prints that one.

    Args:
        training: Whether the run trains, and can be resumed.
    """
    under_torchrun = 'TORCHELASTIC_ERROR_FILE' in os.environ
    try:
        with contextlib.nullcontext() if under_torchrun else _sigterm_raises():
            yield
    except (Exception, KeyboardInterrupt) as error:
        if end := _end_from_outside(error):
            if not under_torchrun:
                go_on = f'; {GO_ON}' if training else ''
                tell(f'error: the run was ended by {end.name}{go_on}')
            sys.exit(128 + end)
        assert isinstance(error, Exception)
        setting = as_setting_error(error)
        if under_torchrun:
            _hand_over(setting or error)
        elif setting:
            tell(f'error: {one_line(setting)}')
        else:
            raise
        sys.exit(2 if setting else 1)
    if dist.is_available() and dist.is_initialized():
        # Left to the end of the interpreter, the threads of a process group can end
        # the process with an error after all is done.
        dist.destroy_process_group()


def _end_from_outside(error: BaseException) -> signal.Signals | None:
    """The signal that an error comes of, if it comes of one."""
    # Where SIGTERM is sent to all processes of a job, workers that load data die of it.
    if 'killed by signal: Terminated' in str(error):
        return signal.SIGTERM
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, KeyboardInterrupt):
            return signal.SIGTERM if isinstance(seen, _Terminated) else signal.SIGINT
        # MMEngine has bare excepts, which make another error of it.
        seen = seen.__cause__ or seen.__context__
    return None


class _Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM end this process as Ctrl-C does, so that its end can be told."""
    process = os.getpid()

    def end(number: int, frame: Any) -> None:
        if os.getpid() == process and not dist.is_initialized():
            raise _Terminated
        # A process that waits for others would not come to raise anything, and one
        # that was forked has an end of its own.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _hand_over(error: Exception) -> None:
    """Write an error to the file from which torchrun reads it."""
    # Where another process failed first, torchrun ends this one at any moment, and
    # half a file would be an error of torchrun's own.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    get_error_handler().record_exception(error)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_with_parent() -> None:
    """Let this process end when its launcher does.

    A launcher that is killed cannot end its processes, and they would hold the GPUs
    and train on. Only Linux can do this.
    """
    if sys.platform == 'linux':
        set_death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)
