"""What a schedule leads to, before it is trained: `smd plan`.

A config is read once (:func:`.training.read_training`); then

- ``rescaling`` finds where SMDRescaleHook will rescale,
- ``course`` forecasts what the schedule does to a layer,
- ``stages`` judges every stage by it, relative to equilibrium,
- ``measured`` does so for the layers of a run, in real units,
- ``warnings`` says it in words.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from mmengine.config import Config

from smd_mmdet.config.errors import SettingError
from smd_mmdet.config.load import load_config
from smd_mmdet.config.training import Training, read_training

from .course import Course
from .measured import LayerPlan, Measured, plan_layers
from .rescaling import rescaling_of
from .stages import StagePlan, plan_stages, start_assumptions
from .warnings import verdict, warnings, with_warnings

__all__ = ['plan']


@dataclass(frozen=True)
class Plan:
    """What a schedule leads to.

    Args:
        config: Name of the config, if it has one.
        optimizer: Name of the optimizer.
        theory: Name of the theory that holds under it, or 'none'.
        lr: Learning rate.
        weight_decay: Weight decay of scale-invariant weights.
        momentum: Momentum; β₁ of Adam's kind.
        iterations: Number of steps of the optimizer.
        iters_per_epoch: Iterations of an epoch; None where nothing asks for them.
        rescales: Whether stages are judged by the forecast with rescaling.
        stages: The stages in their order.
        layers: The layers of a measured run.
        assumptions: What the plan rests on, a sentence each.
        warnings: What stands in the way of equilibrium, and the remedy.
        verdict: The plan in one sentence.
        exit_code: 1 if a stage cannot reach equilibrium, else 0.
    """

    config: str | None
    optimizer: str
    theory: str
    lr: float
    weight_decay: float
    momentum: float
    iterations: int
    iters_per_epoch: int | None
    rescales: bool
    stages: list[StagePlan]
    layers: list[LayerPlan]
    assumptions: list[str]
    warnings: list[str]
    verdict: str
    exit_code: int


def plan(
    config: Config | str,
    iters_per_epoch: int | None = None,
    work_dir: str | None = None,
    gpus: int | None = None,
    options: dict[str, Any] | None = None,
) -> dict:
    """Forecast the angular update of every stage of a config's schedule.

    Args:
        config: A config, its file, or ``mmdet::folder/name.py``.
        iters_per_epoch: Training iterations per epoch; None takes them from the
            data set.
        work_dir: A run of the same model that was measured, if only for some
            hundred iterations. It adds a forecast per layer from its ‖w‖ and L.
        gpus: Training processes; None takes the config's base batch size on COCO,
            else 1.
        options: Dotted names of settings and the values to give them first, as
            ``--cfg-options`` of the training takes them.

    Returns:
        Plain data: ``stages`` (a list), ``layers``, ``assumptions``, ``warnings``,
        ``verdict``, ``exit_code`` (1 if a stage cannot reach equilibrium), and the
        settings they rest on.

    Raises:
        SettingError: If the config cannot be planned, with the setting to change.
        RecordsError: If ``work_dir`` has no records.

    Example:
        >>> from mmengine.config import Config
        >>> config = Config(dict(
        ...     optim_wrapper=dict(optimizer=dict(
        ...         type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4)),
        ...     param_scheduler=dict(
        ...         type='MultiStepLR', by_epoch=False, milestones=[60_000]),
        ...     train_cfg=dict(type='IterBasedTrainLoop', max_iters=90_000)))
        >>> found = plan(config)
        >>> found['verdict']
        '1 of 2 stages cannot reach equilibrium without rescaling: stage 1; stage 0 is
         too short for layers that start at 3 times its norm, as is usual'
        >>> stage = found['stages'][1]
        >>> round(stage['plain']['start_ratio'], 3)
        0.316
        >>> f'{stage["angular_update_eq"]:.2e}'
        '4.59e-04'
    """
    name = config if isinstance(config, str) else None
    if isinstance(config, str):
        found = load_config(config, options)
    else:
        found = copy.deepcopy(config)
        found.merge_from_dict(options or {})
    training = read_training(found, iters_per_epoch, gpus)
    return asdict(_plan(name, training, work_dir))


def _plan(name: str | None, training: Training, work_dir: str | None) -> Plan:
    optimizer, every = training.optimizer, training.accumulation
    rescaling = rescaling_of(training.rescaling, training.schedule.lr, every)
    course = Course(training.schedule.every(every), optimizer, rescaling)
    _check(course)
    stages = with_warnings(plan_stages(course), rescaling)
    measured = plan_layers(course, work_dir) if work_dir else Measured([], [])
    return Plan(
        config=name,
        optimizer=optimizer.name,
        theory=optimizer.theory,
        lr=optimizer.lr,
        weight_decay=optimizer.weight_decay,
        momentum=optimizer.momentum,
        iterations=len(course.schedule.lr),
        iters_per_epoch=training.length.per_epoch,
        rescales=rescaling.kind == 'rescaled',
        stages=stages,
        layers=measured.layers,
        assumptions=[
            *training.assumptions,
            *rescaling.assumptions,
            *start_assumptions(course),
            *measured.assumptions,
        ],
        warnings=warnings(
            optimizer, training.norms_frozen, stages, measured.layers, rescaling.kind
        ),
        verdict=verdict(stages, optimizer, rescaling),
        exit_code=int(any(stage.reaches is False for stage in stages)),
    )


def _check(course: Course) -> None:
    """Refuse a schedule that is out of the theory's range.

    Raises:
        SettingError: If so, with the setting and the first such iteration.
    """
    lr, momentum = course.schedule.lr, course.schedule.momentum
    optimizer = course.optimizer
    wrong = ~np.isfinite(lr)
    if optimizer.comes_to_equilibrium:
        wrong |= lr < 0
    if wrong.any():
        t = int(np.argmax(wrong))
        raise SettingError(
            f'param_scheduler: the learning rate is {lr[t]:g} at iteration {t + 1:,}; '
            'it must be finite and >= 0'
        )
    if optimizer.known is None:
        return
    wrong = ~((momentum >= 0) & (momentum < 1))
    if wrong.any():
        t = int(np.argmax(wrong))
        raise SettingError(
            f'param_scheduler: the momentum is {momentum[t]:g} at iteration {t + 1:,}; '
            'it must be in [0, 1)'
        )
    # The share of a weight that decay takes in one step, which forecast() bounds.
    lost = optimizer.weight_decay * lr / (1 - momentum)
    if optimizer.comes_to_equilibrium and lost.max() >= 1:
        t = int(np.argmax(lost))
        raise SettingError(
            'optim_wrapper.optimizer, param_scheduler: weight_decay * lr / (1 - '
            f'momentum) is {lost[t]:.3g} at iteration {t + 1:,}; it must be < 1, or '
            'decay leaves nothing of a weight'
        )
