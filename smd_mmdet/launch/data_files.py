"""Whether the files of a data set are there, told before a run is built."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS
from mmengine.utils import is_abs

from smd_mmdet.config.errors import SettingError

__all__ = ['check_data_files']

# Of what other packages' classes do with a path nothing is known.
_PACKAGES = ('mmdet', 'mmengine', 'mmpretrain')
# Without an annotation file they go through the folders.
_OF_FOLDERS = ('CustomDataset', 'ImageNet')


def check_data_files(cfg: Config, training: bool) -> None:
    """Raise SettingError if a file that a run reads its data from is not there.

    Only local files are judged, and only of data sets and metrics whose way to read
    them is known; for all others building the run tells.

    Args:
        cfg: A whole config; it is not changed.
        training: Whether the run trains, else it tests.
    """
    for key, settings, path in _paths(cfg, training):
        if not path.exists():
            kind = 'file' if path.suffix else 'folder'
            hint = _hint(cfg, key, settings, path)
            raise SettingError(f'no such {kind}: {path} ({key}); {hint}')


def _paths(cfg: Config, training: bool) -> Iterator[tuple[str, dict, Path]]:
    """Key, settings and path of each local file or folder."""
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
    """Every data set or metric within wrappers and lists."""
    if isinstance(node, (list, tuple)):
        for index, child in enumerate(node):
            yield from _nested(f'{key}.{index}', child)
    elif isinstance(node, dict):
        yield key, node
        for name in ('dataset', 'datasets', 'metrics'):
            yield from _nested(f'{key}.{name}', node.get(name))


def _is_known(registry: Any, cfg: Config, settings: dict) -> bool:
    """Whether it reads local files, by code of a package we know."""
    for name in ('backend_args', 'file_client_args'):
        arguments = settings.get(name)
        if arguments and arguments.get('backend') not in (None, 'disk', 'local'):
            return False
    kind = settings.get('type')
    if isinstance(kind, str):
        with registry.switch_scope_and_registry(cfg.get('default_scope')) as found:
            try:
                kind = found.get(kind)
            except Exception:  # building it gives the message
                return False
    methods = (getattr(kind, name, kind) for name in ('__init__', 'load_data_list'))
    origins = {str(getattr(m, '__module__', '')).partition('.')[0] for m in methods}
    return origins <= set(_PACKAGES)


def _of_dataset(settings: dict) -> Path | None:
    root, file = settings.get('data_root') or '', settings.get('ann_file')
    if not file and str(settings.get('type')).endswith(_OF_FOLDERS):
        file = settings.get('data_prefix') or '.'
    if not isinstance(file, str) or not isinstance(root, str):
        return None
    return _local(file if is_abs(file) or not root else f'{root}/{file}')


def _of_metric(settings: dict) -> Path | None:
    file = settings.get('ann_file')
    return _local(file) if isinstance(file, str) else None


def _local(path: str) -> Path | None:
    return None if '://' in path or not path else Path(path)


def _hint(cfg: Config, key: str, settings: dict, path: Path) -> str:
    """What to do about a path that is not there."""
    root = str(settings.get('data_root') or path.parent.parent).rstrip('/')
    if Path(root).name == 'shapes':
        return f'draw them: smd shapes {root} --train 500 --val 60'
    if Path(root).name == 'shapes_cls':
        options = '--train 2000 --val 1000 --size 32 --kind classification'
        return f'draw them: smd shapes {root} {options}'
    name = 'data_root' if 'data_root' in settings else 'ann_file'
    by_variable = ', or the environment variable COCO_ROOT'
    return f'set {key}.{name}' + (by_variable if 'COCO_ROOT' in cfg.text else '')
