"""torchrun, with one line where a failed process would fill pages.

    python tools/processes.py TORCHRUN_ARGUMENT ... SCRIPT [ARGUMENT ...]

A process that failed has told why; torchrun's report and its own traceback would bury
that. One that was killed could tell nothing, so this names it and says how to go on.
"""

import contextlib
import logging
import os
import signal
import sys

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


def launch() -> None:
    # What torchrun logs of a failure is said in one line below.
    logging.disable(logging.CRITICAL)
    try:
        main()
    except ChildFailedError as error:
        end_leftovers(error.failures.values())
        if any(failure.exitcode == 2 for failure in error.failures.values()):
            sys.exit(2)  # a wrong setting, which the process has told
        fail(describe(error), code=1)
    except SignalException as error:
        name = signal.Signals(error.sigval).name
        fail(f'the run was ended by {name}', code=128 + error.sigval)


def describe(error: ChildFailedError) -> str:
    """The failure that brought down the others, in words."""
    rank, failure = min(error.failures.items(), key=lambda item: order(item[1]))
    process = f'process {rank} (pid {failure.pid})'
    if failure.exitcode >= 0:
        return f'{process} failed with status {failure.exitcode}, as told above'
    name = failure.signal_name()
    often = ', often for want of memory' if name == 'SIGKILL' else ''
    return f'{process} was killed by {name}{often}; the run was ended'


def order(failure: ProcessFailure) -> tuple:
    # torchrun ends the others by SIGTERM; one whose peer is gone ends with status 1.
    return (
        failure.exitcode == -signal.SIGTERM,
        failure.exitcode > 0,
        failure.timestamp,
    )


def fail(what: str, code: int) -> None:
    training = any(os.path.basename(part) == 'train.py' for part in sys.argv)
    print(f'error: {what}' + f'; {GO_ON}' * training, file=sys.stderr, flush=True)
    sys.exit(code)


def end_leftovers(failures) -> None:
    """End what a dead process has left of its own: each led a group of its own."""
    for failure in failures:
        with contextlib.suppress(OSError, AttributeError):
            os.killpg(failure.pid, signal.SIGKILL)


if __name__ == '__main__':
    launch()
