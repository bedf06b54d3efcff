"""What a schedule does to the norm and the angular update of a layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from smd_mmdet import theory
from smd_mmdet.config.optimizer import Optimizer
from smd_mmdet.config.schedule import Schedule, Span
from smd_mmdet.forecast import forecast
from smd_mmdet.stages import WARMUP

from .rescaling import Rescaling

__all__ = ['KINDS', 'Course']

# The two forecasts: without SMDRescaleHook, and with one that follows the rate.
KINDS = ('plain', 'rescaled')


@dataclass(frozen=True)
class Course:
    """A schedule under an optimizer, and where weights are rescaled.

    Args:
        schedule: Learning rate and momentum of every step of the optimizer.
        optimizer: The optimizer.
        rescaling: Where weights are rescaled.
    """

    schedule: Schedule
    optimizer: Optimizer
    rescaling: Rescaling

    @property
    def spans(self) -> list[Span]:
        """The stages of the schedule."""
        return self.schedule.spans

    @property
    def kind(self) -> str:
        """Which of the two forecasts is the config's own."""
        return self.rescaling.kind

    @property
    def first(self) -> int:
        """Index of the first stage after the warm-up; the number of stages if none."""
        after = (i for i, s in enumerate(self.spans) if s.stage.number != WARMUP)
        return next(after, len(self.spans))

    @property
    def start(self) -> int | None:
        """The step at which layers are first put at their equilibrium, if any are.

        A measuring phase that ends in the warm-up does not count.
        """
        lr, first = self.schedule.lr, self.first
        begin = self.spans[first].start if first < len(self.spans) else 0
        later = (t for t in self.rescaling.starts if begin <= t < len(lr) and lr[t] > 0)
        return next(later, None)

    def angle(self, t: int, rate: float = 1.0, decay: float = 1.0) -> float:
        """Δ* at a step.

        Args:
            t: The step, counted from 0.
            rate: Multiplier of the learning rate at the beginning.
            decay: Multiplier of the weight decay.

        Returns:
            Δ* in rad/step; 0 at a rate of 0.
        """
        lr, known = self.schedule.rate(rate)[t], self.optimizer.known
        if lr <= 0 or known is None:
            return 0.0
        momentum = self.schedule.momentum[t]
        decay *= self.optimizer.weight_decay
        return float(known.angular_update(lr, decay, momentum))

    def relaxation(self, span: Span) -> np.ndarray:
        """The rate at which the mean of ‖w‖⁴ relaxes, 4λη/(1−α), for a λ of 1.

        It is twice the rate of the theorems, :func:`.theory.relaxation_rate`.

        Args:
            span: The stage.

        Returns:
            The rate at every step of the stage, to be multiplied by the weight decay.
        """
        lr = self.schedule.lr[span.start : span.end]
        momentum = self.schedule.momentum[span.start : span.end]
        return np.where(lr > 0, theory.norm4_rate(lr, 1.0, momentum), 0.0)

    def norm_eq(
        self,
        t: int,
        unit_grad_sq: ArrayLike = 1.0,
        rate: float = 1.0,
        decay: float = 1.0,
    ) -> np.ndarray:
        """w* at a step.

        Args:
            t: The step, counted from 0.
            unit_grad_sq: L, a number or an array over layers.
            rate: Multiplier of the learning rate.
            decay: Multiplier of the weight decay.

        Returns:
            w*, of the shape of ``unit_grad_sq``.
        """
        return theory.equilibrium_norm(
            self.schedule.rate(rate)[t],
            self.optimizer.weight_decay * decay,
            unit_grad_sq,
            self.schedule.momentum[t],
        )

    def ahead(
        self,
        kind: str,
        norm: ArrayLike,
        unit_grad_sq: ArrayLike,
        *,
        at: np.ndarray,
        begin: int = 0,
        rate: float = 1.0,
        decay: float = 1.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Forecast ‖w‖ and Δ/Δ* = (w*/‖w‖)².

        Where the config puts layers at their equilibrium, the forecast begins anew.

        Args:
            kind: One of :data:`KINDS`.
            norm: ‖w‖ at the beginning, a number or an array over layers.
            unit_grad_sq: L, a number or an array over layers.
            at: The steps to return, in rising order.
            begin: The step to begin with.
            rate: Multiplier of the learning rate.
            decay: Multiplier of the weight decay.

        Returns:
            ‖w‖ and Δ/Δ*, shape (len(at),) or (len(at), layers).
        """
        steps = len(self.schedule.lr)
        parts = [(begin, steps, norm)]
        if (start := self.start) is not None:
            restart = self.norm_eq(start, unit_grad_sq, rate, decay)
            parts = [(begin, start, norm), (start, steps, restart)]
        lr = self.schedule.rate(rate)
        norms, ratios = [], []
        for first, end, beginning in parts:
            chosen = at[(at >= first) & (at < end)] - first
            if not len(chosen):
                continue
            part = slice(first, end)
            found = forecast(
                lr[part],
                self.optimizer.weight_decay * decay,
                self.schedule.momentum[part],
                norm=beginning,
                unit_grad_sq=unit_grad_sq,
                rescale=self.rescaling.followed[part] & (kind == 'rescaled'),
                at=chosen,
            )
            norms.append(found.weight_norm)
            ratios.append((found.weight_norm_eq / found.weight_norm) ** 2)
        return np.concatenate(norms), np.concatenate(ratios)
