"""How long a config trains, and on how many processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mmengine.config import Config

from .errors import SettingError
from .images import Images, count_images, unknown_length
from .processes import read_processes
from .settings import flag, section, whole
from .types import names_class, type_name

__all__ = ['Length', 'read_length']

# Learning rates of so many iterations fit the memory of a small machine.
_MOST = 10**8
# Samplers whose length is that of the whole data set, however many processes there are.
_WHOLE = ('InfiniteSampler', 'MultiSourceSampler', 'GroupMultiSourceSampler')
# Those that share the images out.
_SHARED = ('DefaultSampler', 'ClassAwareSampler')


@dataclass(frozen=True)
class Length:
    """How long the training is.

    Args:
        iterations: Iterations of the whole training.
        per_epoch: Iterations of an epoch, None where nothing asks for them.
        by_epoch: Whether the training loop counts epochs.
        lr_factor: What AutoScaleLR multiplies the learning rate by.
        processes: Training processes.
        assumptions: What is not in the config and was taken to be so, a sentence each.
    """

    iterations: int
    per_epoch: int | None
    by_epoch: bool
    lr_factor: float = 1.0
    processes: int = 1
    assumptions: tuple[str, ...] = ()


def read_length(
    config: Config,
    iters_per_epoch: int | None = None,
    gpus: int | None = None,
    counts_epochs: bool = False,
) -> Length:
    """Read how long a config trains.

    Args:
        config: The config.
        iters_per_epoch: Iterations of an epoch; None takes them from the data set.
        gpus: Training processes; None takes a guess, and says so.
        counts_epochs: Whether the length of an epoch is asked for even if the
            training loop does not count epochs.

    Returns:
        The length.

    Raises:
        SettingError: If neither the config nor its data set tell the length.
    """
    loop = section(config, 'train_cfg')
    by_iteration = names_class(loop, 'IterBasedTrainLoop')
    by_epoch = flag(loop.get('by_epoch', not by_iteration), 'train_cfg.by_epoch')
    if iters_per_epoch is not None:
        whole(iters_per_epoch, 'iters_per_epoch')
    loader = section(config, 'train_dataloader')
    batch = whole(loader.get('batch_size', 1), 'train_dataloader.batch_size')
    scaling = section(config, 'auto_scale_lr')
    dataset = loader.get('dataset')
    processes = read_processes(config, scaling, dataset, batch, gpus)
    said = processes.assumptions
    if (by_epoch or counts_epochs) and iters_per_epoch is None:
        epoch = _epoch(config, loader, batch, processes.count)
        iters_per_epoch, said = epoch.count, said + epoch.assumptions
    iterations = _iterations(loop, iters_per_epoch if by_epoch else None)
    return Length(
        iterations,
        iters_per_epoch,
        by_epoch,
        processes.lr_factor,
        processes.count,
        said,
    )


def _iterations(loop: Mapping, iters_per_epoch: int | None) -> int:
    """Iterations of the training; ``iters_per_epoch`` is None if it counts them."""
    key = 'max_iters' if iters_per_epoch is None else 'max_epochs'
    if key not in loop:
        raise SettingError(f'train_cfg.{key} is missing')
    iterations = whole(loop[key], f'train_cfg.{key}') * (iters_per_epoch or 1)
    if iterations > _MOST:
        raise SettingError(
            f'train_cfg.{key} asks for {iterations:,} iterations; a plan takes at '
            f'most {_MOST:,}'
        )
    return iterations


def _epoch(config: Config, loader: Mapping, batch: int, processes: int) -> Images:
    """The iterations of an epoch, counted as MMEngine's dataloader counts them."""
    key = 'num_batch_per_epoch'
    sampler = loader.get('sampler')
    if loader.get(key) is not None:
        images = whole(loader[key], f'train_dataloader.{key}') * batch * processes
        said: tuple[str, ...] = (f'{key} of train_dataloader',)
    else:
        found = count_images(loader.get('dataset'), scope=config.get('default_scope'))
        images, said = found.count, found.assumptions
    if images < 1:
        raise unknown_length('its data set has no images')
    shared = not any(names_class(sampler, name) for name in _WHOLE)
    here = math.ceil(images / processes) if shared else images
    if shared and isinstance(sampler, Mapping) and type_name(sampler) not in _SHARED:
        said += (
            f'{type_name(sampler)} is taken to share the images out among processes',
        )
    count = _batches(here, batch, loader)
    said += (
        f'{count:,} iterations per epoch: {images:,} images, '
        f'{processes} × {batch} in a batch',
    )
    return Images(count, said)


def _batches(images: int, batch: int, loader: Mapping) -> int:
    """Batches of an epoch, on one process."""
    drops = loader.get('drop_last', False)
    path = 'train_dataloader.drop_last'
    if isinstance(sampler := loader.get('batch_sampler'), Mapping):
        here = 'train_dataloader.batch_sampler'
        drops, path = sampler.get('drop_last', False), f'{here}.drop_last'
        batch = whole(sampler.get('batch_size', batch), f'{here}.batch_size')
    drops = flag(drops, path)
    if drops and images < batch:
        raise SettingError(
            f'train_dataloader: drop_last=True leaves nothing of {images:,} images in '
            f'batches of {batch:,}'
        )
    return images // batch if drops else math.ceil(images / batch)
