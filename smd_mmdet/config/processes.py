"""On how many processes a config is meant to be trained.

A config does not say so. Its name does, in MMDetection's habit: `_8xb32-300e_` is 8
processes with 32 images each. ``auto_scale_lr.base_batch_size`` tells the number too,
but many configs only inherit it from a schedule that was made for others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .errors import SettingError
from .images import is_public
from .settings import flag, whole

__all__ = ['Processes', 'read_processes']

_NAMED = re.compile(r'(?<![A-Za-z0-9])([1-9]\d*)xb([1-9]\d*)(?![A-Za-z0-9])')
# How the files of a config are named in its text: MMEngine sets each one's path above
# what it holds; a new-style config imports those it is based on.
_FILES = re.compile(
    r'^(?:(?P<path>/.*\.py)|\s*from\s+(?P<module>\S+)\s+import\s+\*)\s*$', re.MULTILINE
)


@dataclass(frozen=True)
class Processes:
    """The training processes, and what AutoScaleLR makes of them.

    Args:
        count: Number of processes.
        lr_factor: What AutoScaleLR multiplies the learning rate by.
        assumptions: Why so many, a sentence each.
    """

    count: int
    lr_factor: float
    assumptions: tuple[str, ...]


def read_processes(
    config: Config,
    scaling: Mapping,
    dataset: Any,
    batch: int,
    gpus: int | None = None,
) -> Processes:
    """Training processes of a config, and AutoScaleLR, which depends on them.

    Args:
        config: The config, whose name and whose bases' names count.
        scaling: ``auto_scale_lr``.
        dataset: Settings of the training data.
        batch: Images of a process in a batch.
        gpus: Training processes as the user gives them.

    Returns:
        The processes. Without ``gpus`` they are those of the config's own name; on
        public data, else those of its bases' names or of the base batch size; else 1.

    Raises:
        SettingError: If a setting cannot be.

    Example:
        >>> config = Config(dict(), filename=None)
        >>> read_processes(config, {}, None, batch=2).assumptions
        ('1 training process, for lack of a number',)
    """
    base = scaling.get('base_batch_size')
    if base is not None:
        whole(base, 'auto_scale_lr.base_batch_size')
    said = []
    if gpus is not None:
        whole(gpus, 'gpus')
    else:
        gpus, reason = _guess(config, base, dataset, batch)
        said.append(f'{gpus} training process{"es" * (gpus > 1)}, {reason}')
    factor = 1.0
    if flag(scaling.get('enable'), 'auto_scale_lr.enable'):
        if not base:
            raise SettingError('auto_scale_lr.base_batch_size is missing')
        factor = gpus * batch / base
        said.append(f'AutoScaleLR multiplies the learning rate by {factor:g}')
    return Processes(gpus, factor, tuple(said))


def _guess(
    config: Config, base: int | None, dataset: Any, batch: int
) -> tuple[int, str]:
    """The number of processes, and what it rests on."""
    public = is_public(dataset)
    for own, name in _names(config):
        # What a base was made for tells nothing of data of one's own.
        if (found := _NAMED.search(name)) and (own or public):
            count, images = map(int, found.groups())
            reason = f'as {found[0]} in the name of {name}'
            if count > 1 and batch == count * images:
                return 1, f'with the whole batch of {found[0]} in the name of {name}'
            if images != batch:
                reason += f', though a batch has {batch} images now'
            elif base and base != count * images:
                reason += f'; auto_scale_lr.base_batch_size, {base}, does not fit it'
            return count, reason
    if base and public:
        return max(1, base // batch), f'for the base batch size {base}'
    return 1, 'for lack of a number'


def _names(config: Config) -> Iterator[tuple[bool, str]]:
    """Names of a config's files, the nearest first, and whether it is its own."""
    own = Path(config.filename or '').name
    if own:
        yield True, own
    files = [m['path'] or m['module'] for m in _FILES.finditer(config.text or '')]
    for file in reversed(files):
        name = file.rpartition('/')[2] if '/' in file else file.rpartition('.')[2]
        if name != own:
            yield False, name
