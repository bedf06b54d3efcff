"""Learning rates of a config's schedule, before it is trained.

MMEngine's own schedulers are driven on a dummy optimizer, so whatever they do is in
the result.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmengine.config import Config
from mmengine.optim.scheduler.param_scheduler import (
    MultiStepParamScheduler,
    StepParamScheduler,
    _ParamScheduler,
)
from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS

from smd_mmdet.monitor.readers import settings_of
from smd_mmdet.stages import Change, Stage, StageTracker

from .errors import SettingError
from .settings import section


def optimizer_settings(config: Config) -> dict:
    """The one optimizer of a config.

    Raises:
        SettingError: If there is none with a learning rate, or several.
    """
    found = section(config, 'optim_wrapper').get('optimizer')
    if not isinstance(found, dict) or 'lr' not in found:
        raise SettingError(
            'optim_wrapper.optimizer needs a type and an lr; several optimizers cannot '
            'be planned'
        )
    return found


def type_name(settings: Mapping) -> str:
    """Name of the class that a config asks for, which may be the class itself."""
    kind = settings.get('type')
    return str(getattr(kind, '__name__', kind))


def scheduler_configs(config: Config) -> list[dict]:
    """``param_scheduler`` as a list.

    Raises:
        SettingError: If it is none.
    """
    found = config.get('param_scheduler') or []
    if isinstance(found, dict):
        found = [found]
    if not isinstance(found, Sequence) or not all(isinstance(s, dict) for s in found):
        raise SettingError('param_scheduler must be a list of dicts')
    return list(found)


def learning_rates(
    config: Config,
    iterations: int,
    iters_per_epoch: int | None,
    by_epoch: bool = True,
    lr: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Learning rate and momentum of every iteration.

    Args:
        config: The config; its optimizer and its schedulers count.
        iterations: Of the whole training.
        iters_per_epoch: Length of the data loader; by iteration only schedulers with
            ``convert_to_iter_based`` ask for it.
        by_epoch: Whether the loop is one by epoch.
        lr: Learning rate to begin with, in place of the config's (AutoScaleLR).

    Returns:
        Two arrays with one entry per iteration; for Adam's kind the second is β₁.

    Raises:
        SettingError: If an optimizer or a scheduler cannot be built, or fails.

    Example:
        >>> lr, momentum = learning_rates(config, 90_000, 7_330)
    """
    try:
        return _drive(config, iterations, iters_per_epoch, by_epoch, lr)
    except SettingError:
        raise
    except Exception as fault:
        raise SettingError(
            f'param_scheduler: {type(fault).__name__}: {fault}'
        ) from fault


def _drive(
    config: Config,
    iterations: int,
    iters_per_epoch: int | None,
    by_epoch: bool,
    lr: float | None,
) -> tuple[np.ndarray, np.ndarray]:
    settings = optimizer_settings(config)
    dummy = build_optimizer(settings if lr is None else dict(settings, lr=lr))
    per_epoch = iters_per_epoch if by_epoch else iterations
    ends = {True: math.ceil(iterations / per_epoch), False: iterations}
    schedulers = [
        _build(settings, dummy, ends, iters_per_epoch)
        for settings in scheduler_configs(config)
    ]
    vars(dummy)['_global_step'] = 0  # else they warn that the optimizer made no step
    stepping = [s for s in schedulers if not s.by_epoch]
    epochs = [s for s in schedulers if s.by_epoch and by_epoch]
    group = dummy.param_groups[0]
    rates, momenta = np.empty(iterations), np.empty(iterations)
    start = 0
    while start < iterations:
        ahead = [(s, _idle_steps(s)) for s in stepping]
        stepping = [s for s, idle in ahead if idle < math.inf]
        epoch_end = start - start % per_epoch + per_epoch
        idle = min([epoch_end - start - 1, *(idle for _, idle in ahead)])
        stop = min(start + 1 + int(idle), iterations)
        rates[start:stop], _, momenta[start:stop] = settings_of(group)
        for scheduler in stepping:
            _skip(scheduler, stop - start - 1)
            scheduler.step()
        if stop == epoch_end:
            for scheduler in epochs:
                scheduler.step()
        start = stop
    return rates, momenta


class _Unknown(torch.optim.Optimizer):
    """Stands for an optimizer of a package that is not imported here."""


