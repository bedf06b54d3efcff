"""Checkpoints that are whole or not there."""

import contextlib
import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend
from mmengine.fileio.io import backend_instances

__all__ = ['write_whole_files']


def write_whole_files() -> None:
    """Let MMEngine write its checkpoints such that none is ever cut off.

    MMEngine writes over the file of that name: a run that is killed meanwhile, or a
    full disk, leaves half of one.

    Example:
        >>> write_whole_files()
    """
    register_backend('local', _WholeFiles, force=True, prefixes='')
    backend_instances.clear()  # MMEngine keeps those it has made


class _WholeFiles(LocalBackend):
    """Writes each file under another name, and names it as it is complete."""

    @property
    def name(self) -> str:
        return LocalBackend.__name__  # for MMEngine's log

    def put(self, obj: bytes, filepath: str | Path) -> None:
        target = Path(filepath).resolve()  # a link stays one
        temporary = target.with_name(f'.{target.name}.{os.getpid()}.tmp')
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
