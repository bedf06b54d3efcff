"""What a schedule leads to, before it is trained: `smd plan`.

A config is read once (:func:`.training.read_training`); then

- ``rescaling`` finds where SMDRescaleHook will rescale,
- ``course`` forecasts what the schedule does to a layer,
- ``stages`` judges every stage by it, relative to equilibrium,
- ``control`` tells what is wanted of Δ where SMDRescaleHook sets it,
- ``measured`` does so for the layers of a run, in real units,
- ``warnings`` says it in words,

and :mod:`smd_mmdet.recipes` sets the angle beside those of known recipes.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from mmengine.config import Config

from smd_mmdet.config.errors import SettingError
from smd_mmdet.config.load import load_config
from smd_mmdet.config.optimizer import Optimizer
from smd_mmdet.config.training import Training, read_training
from smd_mmdet.recipes import Context, in_context, peak_and_total
from smd_mmdet.records import Records, read_records

from .control import Control, control_of, refusal, with_control
from .control import verdict as verdict_of_control
from .course import Course
from .measured import READ, LayerPlan, Measured, measured_clipping, plan_layers
from .rescaling import rescaling_of
from .stages import (
    StagePlan,
    plan_stages,
    start_assumptions,
    usual_start,
    usual_start_text,
)
from .warnings import verdict, warnings, with_words

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
        usual_start: The norm with which layers usually begin, in words.
        stages: The stages in their order.
        clipping_power: The p of :func:`.theory.clipping_power` on which the forecasts
            rest; None if the config clips the gradient and no run tells how often.
        context: Δ* beside that of known recipes; None if none holds for all layers.
        layers: The layers of a measured run.
        assumptions: What the plan rests on, a sentence each.
        warnings: What stands in the way of equilibrium, and the remedy.
        notes: What else is to be known.
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
    usual_start: str
    stages: list[StagePlan]
    clipping_power: float | None
    context: Context | None
    layers: list[LayerPlan]
    assumptions: list[str]
    warnings: list[str]
    notes: list[str]
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
        ``notes``, ``verdict``, ``context`` (Δ* beside that of known recipes),
        ``exit_code`` (1 if a stage cannot reach equilibrium), and the
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
    return asdict(_plan(name, training, work_dir, found.get('default_scope')))


def _plan(
    name: str | None, training: Training, work_dir: str | None, scope: str | None
) -> Plan:
    optimizer, every = training.optimizer, training.accumulation
    rescaling = rescaling_of(training.rescaling, training.schedule.lr, every)
    records = read_records(work_dir, columns=READ) if work_dir else None
    power = _clipping_power(optimizer, records)
    course = Course(training.schedule.every(every), optimizer, rescaling, power or 0.0)
    _check(course)
    stages = with_words(plan_stages(course, clipping_unknown=power is None), course)
    control = control_of(training, course, scope)
    if control is not None:
        stages = with_control(stages, course, control, _usual(course))
    measured = Measured([], [])
    # Where Δ is set, what layers would do by themselves is not what they will do.
    if work_dir and records is not None and control is None:
        measured = plan_layers(course, records, work_dir, stages)
    context = _context(course) if control is None else control.context
    waits = training.waits_for_scores
    refused = None if control is None else refusal(optimizer)
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
        usual_start=usual_start_text(course),
        stages=stages,
        clipping_power=power,
        context=context,
        layers=measured.layers,
        assumptions=[
            *training.assumptions,
            *rescaling.assumptions,
            *([] if control else start_assumptions(course)),
            *measured.assumptions,
        ],
        warnings=[
            *warnings(
                optimizer,
                training.norms_frozen,
                waits,
                stages,
                measured.layers,
                rescaling.kind,
                controlled=control is not None and not refused,
            ),
            *([refused] if refused else []),
            *([_text(context.outside, control)] if context and context.outside else []),
        ],
        notes=[
            *(control.lines if control else []),
            *([_text(context.text, control)] if context else []),
            *_of_clipping(optimizer, power),
            *(stage.note for stage in stages if stage.note),
        ],
        verdict=(
            verdict(stages, optimizer, rescaling, waits)
            if control is None or refused
            else verdict_of_control(stages, control)
        ),
        exit_code=int(any(stage.reaches is False for stage in stages)),
    )


def _clipping_power(optimizer: Optimizer, records: Records | None) -> float | None:
    """The p of a config; None if gradients are clipped and nobody knows how often."""
    if not optimizer.clips:
        return 0.0
    return None if records is None else measured_clipping(records, optimizer)


def _of_clipping(optimizer: Optimizer, power: float | None) -> list[str]:
    """How the forecasts depend on the clipping of gradients."""
    if not optimizer.clips:
        return []
    said = f'clip_grad(max_norm={optimizer.max_norm:g}): '
    if power is not None:
        return [
            f'{said}in the measured run w* goes with η^(1/{4 - power:.2f}), where it '
            'would go with η^(1/4) without clipping, and with η^(1/2) if every step '
            'were clipped'
        ]
    return [
        f'{said}the forecast depends on the share of clipped steps, which is not '
        'known; it is given for none, and for all of them; --work-dir with a measured '
        'run tells it'
    ]


def _usual(course: Course) -> float | None:
    """‖w‖/w* with which layers usually begin; None where there is no w*."""
    some = course.first < len(course.spans)
    return (
        usual_start(course) if course.optimizer.comes_to_equilibrium and some else None
    )


def _text(said: str, control: Control | None) -> str:
    """What recipes are set beside: Δ*, or the Δ that is wanted."""
    return said if control is None else said.replace('Δ*', 'wanted Δ', 1)


def _context(course: Course) -> Context | None:
    """Δ* at its highest and over the schedule, beside that of known recipes."""
    optimizer, schedule = course.optimizer, course.schedule
    if optimizer.known is None or not (schedule.lr > 0).any():
        return None
    peak, total = peak_and_total(
        schedule.lr, optimizer.weight_decay, schedule.momentum, optimizer.theory
    )
    return in_context(peak, total) if peak > 0 else None


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
    if not optimizer.comes_to_equilibrium:
        return
    first = course.first
    if first < len(course.spans) and lr[course.spans[first].start] == 0:
        raise SettingError(
            'param_scheduler: the learning rate is 0 at iteration '
            f'{course.spans[first].start + 1:,}, where the first stage begins: nothing '
            'moves, nothing to plan'
        )
    # The share of a weight that decay takes in one step, which forecast() bounds.
    lost = course.law.decay(lr, optimizer.weight_decay, momentum)
    if lost.max() >= 1:
        t = int(np.argmax(lost))
        raise SettingError(
            f'optim_wrapper.optimizer, param_scheduler: decay takes {lost[t]:.3g} of a '
            f'weight at iteration {t + 1:,} (weight_decay * lr, under SGD over 1 - '
            'momentum); it must be < 1, or it leaves nothing of a weight'
        )
