"""Refuses a run whose data are not there, before anything is built.

The data sets of MMDetection and MMPretrain would fail with a traceback, after the model
was built.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS
from mmengine.utils import is_abs

from smd_mmdet.config.errors import SettingError
from smd_mmdet.config.types import type_name

__all__ = ['check_data_files']

# Only of these packages do we know what a data set or metric does with a path.
_PACKAGES = ('mmdet', 'mmengine', 'mmpretrain')
# MMPretrain's data sets that read a folder per class, where no annotation file is set.
_OF_FOLDERS = ('CustomDataset', 'ImageNet')
# The data that the configs in configs/ expect to be drawn, and how they are drawn.
_DRAWN = {
    'data/shapes': '--train 500 --val 60',
    'data/shapes_cls': '--train 2000 --val 1000 --size 32 --kind classification',
}


def check_data_files(cfg: Config, training: bool) -> None:
    """Raise SettingError if a file or folder that a run reads is not there.

    Only local paths are judged, and only those of data sets and metrics from packages
    whose way to read them is known. Whether the others work shows when the run is
    built.

    Args:
        cfg: A whole config; it is not changed.
        training: Whether the run trains; otherwise it tests.

    Raises:
        SettingError: Names the path, the key in the config, and what to do.
    """
    for key, settings, path in _paths(cfg, training):
        if not path.exists():
            kind = 'file' if path.suffix else 'folder'
            hint = _hint(cfg, key, settings)
            raise SettingError(f'no such {kind}: {path} ({key}); {hint}')


def _paths(cfg: Config, training: bool) -> Iterator[tuple[str, dict, Path]]:
    """Give each local path that is read: its key in the config, settings, the path."""
    validates = cfg.get('val_cfg') is not None
    parts = ['train', *(['val'] if validates else [])] if training else ['test']
    for part in parts:
        loader = cfg.get(f'{part}_dataloader')
        dataset = loader.get('dataset') if isinstance(loader, dict) else None
        for key, settings in _nested(f'{part}_dataloader.dataset', dataset):
            if _is_known(DATASETS, cfg, settings) and (path := _of_dataset(settings)):
                yield key, settings, path
    for part in parts:
        name = f'{part}_evaluator'
        for key, settings in _nested(name, cfg.get(name)):
            if _is_known(METRICS, cfg, settings) and (path := _of_metric(settings)):
                yield key, settings, path


def _nested(key: str, node: Any) -> Iterator[tuple[str, dict]]:
    """Give every data set or metric within wrappers and lists: its key, settings."""
    if isinstance(node, (list, tuple)):
        for index, child in enumerate(node):
            yield from _nested(f'{key}.{index}', child)
    elif isinstance(node, dict):
        yield key, node
        for name in ('dataset', 'datasets', 'metrics'):
            yield from _nested(f'{key}.{name}', node.get(name))


def _is_known(registry: Any, cfg: Config, settings: dict) -> bool:
    """Whether a data set or metric reads local files, by code of a known package."""
    for name in ('backend_args', 'file_client_args'):
        arguments = settings.get(name)
        if arguments and arguments.get('backend') not in (None, 'disk', 'local'):
            return False
    kind = settings.get('type')
    if isinstance(kind, str):
        with registry.switch_scope_and_registry(cfg.get('default_scope')) as found:
            try:
                kind = found.get(kind)
            except Exception:  # importing its package fails; building it will tell
                return False
    methods = (getattr(kind, name, kind) for name in ('__init__', 'load_data_list'))
    origins = {str(getattr(m, '__module__', '')).partition('.')[0] for m in methods}
    return origins <= set(_PACKAGES)


def _of_dataset(settings: dict) -> Path | None:
    """The annotation file or folder that a data set reads first."""
    root, file = settings.get('data_root') or '', settings.get('ann_file')
    if not file and type_name(settings) in _OF_FOLDERS:
        file = settings.get('data_prefix') or '.'
    if not isinstance(file, str) or not isinstance(root, str):
        return None
    return _local(file if is_abs(file) or not root else f'{root}/{file}')


def _of_metric(settings: dict) -> Path | None:
    file = settings.get('ann_file')
    return _local(file) if isinstance(file, str) else None


def _local(path: str) -> Path | None:
    """The path, unless it is an address such as s3://bucket/file."""
    return None if '://' in path or not path else Path(path)


def _hint(cfg: Config, key: str, settings: dict) -> str:
    """What to do about a path that is not there."""
    root = str(settings.get('data_root') or '').rstrip('/')
    if root in _DRAWN:
        return f'draw them: smd shapes {root} {_DRAWN[root]}'
    name = 'data_root' if 'data_root' in settings else 'ann_file'
    by_variable = ', or the environment variable COCO_ROOT'
    return f'set {key}.{name}' + (by_variable if 'COCO_ROOT' in cfg.text else '')
