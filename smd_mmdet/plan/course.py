"""A schedule, its stages, and what they do to a layer relative to equilibrium."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from smd_mmdet import theory
from smd_mmdet.config.optimizer import Optimizer
from smd_mmdet.config.schedule import Span
from smd_mmdet.forecast import forecast
from smd_mmdet.stages import WARMUP

from .rescaling import Rescaling

# Of Δ/Δ*; 0.2 of ‖w‖⁴.
TOLERANCE = 0.10
# ‖w‖/w* of many layers under MMDetection's default initialization.
TYPICAL_START = 3.0


@dataclass
class Course:
    """A schedule, its stages, and what they do to a layer."""

    lr: np.ndarray
    momentum: np.ndarray
    optimizer: Optimizer
    spans: list[Span]
    rescaling: Rescaling

    @property
    def kind(self) -> str:
        """Which of the two forecasts is the config's own."""
        return self.rescaling.kind

    @property
    def first(self) -> int:
        """Index of the first span after the warm-up; their number if there is none."""
        after = (i for i, s in enumerate(self.spans) if s.stage.number != WARMUP)
        return next(after, len(self.spans))

    @property
    def start(self) -> int | None:
        """Where layers are first put at their equilibrium after the warm-up."""
        begin = self.spans[self.first].start if self.first < len(self.spans) else 0
        later = (
            t
            for t in self.rescaling.starts
            if begin <= t < len(self.lr) and self.lr[t] > 0
        )
        return next(later, None)

    def stages(self, assumptions: list[str]) -> list[dict]:
        """The stages, with a forecast relative to equilibrium."""
        stages = [self._facts(span) for span in self.spans]
        if not self.optimizer.comes_to_equilibrium:
            return stages
        first = self.first
        if first == len(stages):
            return stages
        assumptions += self._words_on_start(self.spans[first])
        begin = self.spans[first].start
        norm, at = self._norm_eq(begin), np.arange(begin, len(self.lr))
        for kind in ('plain', 'rescaled'):
            _, ratios = self.ahead(kind, norm, 1.0, at=at, begin=begin)
            for stage, span in zip(stages[first:], self.spans[first:], strict=True):
                stage[kind] = self._ends(ratios, span, begin)
        for i in range(first, len(stages)):
            self._judge(stages[i], self.spans[i], stages[i - 1] if i > first else None)
        return stages

    def _facts(self, span: Span) -> dict:
        part = slice(span.start, span.end)
        lr, momentum = self.lr[part], self.momentum[part]
        decay = self.optimizer.weight_decay
        facts = {
            'stage': span.stage.number,
            'first_iter': span.start + 1,
            'last_iter': span.end,
            'iterations': span.end - span.start,
            'steady': span.stage.steady,
            'lr_start': float(lr[0]),
            'lr_end': float(lr[-1]),
            'momentum': float(momentum[-1]),
            'weight_decay': decay,
            'angular_update_eq': None,
            'angular_update_eq_end': None,
            'relaxation_iterations': None,
            'iterations_to_equilibrium': None,
            'corollary_iterations': None,
            'reachable_from': None,
            'plain': None,
            'rescaled': None,
            'reaches': None,
            'warning': None,
        }
        if self.optimizer.known is None:
            return facts
        facts['angular_update_eq'] = self.angle(lr[0], momentum[0])
        facts['angular_update_eq_end'] = self.angle(lr[-1], momentum[-1])
        rate = 4 * decay * float(np.mean(lr / (1 - momentum)))
        if self.optimizer.comes_to_equilibrium and rate > 0:
            facts['relaxation_iterations'] = 1 / rate
        return facts

    def angle(self, lr: float, momentum: float) -> float:
        """Δ* of the config's weight decay; 0 at a rate of 0."""
        if lr <= 0:
            return 0.0
        decay = self.optimizer.weight_decay
        return float(self.optimizer.known.angular_update(lr, decay, momentum))

    def _norm_eq(
        self,
        t: int,
        unit_grad_sq: ArrayLike = 1.0,
        rate: float = 1.0,
        decay: float = 1.0,
    ) -> np.ndarray:
        return theory.equilibrium_norm(
            self.lr[t] * rate,
            self.optimizer.weight_decay * decay,
            unit_grad_sq,
            self.momentum[t],
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
        """‖w‖ and Δ/Δ* = (w*/‖w‖)², put at equilibrium where the config asks for it.

        Args:
            kind: 'plain', or 'rescaled' for a hook that follows the rate.
            norm: ‖w‖ where it begins, a number or an array over layers.
            unit_grad_sq: L, likewise.
            at: Iterations to return, in rising order.
            begin: The iteration to begin with.
            rate: Multiplies the rate.
            decay: Multiplies the weight decay.

        Returns:
            Two arrays, by iteration and layer.
        """
        parts = [(begin, len(self.lr), norm)]
        if (start := self.start) is not None:
            restart = self._norm_eq(start, unit_grad_sq, rate, decay)
            parts = [(begin, start, norm), (start, len(self.lr), restart)]
        norms, ratios = [], []
        for first, end, beginning in parts:
            chosen = at[(at >= first) & (at < end)] - first
            if not len(chosen):
                continue
            part = slice(first, end)
            found = forecast(
                self.lr[part] * rate,
                self.optimizer.weight_decay * decay,
                self.momentum[part],
                norm=beginning,
                unit_grad_sq=unit_grad_sq,
                rescale=self.rescaling.followed[part] & (kind == 'rescaled'),
                at=chosen,
            )
            norms.append(found.weight_norm)
            ratios.append((found.weight_norm_eq / found.weight_norm) ** 2)
        return np.concatenate(norms), np.concatenate(ratios)

    def _words_on_start(self, first: Span) -> list[str]:
        number, start = first.stage.number, self.start
        found = []
        if start is None or start >= first.end:
            found.append(
                f'Δ/Δ* is forecast for a layer whose norm is at its equilibrium when '
                f'stage {number} begins, and whose L stays as it is: where a layer '
                'really starts is not known before it is measured'
            )
        if start is not None:
            found.append(
                'SMDRescaleHook (start_at_equilibrium) puts layers at equilibrium in '
                f'front of iteration {start + 1:,}: from there on Δ/Δ* is forecast for '
                'a layer that is, and whose L stays as it is'
            )
        elif self.rescaling.max_factor > 1:
            found.append(
                'start_at_equilibrium of SMDRescaleHook is not counted: no measuring '
                'phase ends between the warm-up and the end of the training'
            )
        return found

    def _ends(self, ratios: np.ndarray, span: Span, begin: int) -> dict:
        part = ratios[span.start - begin : span.end - begin]
        # Rounded: the first stage starts at 1 by assumption.
        start, end = round(float(part[0]), 9), float(part[-1])
        last = part[-max(1, len(part) // 3) :]
        return {
            'start_ratio': start,
            'end_ratio': end,
            'start': start * self.angle(self.lr[span.start], self.momentum[span.start]),
            'end': end * self.angle(self.lr[span.end - 1], self.momentum[span.end - 1]),
            'farthest_in_last_third': float(np.abs(last - 1).max()),
        }

    def _reachable_from(self, folds: float, span: Span) -> float:
        """‖w‖/w* from which decay, or the hook, brings layers to equilibrium."""
        by_decay = (1 + 2 * TOLERANCE * np.exp(min(folds, 500))) ** 0.25
        turns = sum(span.start <= t < span.end for t in self.rescaling.starts)
        by_hook = np.exp(min(turns * np.log(self.rescaling.max_factor), 500))
        return float(max(by_decay, by_hook))

    def _judge(self, stage: dict, span: Span, before: dict | None) -> None:
        """Whether a stage is long enough, and what it would need."""
        if stage['lr_start'] <= 0:  # nothing moves
            return
        part = slice(span.start, span.end)
        folds = float(
            (self.lr[part] / (1 - self.momentum[part])).sum()
            * 4
            * self.optimizer.weight_decay
        )
        settings = (
            stage['lr_start'],
            self.optimizer.weight_decay,
            float(self.momentum[span.start]),
        )
        stage['reachable_from'] = self._reachable_from(folds, span)
        farthest = stage[self.kind]['farthest_in_last_third']
        if not stage['steady']:
            stage['reaches'] = farthest <= TOLERANCE
            return
        distance = TYPICAL_START**4 - 1
        if before is not None:
            distance = abs(1 / stage[self.kind]['start_ratio'] ** 2 - 1)
            drop = before['lr_end'] / stage['lr_start']
            if drop > 1:
                stage['corollary_iterations'] = theory.iterations_to_equilibrium(
                    *settings[:2], drop, settings[2]
                )
        needed = float(
            theory.iterations_to_tolerance(distance, *settings, 2 * TOLERANCE)
        )
        if (start := self.start) is not None and span.start <= start < span.end:
            needed = min(needed, float(start - span.start))
        stage['iterations_to_equilibrium'] = needed
        if before is None:
            # From a ‖w‖⁴ of twice w*⁴ at least.
            stage['reaches'] = stage['reachable_from'] >= 2**0.25
        else:
            stage['reaches'] = abs(stage[self.kind]['end_ratio'] - 1) <= TOLERANCE
