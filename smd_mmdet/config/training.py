"""Everything that a plan asks of a config, read once."""

from __future__ import annotations

from dataclasses import dataclass

from mmengine.config import Config

from .errors import SettingError
from .length import Length, read_length
from .optimizer import Optimizer, read_optimizer
from .rescaling import RescaleSettings, read_rescaling
from .schedule import Schedule, read_schedule
from .schedulers import scheduler_configs, waits_for_score
from .settings import flag, number, section, whole
from .types import type_name

__all__ = ['Training', 'read_training']


@dataclass(frozen=True)
class Training:
    """The training that a config describes.

    Args:
        optimizer: The optimizer, with the learning rate that AutoScaleLR makes of
            the config's.
        length: How long the training is.
        schedule: Learning rate and momentum of every iteration.
        accumulation: Iterations whose gradients make one step of the optimizer.
        rescaling: Settings of every SMDRescaleHook.
        norms_frozen: Whether the config freezes normalization layers of its backbone.
        waits_for_scores: Names of the schedulers that change the rate where scores
            stop to improve: the schedule is without them.
        assumptions: What is not in the config and was taken to be so, a sentence each.
    """

    optimizer: Optimizer
    length: Length
    schedule: Schedule
    accumulation: int
    rescaling: tuple[RescaleSettings, ...]
    norms_frozen: bool
    waits_for_scores: tuple[str, ...]
    assumptions: tuple[str, ...]


def read_training(
    config: Config, iters_per_epoch: int | None = None, gpus: int | None = None
) -> Training:
    """Read what a config says of its training.

    Args:
        config: The config.
        iters_per_epoch: Iterations of an epoch; None takes them from the data set.
        gpus: Training processes; None takes the config's base batch size on COCO,
            else 1.

    Returns:
        The training.

    Raises:
        SettingError: If a setting is missing or cannot be; the message names it.

    Example:
        >>> config = Config(dict(
        ...     optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.02)),
        ...     train_cfg=dict(type='IterBasedTrainLoop', max_iters=100)))
        >>> training = read_training(config)
        >>> training.schedule.lr.shape, training.accumulation
        ((100,), 1)
    """
    read_optimizer(config)  # what is wrong with it is told before the data are read
    key = 'convert_to_iter_based'
    counts_epochs = any(
        flag(scheduler.get(key), f'param_scheduler: {key}')
        for scheduler in scheduler_configs(config)
    )
    length = read_length(config, iters_per_epoch, gpus, counts_epochs)
    optimizer = read_optimizer(config, length.lr_factor)
    schedule = read_schedule(
        config,
        length.iterations,
        length.per_epoch,
        length.by_epoch,
        optimizer.lr,
        optimizer.paramwise.rates,
    )
    if 'weight_decay' in schedule.moved:
        raise SettingError(
            'param_scheduler moves weight_decay: a plan holds for one weight decay; '
            'leave that scheduler out'
        )
    every = _accumulation(config, length.iterations)
    said = optimizer.assumptions + length.assumptions
    said += tuple(
        f'lr × {multiplier:g} is only the beginning: a scheduler with an end of its '
        'own brings the rates of all layers together'
        for multiplier in schedule.apart
    )
    if every > 1:
        said += (
            f'gradients accumulate over {every} iterations: iterations below are '
            'optimizer steps',
        )
    return Training(
        optimizer=optimizer,
        length=length,
        schedule=schedule,
        accumulation=every,
        rescaling=read_rescaling(config),
        norms_frozen=_norms_frozen(config),
        waits_for_scores=_waiting(config),
        assumptions=said,
    )


def _waiting(config: Config) -> tuple[str, ...]:
    """The schedulers of which nobody knows before the training what they will do."""
    waiting = filter(waits_for_score, scheduler_configs(config))
    return tuple(type_name(settings) for settings in waiting)


def _accumulation(config: Config, iterations: int) -> int:
    """Iterations whose gradients make one step of the optimizer."""
    path = 'optim_wrapper.accumulative_counts'
    every = whole(section(config, 'optim_wrapper').get('accumulative_counts', 1), path)
    if every > iterations:
        raise SettingError(
            f'{path}={every}: the training has only {iterations} iterations'
        )
    return every


def _norms_frozen(config: Config) -> bool:
    """Whether the config says so; `smd audit` looks at the model itself."""
    path = 'model.backbone'
    backbone = section(section(config, 'model'), path)
    stages = number(backbone.get('frozen_stages', -1), f'{path}.frozen_stages', -1)
    return flag(backbone.get('norm_eval'), f'{path}.norm_eval') or stages >= 0
