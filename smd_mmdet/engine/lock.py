"""One writer per folder, by a lock that the system drops when its process ends."""

import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ['FolderInUse', 'hold', 'release']

NAME = '.smd.lock'

# The open files by process and folder: a fork inherits the file, but not the lock.
_held: dict[tuple[int, Path], IO] = {}


class FolderInUse(ValueError):
    """Another process holds the folder; the message names both."""


def hold(folder: str | os.PathLike) -> None:
    """Hold a folder until :func:`release`, or the end of the process.

    The lock is one of POSIX's and not flock's: worker processes that load data would
    inherit the latter, and those that outlive a killed run would keep its folder from
    being used. A process may hold a folder that it holds already. Where the system has
    no locks, or no file can be made, nothing is held.

    Args:
        folder: The folder; it gets a file ``.smd.lock``, which stays.

    Raises:
        FolderInUse: If another process holds it.
    """
    key = _key(folder)
    if fcntl is None or key in _held:
        return
    try:
        file = open(key[1] / NAME, 'a+', encoding='utf-8')  # noqa: SIM115
    except OSError:
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        with file:
            file.seek(0)
            owner = file.read(300).strip() or 'another process'
        if fault.errno in (errno.EACCES, errno.EAGAIN):
            raise FolderInUse(f'{folder} is in use by {owner}') from None
        return
    with contextlib.suppress(OSError):  # the name is for the message only
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}')
        file.flush()
    _held[key] = file


def release(folder: str | os.PathLike) -> None:
    """Let another process hold the folder."""
    if (file := _held.pop(_key(folder), None)) is not None:
        with contextlib.suppress(OSError):
            file.close()


def _key(folder: str | os.PathLike) -> tuple[int, Path]:
    return os.getpid(), Path(folder).resolve()
