"""Start at equilibrium: measure L of every layer, then put each at its own w*."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from smd_mmdet import theory
from smd_mmdet.checks import COSINE_LEFT
from smd_mmdet.config.rescaling import StartSettings
from smd_mmdet.monitor.monitor import SphericalMotionMonitor
from smd_mmdet.monitor.readers import settings_of


@dataclass(frozen=True)
class Verdict:
    """What a measuring phase has shown.

    Args:
        factors: By weight, w*/‖w‖ within the bounds.
        left_alone: By weight, why it gets none.
        settled: Whether all are at their equilibrium.
    """

    factors: dict[str, float]
    left_alone: dict[str, str]
    settled: bool


class EquilibriumStart:
    """Measuring phases, one after the other, and what follows from each.

    Args:
        settings: When and how far.
        optimizer: The optimizer.
        weights: The scale-invariant weights.
    """

    def __init__(
        self,
        settings: StartSettings,
        optimizer: Optimizer,
        weights: Mapping[str, nn.Parameter],
    ) -> None:
        self.settings = settings
        self.done = 0
        self.finished = False
        self._optimizer = optimizer
        self._weights = dict(weights)
        self._monitor: SphericalMotionMonitor | None = None
        self._started = 0
        self._rows: list[dict[str, list[float]]] = []

    def due(self, iteration: int, warmed_up: bool) -> bool:
        """Whether a phase ends here; begins one where it is time.

        Args:
            iteration: Iterations done.
            warmed_up: Whether no learning rate rises any more.
        """
        if self.finished:
            return False
        if self._monitor is not None:
            return iteration - self._started >= self.settings.measure
        begin = self.settings.begin
        if warmed_up if begin is None else iteration >= begin:
            self._measure_from(iteration)
        return False

    def end_phase(self) -> Verdict:
        """Tell what the phase has shown."""
        monitor = self._monitor
        if monitor.fault is not None:
            raise monitor.fault
        monitor.end_window()
        self._collect()
        return self._judge()

    def go_on(self, iteration: int, settled: bool) -> None:
        """Begin the next phase, unless this one was the last."""
        self.done += 1
        if settled or self.done >= self.settings.repeats:
            self.stop()
            return
        self._monitor.detach()
        self._measure_from(iteration)

    def stop(self) -> None:
        """End for good."""
        if self._monitor is not None:
            self._monitor.detach()
        self._monitor, self.finished = None, True

    def state_dict(self) -> dict:
        """Plain values and tensors, for a checkpoint."""
        monitor = self._monitor
        if monitor is not None and monitor.fault is not None:
            monitor = None  # told when its phase ends; a resume measures anew
        if monitor is not None:
            self._collect()
        return {
            'done': self.done,
            'finished': self.finished,
            'started': self._started,
            'rows': [dict(rows) for rows in self._rows],
            'monitor': monitor and monitor.state_dict(),
        }

    def load_state_dict(self, state: dict, iteration: int) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            ValueError: If the phase under way measured other layers.
        """
        self.done, self.finished = state['done'], state['finished']
        if state['monitor'] is None:
            return
        self._measure_from(iteration)
        self._monitor.load_state_dict(state['monitor'])
        self._started, self._rows = state['started'], list(state['rows'])

    def _measure_from(self, iteration: int) -> None:
        # One step more than there are, so that a window closes where we say, or where
        # a stage ends.
        self._monitor = SphericalMotionMonitor(
            self._optimizer, self._weights, self.settings.measure + 1
        )
        self._monitor.start_at(iteration)
        self._started, self._rows = iteration, []

    def _collect(self) -> None:
        """Keep the windows that are closed; a change of the rate closes one."""
        columns = self._monitor.collect()
        layers = len(self._weights)
        kept = (
            *('count', 'unit_h_mean', 'unit_grad_sq_max', 'cosine_mean', 'cosine_var'),
            *('angular_update_mean', 'angular_update_var'),
        )
        for start in range(0, len(columns['iter']), layers):
            rows = slice(start, start + layers)
            self._rows.append({key: columns[key][rows].tolist() for key in kept})

    def _judge(self) -> Verdict:
        groups = {
            id(p): settings_of(group)
            for group in self._optimizer.param_groups
            for p in group['params']
        }
        if not self._rows:  # the gradients overflowed at every step, say
            return Verdict({}, {}, settled=False)
        means = _means(self._rows)
        factors: dict[str, float] = {}
        left_alone: dict[str, str] = {}
        for i, (name, weight) in enumerate(self._weights.items()):
            layer = {key: float(values[i]) for key, values in means.items()}
            c, reason = self._factor(weight, layer, groups[id(weight)])
            if reason is None:
                factors[name] = c
            else:
                left_alone[name] = reason
        near = self.settings.tolerance
        settled = bool(factors) and all(abs(c - 1) <= near for c in factors.values())
        limit = self.settings.max_factor
        factors = {
            name: min(max(c, 1 / limit), limit)
            for name, c in factors.items()
            if abs(c - 1) > near
        }
        return Verdict(factors, left_alone, settled)

    def _factor(
        self, weight: nn.Parameter, layer: dict[str, float], settings: tuple
    ) -> tuple[float, str | None]:
        """w*/‖w‖, or why there is none."""
        lr, decay, momentum = settings
        size = float(torch.linalg.vector_norm(weight.detach().double()))
        if not layer['count'] or not layer['unit_grad_sq_max'] > 0 or size == 0:
            return 1.0, 'no gradient'
        if not lr * decay > 0:
            return 1.0, 'no decay'
        if layer['cosine_sq'] > COSINE_LEFT**2:
            return 1.0, 'its gradient is not orthogonal to it'
        known = theory.THEORIES[self._monitor.theory]
        if not known.norm_law:
            # The step has a size of its own, so Δ ∝ 1/‖w‖.
            wanted = float(known.angular_update(lr, decay, momentum))
            return math.sqrt(layer['angular_update_sq']) / wanted, None
        if not layer['unit_h_mean'] > 0:
            return 1.0, 'mean h̃ not positive'
        norm = theory.equilibrium_norm(lr, decay, layer['unit_h_mean'], momentum)
        return float(norm) / size, None


def _means(rows: list[dict[str, list[float]]]) -> dict[str, np.ndarray]:
    """Means over windows, each with the weight of its steps."""
    windows = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    count = windows['count']
    weight = count / np.maximum(count.sum(0), 1)

    def mean(values: np.ndarray) -> np.ndarray:
        return (weight * np.where(count > 0, values, 0.0)).sum(0)

    def square(quantity: str) -> np.ndarray:
        return mean(windows[f'{quantity}_mean'] ** 2 + windows[f'{quantity}_var'])

    return {
        'count': count.sum(0),
        'unit_h_mean': mean(windows['unit_h_mean']),
        'unit_grad_sq_max': np.where(count > 0, windows['unit_grad_sq_max'], 0).max(0),
        'cosine_sq': square('cosine'),
        'angular_update_sq': square('angular_update'),
    }
