"""What a schedule does to the norm and the angular update of a layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from smd_mmdet.config.optimizer import Optimizer
from smd_mmdet.config.schedule import Schedule, Span
from smd_mmdet.forecast import forecast
from smd_mmdet.stages import WARMUP
from smd_mmdet.theory import Theory

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
        clipping_power: The p of :func:`.theory.clipping_power`, with which the drive
            grows with the norm where the gradient is clipped.
    """

    schedule: Schedule
    optimizer: Optimizer
    rescaling: Rescaling
    clipping_power: float = 0.0

    @property
    def spans(self) -> list[Span]:
        """The stages of the schedule."""
        return self.schedule.spans

    @property
    def kind(self) -> str:
        """Which of the two forecasts is the config's own."""
        return self.rescaling.kind

    @property
    def law(self) -> Theory:
        """The law of the norm, of an optimizer that has one."""
        known = self.optimizer.known
        assert known is not None and known.norm_law
        return known

    @property
    def power(self) -> float:
        """The p under this optimizer's law."""
        return self.clipping_power if self.law.clips else 0.0

    @property
    def exponent(self) -> float:
        """The e of Δ/Δ* = (w*/‖w‖)^(e/2): 4 under SGD, 2 under AdamW."""
        return self.law.exponent - self.power

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

    def angle(self, t: int, rate: float = 1.0, decay: float = 1.0) -> float | None:
        """Δ* at a step.

        Args:
            t: The step, counted from 0.
            rate: Multiplier of the learning rate at the beginning.
            decay: Multiplier of the weight decay.

        Returns:
            Δ* in rad/step; 0 at a rate of 0; None where none holds for all layers.
        """
        lr, known = self.schedule.rate(rate)[t], self.optimizer.known
        if known is None:
            return None
        if lr <= 0:
            return 0.0
        decay *= self.optimizer.weight_decay
        angle = float(known.angular_update(lr, decay, self.schedule.momentum[t]))
        return angle if np.isfinite(angle) else None

    def relaxation(self, part: slice, decay: float = 1.0) -> np.ndarray:
        """The rate at which a relative distance of ‖w‖ from w* decays.

        Under SGD it is 4λη/(1−α), twice the rate of the theorems.

        Args:
            part: The steps.
            decay: Multiplier of the weight decay.

        Returns:
            The share that is lost in each of the steps.
        """
        lr, momentum = self.schedule.lr[part], self.schedule.momentum[part]
        decay *= self.optimizer.weight_decay
        rate = self.law.rate(lr, decay, momentum, self.power)
        return np.where(lr > 0, rate, 0.0)

    def lag(self, span: Span) -> np.ndarray:
        """κ: how fast the rate changes, against what the norm can follow.

        w* changes by |η̇|/(eη) per step, and decay can take λη_e of a norm. Under SGD
        κ = (1−α)|η̇|/(4λη²); from 1 on, while the rate falls, the norm is frozen.

        Args:
            span: The stage.

        Returns:
            κ at each step of the stage but its last.
        """
        part = slice(span.start, span.end)
        lr = self.schedule.lr[part]
        moved, now = np.abs(np.diff(lr)), lr[:-1]
        rate = self.relaxation(part)[:-1] * now
        with np.errstate(divide='ignore'):
            return np.divide(
                moved, rate, out=np.full_like(rate, np.inf), where=rate > 0
            )

    def norm_eq(
        self,
        t: int,
        drive: ArrayLike = 1.0,
        rate: float = 1.0,
        decay: float = 1.0,
    ) -> np.ndarray:
        """w* at a step.

        Args:
            t: The step, counted from 0.
            drive: The drive of the norm (L under SGD), over ‖w‖^p where it is clipped;
                a number or an array over layers.
            rate: Multiplier of the learning rate.
            decay: Multiplier of the weight decay.

        Returns:
            w*, of the shape of ``drive``.
        """
        size = self.law.equilibrium_power(
            self.schedule.rate(rate)[t],
            self.optimizer.weight_decay * decay,
            drive,
            self.schedule.momentum[t],
        )
        return size ** (1 / self.exponent)

    def ahead(
        self,
        kind: str,
        norm: ArrayLike,
        drive: ArrayLike,
        *,
        at: np.ndarray,
        begin: int = 0,
        rate: float = 1.0,
        decay: float = 1.0,
        starts: bool = True,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Forecast ‖w‖ and Δ/Δ* = (w*/‖w‖)^(e/2).

        Where the config puts layers at their equilibrium, the forecast begins anew.

        Args:
            kind: One of :data:`KINDS`.
            norm: ‖w‖ at the beginning, a number or an array over layers.
            drive: The drive of the norm as it is there, likewise.
            at: The steps to return, in rising order.
            begin: The step to begin with.
            rate: Multiplier of the learning rate.
            decay: Multiplier of the weight decay.
            starts: Whether to put layers at their equilibrium where the config does.

        Returns:
            ‖w‖ and Δ/Δ*, shape (len(at),) or (len(at), layers).
        """
        steps = len(self.schedule.lr)
        parts = [(begin, steps, norm, drive)]
        if starts and (start := self.start) is not None:
            free = np.asarray(drive) / np.asarray(norm) ** self.power
            restart = self.norm_eq(start, free, rate, decay)
            parts = [
                (begin, start, norm, drive),
                (start, steps, restart, free * restart**self.power),
            ]
        lr = self.schedule.rate(rate)
        norms, ratios = [], []
        for first, end, beginning, driven in parts:
            chosen = at[(at >= first) & (at < end)] - first
            if not len(chosen):
                continue
            part = slice(first, end)
            found = forecast(
                lr[part],
                self.optimizer.weight_decay * decay,
                self.schedule.momentum[part],
                norm=beginning,
                unit_grad_sq=driven,
                rescale=self.rescaling.followed[part] & (kind == 'rescaled'),
                at=chosen,
                law=self.optimizer.theory,
                clipping_power=self.clipping_power,
            )
            norms.append(found.weight_norm)
            ratio = found.weight_norm_eq / found.weight_norm
            ratios.append(ratio ** (self.exponent / 2))
        return np.concatenate(norms), np.concatenate(ratios)
