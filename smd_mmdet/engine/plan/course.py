"""A schedule, its stages, and what they do to a layer relative to equilibrium."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from smd_mmdet import theory
from smd_mmdet.engine.schedule import Span
from smd_mmdet.forecast import forecast
from smd_mmdet.stages import WARMUP

from .optimizer import Optimizer

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
    rescales: bool = False

    @property
    def kind(self) -> str:
        """Which of the two forecasts is the config's own."""
        return 'rescaled' if self.rescales else 'plain'

    def stages(self, assumptions: list[str]) -> list[dict]:
        """The stages, with a forecast relative to equilibrium."""
        stages = [self._facts(span) for span in self.spans]
        if not self.optimizer.comes_to_equilibrium:
            return stages
        first = next((i for i, s in enumerate(stages) if s['stage'] != WARMUP), None)
        if first is None:
            return stages
        assumptions.append(
            f'Δ/Δ* is forecast for a layer whose norm is at its equilibrium when stage '
            f'{stages[first]["stage"]} begins, and whose L stays as it is: where a '
            'layer really starts is not known before it is measured'
        )
        begin = self.spans[first].start
        norm = theory.equilibrium_norm(
            self.lr[begin], self.optimizer.weight_decay, 1.0, self.momentum[begin]
        )
        for kind in ('plain', 'rescaled'):
            ratios = self._ratios(begin, norm, kind == 'rescaled')
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

    def _ratios(self, begin: int, norm: ArrayLike, rescale: bool) -> np.ndarray:
        """Δ/Δ* = (w*/‖w‖)² by iteration, at an L of 1."""
        ahead = forecast(
            self.lr[begin:],
            self.optimizer.weight_decay,
            self.momentum[begin:],
            norm=norm,
            unit_grad_sq=1.0,
            rescale=rescale,
        )
        return (ahead.weight_norm_eq / ahead.weight_norm) ** 2

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
        stage['reachable_from'] = float(
            (1 + 2 * TOLERANCE * np.exp(min(folds, 500))) ** 0.25
        )
        farthest = stage['plain']['farthest_in_last_third']
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
        stage['iterations_to_equilibrium'] = float(
            theory.iterations_to_tolerance(distance, *settings, 2 * TOLERANCE)
        )
        if before is None:
            stage['reaches'] = bool(np.exp(-folds) <= 2 * TOLERANCE)
        else:
            stage['reaches'] = abs(stage[self.kind]['end_ratio'] - 1) <= TOLERANCE
