"""How many images a config's data set has, without building it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import SettingError
from .settings import flag, number, section, text, whole
from .types import type_name

__all__ = ['Images', 'count_images', 'is_public', 'unknown_length']

# Images of COCO train2017 with and without those that have no object.
_COCO = {True: 117_266, False: 118_287}
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


def count_images(dataset: Any, path: str = 'train_dataloader.dataset') -> Images:
    """The size of a data set, through MMEngine's wrappers.

    Args:
        dataset: Settings of the data set.
        path: Dotted name of these settings.

    Returns:
        The number of images, and what it rests on.

    Raises:
        SettingError: If the size is not known.
    """
    if not isinstance(dataset, Mapping):
        raise unknown_length(f'there is no {path}')
    kind = type_name(dataset)
    if kind == 'ConcatDataset':
        return _concatenated(dataset.get('datasets'), f'{path}.datasets')
    if kind in ('RepeatDataset', 'MultiImageMixDataset'):
        inner = count_images(dataset.get('dataset'), f'{path}.dataset')
        if kind == 'MultiImageMixDataset':
            return inner
        times = whole(dataset.get('times'), f'{path}.times')
        return Images(times * inner.count, inner.assumptions)
    if kind == 'ClassBalancedDataset':
        raise unknown_length('ClassBalancedDataset repeats images by their classes')
    if dataset.get('indices') is not None:
        return Images(_count_indices(dataset['indices'], f'{path}.indices'))
    return _from_files(dataset, kind, path)


def _concatenated(datasets: Any, path: str) -> Images:
    if not isinstance(datasets, (list, tuple)):
        raise SettingError(f'{path} must be a list of dicts, got {datasets!r:.80}')
    parts = [count_images(part, f'{path}[{i}]') for i, part in enumerate(datasets)]
    said = tuple(line for part in parts for line in part.assumptions)
    return Images(sum(part.count for part in parts), said)


def _count_indices(indices: Any, path: str) -> int:
    if isinstance(indices, Sequence) and not isinstance(indices, (str, bytes)):
        return len(indices)
    return whole(indices, path)


def _from_files(dataset: Mapping, kind: str, path: str) -> Images:
    """The size of a data set by its files, or by its name where they are not here."""
    file = dataset.get('ann_file', '')
    if kind in (*_CLASSIFICATION, 'CustomDataset') and (file is None or file == ''):
        if kind == 'CustomDataset':
            return Images(_count_pictures(dataset, path))
        images = _CLASSIFICATION[kind]
        return Images(images, (f'{kind} has {images:,} training images',))
    if not isinstance(file, str):
        raise unknown_length('its data set has no single annotation file')
    filters = section(dataset, f'{path}.filter_cfg')
    here = f'{path}.filter_cfg'
    annotated = flag(filters.get('filter_empty_gt'), f'{here}.filter_empty_gt')
    annotations = Path(text(dataset.get('data_root'), f'{path}.data_root'), file)
    if annotations.is_file() and annotations.suffix == '.json':
        smallest = number(filters.get('min_size', 0), f'{here}.min_size')
        return Images(_count_annotated(annotations, annotated, smallest))
    if Path(file).name == 'instances_train2017.json':
        images = _COCO[annotated]
        said = f'{annotations} is not here: taken to be COCO, {images:,} images'
        return Images(images, (said,))
    raise unknown_length(f'{annotations} is not here')


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


def _count_annotated(path: Path, annotated: bool, smallest: float) -> int:
    """Images of a COCO annotation file that MMDetection trains on.

    Args:
        path: The file.
        annotated: Whether only images with an object count.
        smallest: Fewest pixels of the shorter side of an image that counts.
    """
    try:
        content = json.loads(path.read_bytes())
        # Nothing but look-ups in the file: what they raise is the file's fault.
        images, entries = content['images'], content['annotations']
        objects = {entry['image_id'] for entry in entries}
        return sum(
            min(image['width'], image['height']) >= smallest
            and (not annotated or image['id'] in objects)
            for image in images
        )
    except (ValueError, KeyError, TypeError) as fault:
        raise unknown_length(f'{path} is no COCO annotation file ({fault})') from None
