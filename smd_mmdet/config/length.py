"""How long a config trains, and on how many processes."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .errors import SettingError
from .optimizer import Optimizer
from .schedule import scheduler_configs, type_name
from .settings import section, whole

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


@dataclass
class Length:
    """How long the training is, in iterations."""

    iterations: int
    per_epoch: int | None
    by_epoch: bool


def run_length(
    config: Config,
    iters_per_epoch: int | None,
    gpus: int | None,
    optimizer: Optimizer,
    assumptions: list[str],
) -> Length:
    """Length of the training; multiplies the optimizer's rate if AutoScaleLR does.

    Args:
        config: The config.
        iters_per_epoch: Iterations per epoch; None takes them from the data set.
        gpus: Training processes; None takes a guess, and says so.
        optimizer: The config's.
        assumptions: Gets a line for whatever is not in the config.

    Raises:
        SettingError: If the config or its data set do not tell the length.
    """
    loop = section(config, 'train_cfg')
    by_epoch = loop.get('by_epoch', type_name(loop) != 'IterBasedTrainLoop')
    if iters_per_epoch is not None:
        whole(iters_per_epoch, 'iters_per_epoch')
    loader = section(config, 'train_dataloader')
    batch = whole(loader.get('batch_size', 1), 'train_dataloader.batch_size')
    processes = _processes(config, batch, gpus, optimizer, assumptions)
    needed = by_epoch or any(
        s.get('convert_to_iter_based') for s in scheduler_configs(config)
    )
    if needed and iters_per_epoch is None:
        images = _images(loader.get('dataset'), assumptions)
        iters_per_epoch = _batches(math.ceil(images / processes), batch, loader)
        assumptions.append(
            f'{iters_per_epoch:,} iterations per epoch: {images:,} images, '
            f'{processes} × {batch} in a batch'
        )
    if not by_epoch:
        if 'max_iters' not in loop:
            raise SettingError('train_cfg.max_iters is missing')
        iterations = whole(loop['max_iters'], 'train_cfg.max_iters')
        return Length(iterations, iters_per_epoch, False)
    if 'max_epochs' not in loop:
        raise SettingError('train_cfg.max_epochs is missing')
    epochs = whole(loop['max_epochs'], 'train_cfg.max_epochs')
    return Length(epochs * iters_per_epoch, iters_per_epoch, True)


def _batches(images: int, batch: int, loader: Mapping) -> int:
    """Batches of an epoch, on one process."""
    drops = loader.get('drop_last', False)
    if isinstance(sampler := loader.get('batch_sampler'), dict):
        drops = sampler.get('drop_last', False)
    if drops and images < batch:
        raise SettingError(
            f'train_dataloader: drop_last=True leaves nothing of {images:,} images in '
            f'batches of {batch:,}'
        )
    return images // batch if drops else math.ceil(images / batch)


def _processes(
    config: Config,
    batch: int,
    gpus: int | None,
    optimizer: Optimizer,
    assumptions: list[str],
) -> int:
    """Training processes; applies AutoScaleLR, which depends on them."""
    scaling = section(config, 'auto_scale_lr')
    base = scaling.get('base_batch_size')
    if base is not None:
        whole(base, 'auto_scale_lr.base_batch_size')
    if gpus is not None:
        whole(gpus, 'gpus')
    if gpus is None:
        gpus = max(1, base // batch) if base and _is_public(config) else 1
        reason = (
            f'for the base batch size {base}'
            if base and _is_public(config)
            else 'for lack of a number'
        )
        assumptions.append(f'{gpus} training process{"es" * (gpus > 1)}, {reason}')
    if scaling.get('enable'):
        if not base:
            raise SettingError('auto_scale_lr.base_batch_size is missing')
        factor = gpus * batch / base
        optimizer.lr *= factor
        assumptions.append(f'AutoScaleLR multiplies the learning rate by {factor:g}')
    return gpus


def _is_public(config: Config) -> bool:
    """Whether it trains on a data set that its base batch size was chosen for."""
    dataset = (config.get('train_dataloader') or {}).get('dataset') or {}
    while isinstance(dataset, dict) and isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    if not isinstance(dataset, dict):
        return False
    coco = 'instances_train2017' in str(dataset.get('ann_file', ''))
    return coco or type_name(dataset) in _CLASSIFICATION


def _images(dataset: Any, assumptions: list[str]) -> int:
    """Length of a data set, through MMEngine's wrappers."""
    if not isinstance(dataset, dict):
        raise _unknown_length('there is no train_dataloader.dataset')
    kind = type_name(dataset)
    if kind == 'RepeatDataset':
        return int(dataset['times']) * _images(dataset['dataset'], assumptions)
    if kind == 'ConcatDataset':
        return sum(_images(part, assumptions) for part in dataset['datasets'])
    if kind == 'MultiImageMixDataset':
        return _images(dataset['dataset'], assumptions)
    if kind == 'ClassBalancedDataset':
        raise _unknown_length('ClassBalancedDataset repeats images by their classes')
    if dataset.get('indices') is not None:
        indices = dataset['indices']
        return indices if isinstance(indices, int) else len(indices)
    file = dataset.get('ann_file', '')
    if kind in _CLASSIFICATION and not file:
        images = _CLASSIFICATION[kind]
        assumptions.append(f'{kind} has {images:,} training images')
        return images
    if kind == 'CustomDataset' and not file:
        return _count_pictures(dataset)
    if not isinstance(file, str):
        raise _unknown_length('its data set has no single annotation file')
    filters = dataset.get('filter_cfg') or {}
    path = Path(dataset.get('data_root') or '', file)
    if path.is_file() and path.suffix == '.json':
        return _count(path, filters)
    if Path(file).name == 'instances_train2017.json':
        images = _COCO[bool(filters.get('filter_empty_gt'))]
        assumptions.append(f'{path} is not here: taken to be COCO, {images:,} images')
        return images
    raise _unknown_length(f'{path} is not here')


def _unknown_length(why: str) -> SettingError:
    return SettingError(
        f'the length of an epoch is not known: {why}; give --iters-per-epoch N'
    )


def _count_pictures(dataset: dict) -> int:
    """Pictures in the folders of their classes."""
    prefix = dataset.get('data_prefix') or ''
    prefix = prefix.get('img_path', '') if isinstance(prefix, dict) else prefix
    folder = Path(dataset.get('data_root') or '', prefix)
    if not folder.is_dir():
        raise _unknown_length(f'{folder} is not here')
    return sum(file.suffix.lower() in _PICTURES for file in folder.rglob('*'))


def _count(path: Path, filters: dict) -> int:
    """Images of a COCO annotation file that MMDetection trains on."""
    try:
        content = json.loads(path.read_bytes())
        images = content['images']
        annotated = {entry['image_id'] for entry in content['annotations']}
    except (ValueError, KeyError, TypeError) as fault:
        raise _unknown_length(f'{path} is no COCO annotation file ({fault})') from None
    if filters.get('filter_empty_gt'):
        images = [image for image in images if image['id'] in annotated]
    smallest = filters.get('min_size', 0)
    return sum(min(i['width'], i['height']) >= smallest for i in images)
