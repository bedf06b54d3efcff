"""MMEngine's own schedulers of a config, driven without a training.

They act on an optimizer that trains nothing, so whatever they do is in the result.
"""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.optim.scheduler.param_scheduler import (
    INF,
    MultiStepParamScheduler,
    StepParamScheduler,
    _ParamScheduler,
)
from mmengine.registry import PARAM_SCHEDULERS

from smd_mmdet._arguments import real_number
from smd_mmdet._text import one_line
from smd_mmdet.monitor.readers import settings_of

from .errors import SettingError
from .settings import flag, number
from .types import type_name

__all__ = ['drive', 'scheduler_configs', 'waits_for_score']


def scheduler_configs(config: Config) -> list[dict]:
    """The schedulers of a config.

    Args:
        config: The config.

    Returns:
        ``param_scheduler`` as a list.

    Raises:
        SettingError: If it is neither a dict nor a list of dicts.
    """
    found = config.get('param_scheduler')
    if found is None:
        return []
    if isinstance(found, dict):
        return [found] if found else []
    if not isinstance(found, Sequence) or not all(isinstance(s, dict) for s in found):
        raise SettingError('param_scheduler must be a list of dicts')
    return list(found)


def waits_for_score(settings: Mapping) -> bool:
    """Whether nobody knows before the training what a scheduler will do.

    Args:
        settings: The scheduler as a config has it.

    Returns:
        Whether it follows a score.

    Example:
        >>> waits_for_score(dict(type='ReduceOnPlateauLR', monitor='loss'))
        True
    """
    return type_name(settings).startswith('ReduceOnPlateau')


def drive(
    configs: Sequence[Mapping],
    optimizer: torch.optim.Optimizer,
    iterations: int,
    iters_per_epoch: int | None,
    by_epoch: bool,
    scope: str | None = None,
) -> tuple[np.ndarray, np.ndarray, set[str]]:
    """Let schedulers go through a whole training.

    Iterations at which no scheduler changes anything are not stepped through but
    counted: a schedule of a few steps takes no longer for being long.

    Args:
        configs: Settings of the schedulers.
        optimizer: The optimizer that they set the rate of.
        iterations: Iterations of the training.
        iters_per_epoch: Iterations of an epoch, None where nothing asks for them.
        by_epoch: Whether the training counts epochs.
        scope: ``default_scope`` of the config, whose registry has schedulers too.

    Returns:
        The learning rates of the optimizer's groups, shape (groups, iterations); the
        momentum of the first, shape (iterations,); and the names of the settings that
        the schedulers move.

    Raises:
        SettingError: If a scheduler cannot be built, or fails.
    """
    per_epoch = iters_per_epoch if by_epoch and iters_per_epoch else iterations
    ends = {True: math.ceil(iterations / per_epoch), False: iterations}
    with PARAM_SCHEDULERS.switch_scope_and_registry(scope):
        built = [_build(config, optimizer, ends, iters_per_epoch) for config in configs]
    vars(optimizer)['_global_step'] = 0  # else they warn that no step was made
    active = [s for s in built if not s.by_epoch]
    epochs = [s for s in built if s.by_epoch and by_epoch]
    groups = optimizer.param_groups
    rates, momenta = np.empty((len(groups), iterations)), np.empty(iterations)
    start = 0
    while start < iterations:
        idle = {s: _idle_steps(s) for s in active}
        active = [s for s in active if idle[s] < math.inf]
        epoch_end = start - start % per_epoch + per_epoch
        still = min([epoch_end - start - 1, *idle.values()])
        stop = min(start + 1 + int(still), iterations)
        for rate, group in zip(rates, groups, strict=True):
            rate[start:stop], _, momentum = settings_of(group)
            if group is groups[0]:
                momenta[start:stop] = momentum
        for scheduler in active:
            _skip(scheduler, stop - start - 1)
            _step(scheduler)
        if stop == epoch_end:
            for scheduler in epochs:
                _step(scheduler)
        start = stop
    return rates, momenta, {scheduler.param_name for scheduler in built}


def _build(
    config: Mapping,
    optimizer: torch.optim.Optimizer,
    ends: dict[bool, int],
    iters_per_epoch: int | None,
) -> _ParamScheduler:
    settings = copy.deepcopy(dict(config))
    name = f'param_scheduler {type_name(settings)!r}'
    by_epoch = flag(settings.get('by_epoch', True), f'{name}: by_epoch')
    settings.setdefault('end', ends[by_epoch])
    defaults = {'optimizer': optimizer, 'epoch_length': iters_per_epoch}
    try:
        scheduler = PARAM_SCHEDULERS.build(settings, default_args=defaults)
    except Exception as fault:  # whatever a scheduler makes of its settings
        raise SettingError(
            f'{name}: {type(fault).__name__}: {one_line(fault)}'
        ) from fault
    _check(scheduler, name)
    return scheduler


def _check(scheduler: _ParamScheduler, name: str) -> None:
    """Refuse settings that a scheduler takes but that :func:`_idle_steps` cannot."""
    number(scheduler.begin, f'{name}: begin', -math.inf)
    number(min(scheduler.end, INF), f'{name}: end', -math.inf)
    rule = type(scheduler)._get_value
    if rule is MultiStepParamScheduler._get_value:
        for milestone in scheduler.milestones:
            number(milestone, f'{name}: each of milestones', -math.inf)
    if rule is StepParamScheduler._get_value:
        real_number(
            scheduler.step_size, f'{name}: step_size', above=0, error=SettingError
        )
    _check_value(scheduler)


def _step(scheduler: _ParamScheduler) -> None:
    """Let a scheduler make its next step."""
    try:
        scheduler.step()
    except Exception as fault:  # whatever a scheduler makes of its settings
        raise SettingError(
            f'param_scheduler {type(scheduler).__name__!r}: {type(fault).__name__}: '
            f'{one_line(fault)}'
        ) from fault
    _check_value(scheduler)


def _check_value(scheduler: _ParamScheduler) -> None:
    """Refuse a scheduler that sets anything but a number."""
    # float first: it is nearly always one, and numbers.Real is slow to ask.
    value = scheduler.optimizer.param_groups[0][scheduler.param_name]
    if not isinstance(value, (float, numbers.Real)):
        raise SettingError(
            f'param_scheduler {type(scheduler).__name__!r} sets {scheduler.param_name} '
            f'to {value!r:.80}, which is no number'
        )


def _idle_steps(scheduler: _ParamScheduler) -> float:
    """How many of a scheduler's next steps are sure to change nothing."""
    done, last = scheduler._global_step, scheduler.last_step
    if done + 1 >= scheduler.end:
        return math.inf
    if done + 1 < scheduler.begin:
        return scheduler.begin - done - 1
    rule = type(scheduler)._get_value
    if rule is MultiStepParamScheduler._get_value:
        following = min((m for m in scheduler.milestones if m > last), default=math.inf)
        return following - (last + 1)
    if rule is StepParamScheduler._get_value:
        return scheduler.step_size - max(last, 0) % scheduler.step_size - 1
    return 0


def _skip(scheduler: _ParamScheduler, steps: int) -> None:
    """Count steps that change nothing as made."""
    done = scheduler._global_step
    first, last = max(done + 1, scheduler.begin), min(done + steps, scheduler.end - 1)
    scheduler.last_step += max(0, last - first + 1)
    scheduler._global_step += steps
