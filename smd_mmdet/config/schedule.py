"""The learning rate of every iteration of a config's training, and its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from mmengine.config import Config

from smd_mmdet.stages import Change, Stage, StageTracker, warmup_end

from .optimizer import build_optimizer, optimizer_settings
from .schedulers import drive, scheduler_configs

__all__ = ['Schedule', 'Span', 'followed', 'learning_rates', 'read_schedule', 'spans']


@dataclass
class Span:
    """A stage and where it lies, as a half-open range of iterations.

    Args:
        stage: The stage.
        start: Its first iteration, counted from 0.
        end: The iteration after its last one.
    """

    stage: Stage
    start: int
    end: int


@dataclass(frozen=True)
class Schedule:
    """Learning rate and momentum of a training.

    Args:
        lr: Learning rate of every iteration, shape (iterations,).
        momentum: Momentum (β₁ of Adam's kind), of the same shape.
        apart: The learning rate of groups that begin with a multiple of it and do not
            stay at that, by the multiplier. A scheduler with an end of its own, such
            as ``eta_min``, brings all groups to the same.
        moved: Names of the optimizer's settings that the schedulers set.
    """

    lr: np.ndarray
    momentum: np.ndarray
    apart: Mapping[float, np.ndarray] = field(default_factory=dict)
    moved: frozenset[str] = frozenset()

    @cached_property
    def spans(self) -> list[Span]:
        """The stages, as :func:`spans` tells them apart."""
        return spans(self.lr, self.momentum)

    def every(self, iterations: int) -> Schedule:
        """The schedule by step of an optimizer that accumulates gradients.

        Args:
            iterations: Iterations that make one step.

        Returns:
            The rates at the last iteration of each step, with which it is made.
        """
        chosen = slice(iterations - 1, None, iterations)
        apart = {multiplier: lr[chosen] for multiplier, lr in self.apart.items()}
        return Schedule(self.lr[chosen], self.momentum[chosen], apart, self.moved)

    def rate(self, multiplier: float = 1.0) -> np.ndarray:
        """The learning rate of a group that begins with a multiple of it.

        Args:
            multiplier: The multiple.

        Returns:
            The rate at every iteration.
        """
        found = self.apart.get(multiplier)
        return self.lr * multiplier if found is None else found


def read_schedule(
    config: Config,
    iterations: int,
    iters_per_epoch: int | None,
    by_epoch: bool = True,
    lr: float | None = None,
    multipliers: Sequence[float] = (),
) -> Schedule:
    """Drive the schedulers of a config through its training.

    Args:
        config: The config, of which the optimizer and the schedulers count.
        iterations: Iterations of the whole training.
        iters_per_epoch: Iterations of an epoch, as :func:`learning_rates` takes them.
        by_epoch: Whether the training loop counts epochs.
        lr: Learning rate to begin with in place of the config's (AutoScaleLR).
        multipliers: Those of the learning rate that parameter groups have.

    Returns:
        The schedule.

    Raises:
        SettingError: If an optimizer or a scheduler cannot be built, or fails.
    """
    settings = optimizer_settings(config)
    if lr is not None:
        settings = dict(settings, lr=lr)
    optimizer = build_optimizer(settings, multipliers)
    rates, momentum, moved = drive(
        scheduler_configs(config),
        optimizer,
        iterations,
        iters_per_epoch,
        by_epoch,
        config.get('default_scope'),
    )
    apart = {
        multiplier: rate
        for multiplier, rate in zip(multipliers, rates[1:], strict=True)
        if not np.allclose(rate, rates[0] * multiplier, rtol=1e-9, atol=0.0)
    }
    return Schedule(rates[0], momentum, apart, frozenset(moved))


def learning_rates(
    config: Config,
    iterations: int,
    iters_per_epoch: int | None,
    by_epoch: bool = True,
    lr: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Learning rate and momentum of every iteration.

    Args:
        config: The config, of which the optimizer and the schedulers count.
        iterations: Iterations of the whole training.
        iters_per_epoch: Iterations of an epoch; where the training goes by iteration,
            only schedulers with ``convert_to_iter_based`` ask for it.
        by_epoch: Whether the training loop counts epochs.
        lr: Learning rate to begin with in place of the config's (AutoScaleLR).

    Returns:
        Two arrays of shape (iterations,); for Adam's kind the second is β₁.

    Raises:
        SettingError: If an optimizer or a scheduler cannot be built, or fails.

    Example:
        >>> config = Config(dict(
        ...     optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.02, momentum=0.9)),
        ...     param_scheduler=[dict(type='MultiStepLR', milestones=[2], gamma=0.1)]))
        >>> lr, momentum = learning_rates(config, iterations=6, iters_per_epoch=2)
        >>> lr.round(3).tolist()
        [0.02, 0.02, 0.02, 0.02, 0.002, 0.002]
    """
    found = read_schedule(config, iterations, iters_per_epoch, by_epoch, lr)
    return found.lr, found.momentum


def spans(lr: np.ndarray, momentum: np.ndarray) -> list[Span]:
    """The stages of a schedule, told apart as the monitor tells them apart.

    Args:
        lr: Learning rate of every iteration.
        momentum: Momentum of every iteration.

    Returns:
        The stages in their order, without gaps.

    Example:
        >>> lr = np.array([0.01, 0.02, 0.03, 0.03, 0.03, 0.003, 0.003])
        >>> [(s.stage.number, s.start, s.end) for s in spans(lr, np.zeros(7))]
        [(-1, 0, 2), (0, 2, 5), (1, 5, 7)]
    """
    moved = np.ones(len(lr) + 1, dtype=bool)
    moved[1:-1] = (np.diff(lr) != 0) | (np.diff(momentum) != 0)
    # An iteration tells of a change if its settings are new, or if it is the second
    # with the same settings, which makes a stage steady. Those after it tell nothing.
    telling = moved[:-1].copy()
    telling[1:] |= moved[:-2]
    tracker, warmup = StageTracker(), warmup_end(lr)
    found: list[Span] = []
    for t in np.flatnonzero(telling).tolist():
        settings = ((float(lr[t]), 0.0, float(momentum[t])),)
        change = tracker.observe(settings, warming=t < warmup)
        if change is Change.NONE or tracker.stage is None:
            continue
        start = t - (change is Change.SETTLED)
        if found:
            found[-1].end = start
        found.append(Span(tracker.stage, start, len(lr)))
    return [span for span in found if span.start < span.end]


def followed(lr: np.ndarray, continuous: bool = False) -> np.ndarray:
    """The changes of the rate that SMDRescaleHook follows in a whole schedule.

    They are those that ``RateHistory.drops`` of the engine tells of one by one.

    Args:
        lr: Learning rate of every iteration.
        continuous: Whether the hook follows every change, up or down. Else it follows
            steps only: the rate falls after it held still, and holds still again.

    Returns:
        One truth value per iteration.

    Example:
        >>> lr = np.array([0.1, 0.1, 0.01, 0.01, 0.02, 0.02])
        >>> followed(lr).tolist()
        [False, False, True, False, False, False]
        >>> followed(lr, continuous=True).tolist()
        [False, False, True, False, True, False]
    """
    found = np.zeros(len(lr), dtype=bool)
    found[1:] = (lr[1:] != lr[:-1]) & (lr[1:] > 0) & (lr[:-1] > 0)
    if not continuous:
        moved = np.diff(lr, prepend=np.nan, append=lr[-1:]) != 0
        found[1:] &= (lr[1:] < lr[:-1]) & ~moved[:-2] & ~moved[2:]
    return found
