"""Reads a config file, and merges options into it."""

import ast
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from smd_mmdet._text import first_line

from .compat import allow_mmpretrain
from .errors import SettingError
from .shipped import find_config

__all__ = ['load_config']


def load_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """Read a config and merge options into it.

    Args:
        path: A file, or ``package::folder/name.py`` for one that mmdet, smd_mmdet or
            another package ships.
        options: Dotted names and the values to give them.

    Returns:
        The config.

    Raises:
        SettingError: If it cannot be read, or an option does not fit it.
    """
    try:
        file = find_config(path) if '::' in path else Path(path)
    except FileNotFoundError as error:
        raise SettingError(str(error)) from error
    if not file.is_file():
        raise SettingError(f'no such config: {path}')
    if file.suffix == '.py':
        # MMEngine runs a copy, and an error would name the copy.
        try:
            ast.parse(file.read_bytes())
        except (SyntaxError, ValueError) as error:
            line = getattr(error, 'lineno', None)
            where = f', line {line}' if line else ''
            raise SettingError(
                f'{path}{where}: {getattr(error, "msg", None) or first_line(error)}'
            ) from error
    try:
        cfg = Config.fromfile(file, import_custom_modules=False)
        allow_mmpretrain(cfg)
        if cfg.get('custom_imports'):
            import_modules_from_strings(**cfg.custom_imports)
    except (Exception, SystemExit) as error:
        raise SettingError(
            f'cannot read config {path}: {type(error).__name__}: {first_line(error)}'
        ) from error
    try:
        if options:
            cfg.merge_from_dict(options)
    except Exception as error:
        raise SettingError(
            f'--cfg-options does not fit {path}: {type(error).__name__}: '
            f'{first_line(error)}'
        ) from error
    return cfg
