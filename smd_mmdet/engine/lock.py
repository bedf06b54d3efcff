"""One writer per folder, by a lock that the system drops when its process ends."""

import contextlib
import errno
import os
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ['FolderInUse', 'Hold', 'hold', 'holds', 'release']

NAME = '.smd.lock'


@dataclass(eq=False)
class Hold:
    """Who holds a folder.

    Args:
        thread: The thread of this process that took it.
        file: The locked file; None where the system has given no lock.
    """

    thread: threading.Thread
    file: IO | None


# By process and folder: a fork inherits the file, but not the lock.
_held: dict[tuple[int, Path], Hold] = {}


class FolderInUse(ValueError):
    """Another process or thread holds the folder; the message names both."""


def hold(folder: str | os.PathLike) -> Hold:
    """Hold a folder until :func:`release`, or the end of the process.

    The lock is one of POSIX's and not flock's: worker processes that load data would
    inherit the latter, and those that outlive a killed run would keep its folder from
    being used. Where the system has no locks, or no file can be made, other processes
    are not kept out.

    A thread may take a folder again: a run that it broke off there has left it held.
    Who held it before finds out by :func:`holds`.

    Args:
        folder: The folder; it gets a file ``.smd.lock``, which stays.

    Returns:
        What shows that the folder is held, for :func:`holds` and :func:`release`.

    Raises:
        FolderInUse: If another process holds it, or another thread of this one.
    """
    key, thread = _key(folder), threading.current_thread()
    before = _held.get(key)
    if before is None:
        held = Hold(thread, _locked(folder, key[1]))
    elif before.thread is not thread and before.thread.is_alive():
        raise FolderInUse(f'{folder} is in use by {before.thread.name} of this process')
    else:
        held = Hold(thread, before.file)
    _held[key] = held
    return held


def holds(folder: str | os.PathLike, held: Hold) -> bool:
    """Whether nobody else in this process has taken the folder since."""
    return _held.get(_key(folder)) is held


def release(folder: str | os.PathLike, held: Hold | None) -> None:
    """Let another process hold the folder, unless it was taken by somebody else."""
    if held is None or not holds(folder, held):
        return
    del _held[_key(folder)]
    if held.file is not None:
        with contextlib.suppress(OSError):
            held.file.close()


def _locked(folder: str | os.PathLike, path: Path) -> IO | None:
    """The locked file of a folder; None where there can be none."""
    if fcntl is None:
        return None
    try:
        file = open(path / NAME, 'a+', encoding='utf-8')  # noqa: SIM115
    except OSError:
        return None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        with file:
            file.seek(0)
            owner = file.read(300).strip() or 'another process'
        if fault.errno in (errno.EACCES, errno.EAGAIN):
            raise FolderInUse(f'{folder} is in use by {owner}') from None
        return None
    with contextlib.suppress(OSError):  # the name is for the message only
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}')
        file.flush()
    return file


def _key(folder: str | os.PathLike) -> tuple[int, Path]:
    return os.getpid(), Path(folder).resolve()
