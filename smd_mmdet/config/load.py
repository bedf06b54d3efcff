"""Reads a config file, and merges options into it."""

import ast
import inspect
import os
import sys
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

from smd_mmdet._text import did_you_mean, first_line, one_line

from .compat import allow_mmpretrain
from .errors import SettingError
from .shipped import find_config

__all__ = ['load_config']

# What MMEngine, MMDetection or this package read beside the arguments of the Runner.
_READ = {
    *('activation_checkpointing', 'auto_scale_lr', 'compile', 'custom_imports'),
    'efficient_conv_bn_eval',
    *('find_unused_parameters', 'model_wrapper_cfg', 'runner_type', 'strategy'),
    *('sync_bn', 'tta_model', 'tta_pipeline'),
}


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
    known = set(cfg)
    try:
        if options:
            cfg.merge_from_dict(options)
    except Exception as error:
        raise SettingError(
            f'--cfg-options does not fit {path}: {type(error).__name__}: '
            f'{first_line(error)}'
        ) from error
    _warn_of_unknown(options or {}, known)
    return cfg


def _warn_of_unknown(options: dict[str, Any], known: set[str]) -> None:
    """Tell of options for sections that neither the config nor MMEngine has.

    Args:
        options: Dotted names and their values.
        known: What the config has without them.
    """
    if os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) != '0':
        return  # the first process of several tells it
    known = known | set(inspect.signature(Runner.__init__).parameters) | _READ
    for name in dict.fromkeys(option.partition('.')[0] for option in options):
        if name not in known:
            message = f'--cfg-options: the config has no {name}, and none is read'
            hint = did_you_mean(name, sorted(known))
            print(
                f'warning: {one_line(message)}{"; " * bool(hint)}{hint}',
                file=sys.stderr,
                flush=True,
            )
