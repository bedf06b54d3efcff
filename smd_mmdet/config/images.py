"""How many images a config's data set has; it is built only where no file tells."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger
from mmengine.registry import DATASETS

from smd_mmdet._text import one_line

from .annotations import count_annotated, known_classes, read_filter
from .errors import SettingError
from .settings import text, whole
from .types import class_of, type_name

__all__ = ['Images', 'count_images', 'is_public', 'unknown_length']

# Images of COCO train2017 with and without those that have no object. None is smaller
# than what MMDetection's configs ask for.
_COCO = {True: 117_266, False: 118_287}
_SMALLEST = 32
# Training images of what MMPretrain knows by the type of the data set.
_CLASSIFICATION = {
    'ImageNet': 1_281_167,
    'CIFAR10': 50_000,
    'CIFAR100': 50_000,
    'MNIST': 60_000,
    'FashionMNIST': 60_000,
}
_PICTURES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')


@dataclass(frozen=True)
class Images:
    """Size of a data set.

    Args:
        count: Number of images in an epoch.
        assumptions: What the number rests on where the data are not here, a sentence
            each.
    """

    count: int
    assumptions: tuple[str, ...] = ()


def unknown_length(why: str) -> SettingError:
    """The error that asks for the length of an epoch.

    Args:
        why: What is missing.

    Returns:
        The error, to be raised.
    """
    return SettingError(
        f'the length of an epoch is not known: {why}; give --iters-per-epoch N'
    )


def is_public(dataset: Any) -> bool:
    """Whether a data set is COCO, or one that MMPretrain knows.

    Args:
        dataset: Settings of the data set, in MMEngine's wrappers or not.

    Returns:
        Whether it is. For such data sets ``auto_scale_lr.base_batch_size`` was chosen.
    """
    while isinstance(dataset, Mapping) and isinstance(dataset.get('dataset'), Mapping):
        dataset = dataset['dataset']
    if not isinstance(dataset, Mapping):
        return False
    coco = 'instances_train2017' in str(dataset.get('ann_file', ''))
    return coco or type_name(dataset) in _CLASSIFICATION


def count_images(
    dataset: Any, path: str = 'train_dataloader.dataset', scope: str | None = None
) -> Images:
    """The size of a data set, through MMEngine's wrappers.

    Args:
        dataset: Settings of the data set.
        path: Dotted name of these settings.
        scope: ``default_scope`` of the config.

    Returns:
        The number of images, and what it rests on.

    Raises:
        SettingError: If the size is not known.
    """
    if not isinstance(dataset, Mapping):
        raise unknown_length(f'there is no {path}')
    kind = type_name(dataset)
    if kind == 'ConcatDataset':
        return _concatenated(dataset.get('datasets'), f'{path}.datasets', scope)
    if kind in ('RepeatDataset', 'MultiImageMixDataset', 'ClassBalancedDataset'):
        return _wrapped(dataset, kind, path, scope)
    indices = dataset.get('indices')
    if indices is None:
        return _from_files(dataset, kind, path, scope)
    chosen = _count_indices(indices, f'{path}.indices')
    if not isinstance(indices, int):
        return Images(chosen)
    try:
        found = _from_files(dataset, kind, path, scope)
    except SettingError:
        return Images(chosen, (f'{path} has the {chosen:,} images of its indices',))
    return replace(found, count=min(chosen, found.count))


def _concatenated(datasets: Any, path: str, scope: str | None) -> Images:
    if not isinstance(datasets, (list, tuple)):
        raise SettingError(f'{path} must be a list of dicts, got {datasets!r:.80}')
    parts = [
        count_images(part, f'{path}[{i}]', scope) for i, part in enumerate(datasets)
    ]
    said = tuple(line for part in parts for line in part.assumptions)
    return Images(sum(part.count for part in parts), said)


def _wrapped(dataset: Mapping, kind: str, path: str, scope: str | None) -> Images:
    """The size of a data set around one other."""
    inner = count_images(dataset.get('dataset'), f'{path}.dataset', scope)
    if kind == 'RepeatDataset':
        times = whole(dataset.get('times'), f'{path}.times')
        return replace(inner, count=times * inner.count)
    if kind == 'MultiImageMixDataset':
        return inner
    if inner.assumptions:
        raise unknown_length(
            'ClassBalancedDataset repeats images by their classes, and the images are '
            'not here'
        )
    return Images(_count_built(dataset, scope))


def _count_indices(indices: Any, path: str) -> int:
    """The most images that ``indices`` leaves; a negative number takes the last."""
    if isinstance(indices, Sequence) and not isinstance(indices, (str, bytes)):
        return len(indices)
    last = isinstance(indices, int) and indices < 0
    return whole(-indices if last else indices, path, 0)


def _from_files(dataset: Mapping, kind: str, path: str, scope: str | None) -> Images:
    """The size of a data set by its files, or by its name where they are not here."""
    file = dataset.get('ann_file', '')
    if kind in (*_CLASSIFICATION, 'CustomDataset') and (file is None or file == ''):
        if kind == 'CustomDataset':
            return Images(_count_pictures(dataset, path))
        images = _CLASSIFICATION[kind]
        return Images(images, (f'{kind} has {images:,} training images',))
    if not isinstance(file, str) or not file:
        raise unknown_length('its data set has no single annotation file')
    annotations = Path(text(dataset.get('data_root'), f'{path}.data_root'), file)
    if not annotations.is_file():
        return _of_coco(dataset, annotations, path, scope)
    if kind != 'CocoDataset':
        return Images(_count_built(dataset, scope))
    wanted = read_filter(dataset, path)
    # To know the classes of a data set that names none takes an import of seconds.
    classes = known_classes(dataset, path, scope) if wanted.annotated else None
    try:
        count = count_annotated(annotations, wanted, classes)
    except ValueError as fault:
        raise unknown_length(str(fault)) from None
    if wanted.annotated and not count:
        raise unknown_length(
            f'{annotations} has no object of the classes {_some(classes)}; set '
            f'{path}.metainfo to dict(classes=[...]) with the names in that file'
        )
    return Images(count)


def _of_coco(
    dataset: Mapping, annotations: Path, path: str, scope: str | None
) -> Images:
    """The size of COCO, if the annotation file that is not here is COCO's."""
    if annotations.name != 'instances_train2017.json':
        raise unknown_length(f'{annotations} is not here')
    wanted = read_filter(dataset, path)
    some = f'{annotations} is not here, and only some of its images are taken'
    if wanted.smallest > _SMALLEST:
        raise unknown_length(f'{some} ({path}.filter_cfg.min_size)')
    if wanted.annotated and (dataset.get('metainfo') or {}):
        classes = known_classes(dataset, path, scope)
        all_of_them = known_classes({'type': 'CocoDataset'}, path, scope or 'mmdet')
        if classes and not set(all_of_them or ()) <= set(classes):
            raise unknown_length(f'{some} (those with {_some(classes)})')
    images = _COCO[wanted.annotated]
    return Images(
        images, (f'{annotations} is not here: taken to be COCO, {images:,} images',)
    )


