"""torchrun, with one line where a failed process would fill pages.

    python tools/processes.py TORCHRUN_ARGUMENT ... SCRIPT [ARGUMENT ...]

When a process fails, the others fail after it, as their connection to it breaks. Each
hands its error to torchrun (smd_mmdet/launch/runner.py); of these the first is printed
here, which is the cause, and no other. A process that was killed could hand over
nothing: it is named, and how to go on is said.
"""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterable
from typing import NoReturn

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import (
    ChildFailedError,
    ProcessFailure,
)
from torch.distributed.run import main

GO_ON = (
    'records and checkpoints written so far are readable; the same command with '
    '--resume goes on from the last checkpoint'
)
WRONG_SETTING = 2


def launch() -> None:
    # What torchrun logs of a failure is said in one line below.
    logging.disable(logging.CRITICAL)
    try:
        main()
    except ChildFailedError as error:
        end_leftovers(error.failures.values())
        refuse_wrong_setting(error.failures.values())
        rank, failure = min(error.failures.items(), key=lambda item: order(item[1]))
        sys.stderr.write(told(failure).get('extraInfo', {}).get('py_callstack', ''))
        fail(describe(rank, failure), code=1)
    except SignalException as error:
        name = signal.Signals(error.sigval).name
        fail(f'the run was ended by {name}', code=128 + error.sigval)
    except KeyboardInterrupt:  # before torchrun has begun to handle it
        fail('the run was ended by SIGINT', code=128 + signal.SIGINT)


def refuse_wrong_setting(failures: Iterable[ProcessFailure]) -> None:
    """End with the first message about a wrong setting, if there is one."""
    wrong = [failure for failure in failures if failure.exitcode == WRONG_SETTING]
    if not wrong:
        return
    # torch writes NAME_OF_EXCEPTION: MESSAGE. A wrong argument was told by argparse.
    _, _, message = told(min(wrong, key=order)).get('message', '').partition(': ')
    if message:
        print('error:', ' '.join(message.split()), file=sys.stderr, flush=True)
    sys.exit(WRONG_SETTING)


def told(failure: ProcessFailure) -> dict:
    """What a process handed to torchrun of its error; nothing if it was killed."""
    message = failure.error_file_data['message']
    return message if isinstance(message, dict) else {}


def describe(rank: int, failure: ProcessFailure) -> str:
    process = f'process {rank} (pid {failure.pid})'
    if failure.exitcode >= 0:
        return f'{process} failed with status {failure.exitcode}, as told above'
    name = failure.signal_name()
    often = ', often for want of memory' if name == 'SIGKILL' else ''
    return f'{process} was killed by {name}{often}; the run was ended'


def order(failure: ProcessFailure) -> tuple:
    """Puts the failure that is the cause of the others first."""
    return (
        # torchrun itself ends the processes that are left, by SIGTERM.
        failure.exitcode == -signal.SIGTERM,
        # A process that loses its connection to a killed one ends with an error.
        failure.exitcode > 0,
        time_of(failure),
    )


def time_of(failure: ProcessFailure) -> float:
    """When a process handed over its error; torchrun itself knows it to a second."""
    try:
        return os.path.getmtime(failure.error_file)
    except OSError:
        return failure.timestamp


def fail(what: str, code: int) -> NoReturn:
    training = any(os.path.basename(part) == 'train.py' for part in sys.argv)
    print(f'error: {what}' + f'; {GO_ON}' * training, file=sys.stderr, flush=True)
    sys.exit(code)


def end_leftovers(failures: Iterable[ProcessFailure]) -> None:
    """End what a dead process has left, such as its workers that load data.

    torchrun makes each process the leader of a group of its own.
    """
    for failure in failures:
        with contextlib.suppress(OSError, AttributeError):
            os.killpg(failure.pid, signal.SIGKILL)


if __name__ == '__main__':
    launch()