def build_optimizer(settings: Mapping) -> torch.optim.Optimizer:
    """The optimizer that a config asks for, on a parameter of its own.

    Args:
        settings: ``optim_wrapper.optimizer``.

    Returns:
        It; where its type is not known here, one with its learning rate and momentum.

    Raises:
        SettingError: If it cannot be built.
    """
    weight = [torch.nn.Parameter(torch.zeros(1))]
    kind = settings.get('type')
    try:
        if not isinstance(kind, type) and OPTIMIZERS.get(str(kind)) is None:
            lr, momentum = float(settings['lr']), float(settings.get('momentum', 0.0))
            return _Unknown(weight, {'lr': lr, 'momentum': momentum})
        return OPTIMIZERS.build(dict(settings, params=weight))
    except Exception as fault:
        raise SettingError(
            f'optim_wrapper.optimizer: {type(fault).__name__}: {fault}'
        ) from None


def _build(
    settings: dict,
    dummy: torch.optim.Optimizer,
    ends: dict[bool, int],
    iters_per_epoch: int | None,
) -> _ParamScheduler:
    settings = copy.deepcopy(dict(settings))
    settings.setdefault('end', ends[settings.get('by_epoch', True)])
    defaults = {'optimizer': dummy, 'epoch_length': iters_per_epoch}
    try:
        return PARAM_SCHEDULERS.build(settings, default_args=defaults)
    except Exception as fault:
        raise SettingError(
            f'param_scheduler {settings.get("type")!r}: {type(fault).__name__}: {fault}'
        ) from None


def _idle_steps(scheduler: _ParamScheduler) -> float:
    """How many of a scheduler's next steps are sure to change nothing."""
    done, last = scheduler._global_step, scheduler.last_step
    if done + 1 >= scheduler.end:
        return math.inf
    if done + 1 < scheduler.begin:
        return scheduler.begin - done - 1
    rule = type(scheduler)._get_value
    if rule is MultiStepParamScheduler._get_value:
        return min((m for m in scheduler.milestones if m > last), default=math.inf) - (
            last + 1
        )
    if rule is StepParamScheduler._get_value:
        return scheduler.step_size - max(last, 0) % scheduler.step_size - 1
    return 0


def _skip(scheduler: _ParamScheduler, steps: int) -> None:
    """Count steps that change nothing as made."""
    done = scheduler._global_step
    first, last = max(done + 1, scheduler.begin), min(done + steps, scheduler.end - 1)
    scheduler.last_step += max(0, last - first + 1)
    scheduler._global_step += steps


@dataclass
class Span:
    """A stage and where it lies, as a half-open range of iterations."""

    stage: Stage
    start: int
    end: int


def spans(lr: np.ndarray, momentum: np.ndarray) -> list[Span]:
    """Stages of a schedule, told apart as the monitor tells them apart.

    Args:
        lr: Learning rate of every iteration.
        momentum: Likewise.

    Returns:
        The stages in their order, without gaps.
    """
    moved = np.ones(len(lr) + 1, dtype=bool)
    moved[1:-1] = (np.diff(lr) != 0) | (np.diff(momentum) != 0)
    # The second of equal iterations settles a stage; those after it tell nothing.
    telling = moved[:-1].copy()
    telling[1:] |= moved[:-2]
    tracker = StageTracker()
    found: list[Span] = []
    for t in np.flatnonzero(telling).tolist():
        change = tracker.observe(((float(lr[t]), 0.0, float(momentum[t])),))
        if change is not Change.NONE:
            start = t - (change is Change.SETTLED)
            if found:
                found[-1].end = start
            found.append(Span(tracker.stage, start, len(lr)))
    return [span for span in found if span.start < span.end]


def followed(lr: np.ndarray, continuous: bool = False) -> np.ndarray:
    """Where :meth:`RateHistory.drops` tells of a change, for a whole schedule.

    Args:
        lr: Learning rate of every iteration.
        continuous: As there.

    Returns:
        One truth value per iteration.
    """
    found = np.zeros(len(lr), dtype=bool)
    found[1:] = (lr[1:] != lr[:-1]) & (lr[1:] > 0) & (lr[:-1] > 0)
    if not continuous:
        moved = np.diff(lr, prepend=np.nan, append=lr[-1:]) != 0
        found[1:] &= (lr[1:] < lr[:-1]) & ~moved[:-2] & ~moved[2:]
    return found