def _some(classes: Any) -> str:
    """The first names of many."""
    names = [classes] if isinstance(classes, str) else list(classes or ())
    return ', '.join(map(str, names[:3])) + ', ...' * (len(names) > 3)


def _count_built(dataset: Mapping, scope: str | None) -> int:
    """The size of a data set that MMEngine builds, without its transforms."""
    kind = type_name(dataset)
    if class_of(dataset, scope) is None:
        raise unknown_length(f'{kind} is not known here')
    MMLogger.get_current_instance()  # else it would write to what is dropped below
    try:
        # pycocotools tells of its progress on stdout, where only the plan belongs.
        with (
            contextlib.redirect_stdout(io.StringIO()),
            DATASETS.switch_scope_and_registry(scope) as registry,
        ):
            return len(registry.build(_without_transforms(dataset)))
    except Exception as fault:  # whatever a data set makes of its settings
        raise unknown_length(
            f'{kind} cannot be built: {type(fault).__name__}: {one_line(fault, 200)}'
        ) from fault


def _without_transforms(settings: Any) -> Any:
    """Settings of a data set without those of its transforms, inner ones included."""
    if isinstance(settings, Mapping):
        return {
            key: [] if key == 'pipeline' else _without_transforms(settings[key])
            for key in settings
            if key != 'lazy_init'
        }
    if isinstance(settings, (list, tuple)):
        return type(settings)(_without_transforms(part) for part in settings)
    return copy.deepcopy(settings)


def _count_pictures(dataset: Mapping, path: str) -> int:
    """Pictures in the folders of their classes."""
    prefix = dataset.get('data_prefix')
    if isinstance(prefix, Mapping):
        prefix = prefix.get('img_path')
    root = text(dataset.get('data_root'), f'{path}.data_root')
    folder = Path(root, text(prefix, f'{path}.data_prefix'))
    if not folder.is_dir():
        raise unknown_length(f'{folder} is not here')
    return sum(file.suffix.lower() in _PICTURES for file in folder.rglob('*'))
