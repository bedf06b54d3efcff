"""Which checkpoint a run goes on from, and whether it can be read."""

import tarfile
import zipfile
from pathlib import Path

from mmengine.config import Config

from smd_mmdet.config.errors import SettingError

__all__ = ['check_checkpoint', 'find_last_checkpoint']

_TAKE_ANOTHER = 'name the checkpoint to go on from by --resume CHECKPOINT'


def check_checkpoint(path: str) -> None:
    """Raise SettingError if a path is no local file that can hold a checkpoint.

    Args:
        path: A file, or an address such as ``https://...`` or ``torchvision://...``,
            which is left to MMEngine.

    Raises:
        SettingError: If there is no such file, it is a folder, it is empty, its end is
            missing, or torch did not write it.
    """
    if '://' in path:
        return
    file = Path(path)
    if file.is_dir():
        raise SettingError(f'the checkpoint is a folder: {path}; name a file in it')
    if not file.is_file():
        raise SettingError(f'no such checkpoint: {path}')
    with open(file, 'rb') as opened:
        start = opened.read(2)
    # torch writes a pickle or a ZIP archive, whose list of contents comes last.
    if not start or (start == b'PK' and not zipfile.is_zipfile(file)):
        found = 'cut off' if start else 'empty'
        raise SettingError(
            f'the checkpoint is {found}: {path} (was the run that wrote it ended, or '
            'the disk full?); take an earlier one'
        )
    if start != b'PK' and start[:1] != b'\x80' and not tarfile.is_tarfile(file):
        raise SettingError(f'no checkpoint, but another kind of file: {path}')


def find_last_checkpoint(cfg: Config) -> str | None:
    """The checkpoint that ``resume`` without a name means, if MMEngine would miss it.

    MMEngine notes the last checkpoint by its absolute path. In a copy of a work dir
    that is the checkpoint of the original, and in one that was moved none.

    Args:
        cfg: A whole config, with its ``work_dir``; it is not changed.

    Returns:
        The file in the work dir that has the noted name; None if that is what is
        noted, or if nothing is noted.

    Raises:
        SettingError: If there is no such file, or it cannot be read.
    """
    work_dir = Path(cfg.work_dir)
    note = work_dir / 'last_checkpoint'
    if not note.is_file():
        return None  # the run starts anew
    noted = note.read_text(errors='replace').strip()
    if not noted:
        raise SettingError(f'{note} is empty; {_TAKE_ANOTHER}')
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    here = work_dir / Path(noted).name
    if not here.exists() and ('://' in noted or hook.get('out_dir')):
        here = Path(noted)  # checkpoints are kept elsewhere
    elif not here.exists():
        raise SettingError(
            f'{note} names {noted}, and {work_dir} has no {here.name}; {_TAKE_ANOTHER}'
        )
    if 'runner_type' not in cfg:  # others write folders
        check_checkpoint(noted if '://' in noted else str(here))
    same = '://' in noted or here.resolve() == Path(noted).resolve()
    return None if same else str(here)
