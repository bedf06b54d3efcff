"""What SMDRescaleHook(angular_update=...) makes of a schedule.

With it no stage has to come to equilibrium: the norm that gives the wanted Δ is set. At
given gradients Δ² ∝ η²/‖w‖^e, so that it goes with (η/Δ)^(2/e), whatever the decay is;
the e is that of :class:`.Course`, 4 under SGD.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from smd_mmdet._text import scientific
from smd_mmdet.config.control import ControlSettings
from smd_mmdet.config.optimizer import Optimizer
from smd_mmdet.config.training import Training
from smd_mmdet.control.estimate import FEWEST_STEPS
from smd_mmdet.control.regulator import MAX_FACTOR, MAX_SHRINK, STEPS
from smd_mmdet.recipes import Context, in_context

from .course import Course

if TYPE_CHECKING:
    from .stages import StagePlan

__all__ = [
    'Control',
    'StageControl',
    'control_of',
    'refusal',
    'verdict',
    'with_control',
]


@dataclass(frozen=True)
class StageControl:
    """The angular update that is set in a stage.

    Args:
        start: Wanted Δ at the first step, in rad/step.
        end: Wanted Δ at the last step, in rad/step.
        start_ratio: The first over Δ*; None where there is no Δ*.
        end_ratio: The last over Δ*, likewise.
        factor: What norms are multiplied by where the stage begins, at gradients that
            stay as they are: in the first stage from the usual start, in later ones
            from what they have at the end of the one before. None if not known.
        controls: How many controls that takes; None if not known. None of them
            multiplies or divides by more than 4. Where a layer begins is not known
            before it is measured, and then none divides by more than 2.
    """

    start: float
    end: float
    start_ratio: float | None
    end_ratio: float | None
    factor: float | None
    controls: int | None


@dataclass(frozen=True)
class Control:
    """The angular update that a config sets.

    Args:
        settings: The settings of SMDRescaleHook.
        angles: Wanted Δ of each step of the optimizer; NaN where nothing is wanted.
        of_median: Whether they are the median of a run's layers.
    """

    settings: ControlSettings
    angles: np.ndarray
    of_median: bool = False

    @property
    def lines(self) -> list[str]:
        """What is to be known of it, a sentence each."""
        found = [
            f'SMDRescaleHook sets Δ to {self.settings}, measured every '
            f'{self.settings.every} steps: no stage has to be long enough for '
            'equilibrium, and weight decay does not decide on Δ'
        ]
        if self.of_median:
            found.append(
                "the wanted Δ below is the median of the run's layers; each layer "
                'that it has follows its own'
            )
        return found

    @property
    def context(self) -> Context | None:
        """The wanted Δ beside that of known recipes."""
        known = self.angles[np.isfinite(self.angles)]
        return (
            in_context(float(known.max()), float(known.sum())) if len(known) else None
        )


def control_of(training: Training, course: Course, scope: str | None) -> Control | None:
    """The angular update that a config sets.

    Args:
        training: What the config says of its training.
        course: The same by step of the optimizer.
        scope: ``default_scope`` of the config.

    Returns:
        It; None where the config sets none.

    Raises:
        SettingError: If no step can have it, or a run to be repeated has no records, or
            too few.
    """
    settings = next((h.control for h in training.rescaling if h.control), None)
    if settings is None:
        return None
    steps, every = len(course.schedule.lr), training.accumulation
    if settings.equilibrium:
        return Control(settings, _equilibrium(course))
    iterations = training.length.iterations
    if settings.run is not None:
        run = settings.replay(iterations, -(-iterations // every))
        return Control(settings, run.at(np.arange(steps), [''])[:, 0], of_median=True)
    angles = settings.per_iteration(
        iterations, training.length.per_epoch, training.length.by_epoch, scope
    )
    return Control(settings, angles[every - 1 :: every][:steps])


def _equilibrium(course: Course) -> np.ndarray:
    """Δ* of each step; NaN where there is none."""
    schedule, known = course.schedule, course.optimizer.known
    if known is None:
        return np.full(len(schedule.lr), np.nan)
    decay = course.optimizer.weight_decay
    angles = np.sqrt(known.angular_update_sq(schedule.lr, decay, schedule.momentum))
    angles = np.where(angles > 0, angles, np.nan)
    return np.broadcast_to(angles, schedule.lr.shape).clip(max=math.pi / 2)


def refusal(optimizer: Optimizer) -> str | None:
    """Why SMDRescaleHook will not set Δ under an optimizer, if it will not."""
    known = optimizer.known
    if optimizer.clipping == 'value' or (
        known is not None and known.norm_law and not known.indicative
    ):
        return None
    return (
        f'SMDRescaleHook(angular_update=...) is refused under {optimizer.name}: how Δ '
        'follows the norm is not derived for it'
    )


def with_control(
    stages: Sequence[StagePlan], course: Course, control: Control, usual: float | None
) -> list[StagePlan]:
    """The stages of a schedule whose angular update is set.

    Args:
        stages: The stages, as they would be without.
        course: The schedule and the optimizer.
        control: The angular update that is set.
        usual: ‖w‖/w* with which layers usually come into the first stage after the
            warm-up; None if not known.

    Returns:
        The stages, with what is wanted in place of a verdict on their length.
    """
    found: list[StagePlan] = []
    before: float | None = _usual_drive(course, usual)
    every = control.settings.every
    for stage, span in zip(stages, course.spans, strict=True):
        first, last = span.start, span.end - 1
        start, end = control.angles[first], control.angles[last]
        here = None
        if np.isfinite(start) and np.isfinite(end):
            factor = _factor(before, course, first, start)
            here = StageControl(
                start=float(start),
                end=float(end),
                start_ratio=_over(start, course.angle(first)),
                end_ratio=_over(end, course.angle(last)),
                factor=factor,
                controls=(
                    None if factor is None else _controls(factor, every, not found)
                ),
            )
            before = _drive(course, last, end)
        found.append(
            stage
            if here is None
            else replace(
                stage,
                control=here,
                outcomes=None,
                suggested_decay=None,
                reaches=None,
                warning=None,
                note=None,
            )
        )
    return found


def _drive(course: Course, t: int, angle: float) -> float | None:
    """η/Δ of a step, whose power 2/e the norm goes with."""
    lr = float(course.schedule.lr[t])
    return lr / float(angle) if lr > 0 else None


def _usual_drive(course: Course, usual: float | None) -> float | None:
    """The same at the norm with which layers usually begin."""
    if usual is None or course.first == len(course.spans):
        return None
    begin = course.spans[course.first].start
    angle = course.angle(begin)
    # At w* Δ is Δ*, and at the usual norm Δ*·usual^(−e/2).
    drive = _drive(course, begin, angle) if angle else None
    return None if drive is None else drive * usual ** (course.exponent / 2)


def _factor(before: float | None, course: Course, t: int, angle: float) -> float | None:
    after = _drive(course, t, angle)
    known = course.optimizer.known
    if before is None or after is None or known is None or not known.norm_law:
        return None
    return float((after / before) ** (2 / course.exponent))


def _controls(factor: float, every: int, measured: bool) -> int:
    """How many controls make up a factor.

    Args:
        factor: The factor.
        every: Steps from one control to the next.
        measured: Whether it follows from what is measured, and not from a change of the
            rate or of the wanted Δ that is known ahead.
    """
    bound, share = MAX_FACTOR, 1.0
    if measured:
        bound = MAX_FACTOR if factor > 1 else MAX_SHRINK
        share = min(1.0, max(every, FEWEST_STEPS) / STEPS)
    return max(1, math.ceil(abs(math.log(factor)) / (share * math.log(bound)) - 1e-9))


def _over(angle: float, target: float | None) -> float | None:
    return float(angle) / target if target else None


def verdict(stages: Sequence[StagePlan], control: Control) -> str:
    """The plan in one sentence."""
    controlled = [stage for stage in stages if stage.control is not None]
    if not controlled:
        return f'SMDRescaleHook sets Δ to {control.settings}: no stage has any'
    ends = controlled[0].control, controlled[-1].control
    assert ends[0] is not None and ends[1] is not None
    span = f'{scientific(ends[0].start)} → {scientific(ends[1].end)}'
    return (
        f'Δ is set in {len(controlled)} of {len(stages)} stages, {span} rad: '
        'equilibrium is not waited for'
    )
