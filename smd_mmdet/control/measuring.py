"""A measuring phase: what it shows of each layer, and how far that is from w*."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from smd_mmdet import theory
from smd_mmdet.checks import COSINE_LEFT
from smd_mmdet.monitor.monitor import SphericalMotionMonitor

__all__ = ['Measured', 'Phase', 'angle_at_norm', 'mean_square']

# Columns of the records that a phase keeps of its windows.
_KEPT = (
    *('count', 'unit_h_mean', 'update_sq_mean', 'unit_grad_sq_max'),
    *('cosine_mean', 'cosine_var', 'angular_update_mean', 'angular_update_var'),
    *('weight_norm_mean', 'weight_norm_var'),
)


@dataclass(frozen=True)
class Measured:
    """One layer over a whole phase; each window counts by the number of its steps.

    Args:
        count: Steps that the layer took.
        unit_h_mean: Mean of h̃, which is the L of the theorems.
        update_sq_mean: Mean square U of the update of adaptive optimizers.
        unit_grad_sq_max: Largest ‖g̃‖².
        cosine_sq: Mean square of the cosine between weight and gradient.
    """

    count: float
    unit_h_mean: float
    update_sq_mean: float
    unit_grad_sq_max: float
    cosine_sq: float


class Phase:
    """Measures weights from one iteration on.

    Args:
        optimizer: The optimizer of the run.
        weights: The weights by name.
        steps: Iterations of the phase.
        started: Iterations that are done when it begins.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        weights: Mapping[str, nn.Parameter],
        steps: int,
        started: int,
    ) -> None:
        self.started = started
        # The window is one step longer than the phase, so that it never fills up: it
        # closes where the phase ends, or where a stage of the learning rate does.
        self._monitor = SphericalMotionMonitor(optimizer, weights, steps + 1)
        self._monitor.start_at(started)
        # Of each closed window, the kept columns with a value per layer.
        self._rows: list[dict[str, list[float]]] = []

    @property
    def theory(self) -> str:
        """Whose equilibrium applies: a name in :data:`smd_mmdet.theory.THEORIES`."""
        return self._monitor.theory

    def end(self) -> list[Measured]:
        """What was seen of each weight; empty if no window could be measured.

        Raises:
            Exception: The fault of the monitor, if it has one.
        """
        return _over_windows(self.windows())

    def windows(self) -> dict[str, np.ndarray]:
        """What was seen in each of the phase's windows, which ends the last of them.

        Returns:
            Columns of the records by name, each of shape (windows, layers); empty if
            no window could be measured.

        Raises:
            Exception: The fault of the monitor, if it has one.
        """
        if self._monitor.fault is not None:
            raise self._monitor.fault
        self._monitor.end_window()
        self._collect()
        if not self._rows:  # the gradients overflowed at every step, say
            return {}
        return {key: np.array([row[key] for row in self._rows]) for key in _KEPT}

    def begin_anew(self, started: int) -> None:
        """Measure from an iteration on, once :meth:`windows` has told what was before.

        Args:
            started: Iterations that are done.
        """
        self.started = started
        self._monitor.start_at(started)
        self._rows = []

    def detach(self) -> None:
        """Measure no more."""
        self._monitor.detach()

    def state_dict(self) -> dict:
        """Plain values and tensors, for a checkpoint."""
        state = None
        if self._monitor.fault is None:  # else it is told when the phase ends
            self._collect()
            state = self._monitor.state_dict()
        rows = [dict(row) for row in self._rows]
        return {'started': self.started, 'rows': rows, 'monitor': state}

    def load_state_dict(self, state: dict) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            ValueError: If it is of other layers or of another length; the phase is
                unchanged then.
        """
        self._monitor.load_state_dict(state['monitor'])
        self.started, self._rows = state['started'], list(state['rows'])

    def _collect(self) -> None:
        """Keep the windows that are closed; a change of the rate closes one."""
        columns = self._monitor.collect()
        layers = len(self._monitor.names)
        for start in range(0, len(columns['iter']), layers):
            rows = slice(start, start + layers)
            self._rows.append({key: columns[key][rows].tolist() for key in _KEPT})


def angle_at_norm(
    weight: nn.Parameter,
    measured: Measured,
    settings: tuple[float, float, float],
    law: str,
) -> float | str:
    """Δ/Δ* of a weight at the norm it has, or why there is none.

    It is (w*/‖w‖)^(q/2) with the w* of what drives the norm at present, L under SGD and
    U under AdamW.

    Args:
        weight: The weight.
        measured: What a phase has shown of it.
        settings: Learning rate, weight decay and momentum of its parameter group.
        law: The optimizer's name in :data:`smd_mmdet.theory.THEORIES`.

    Returns:
        The ratio, or a few words that say why the weight is left alone.
    """
    lr, decay, momentum = settings
    size = float(torch.linalg.vector_norm(weight.detach().double()))
    if not measured.count or not measured.unit_grad_sq_max > 0 or size == 0:
        return 'no gradient'
    if not lr * decay > 0:
        return 'no decay'
    if measured.cosine_sq > COSINE_LEFT**2:
        return 'its gradient is not orthogonal to it'
    known = theory.THEORIES[law]
    drive = getattr(measured, f'{known.drive}_mean')
    if not drive > 0:
        return 'mean h̃ not positive' if known.drive == 'unit_h' else 'no update'
    equilibrium = float(known.equilibrium_norm(lr, decay, drive, momentum))
    return (equilibrium / size) ** (known.exponent / 2)


def mean_square(windows: Mapping[str, np.ndarray], quantity: str) -> np.ndarray:
    """Mean square of a quantity over all steps of some windows.

    Args:
        windows: Columns of shape (windows, layers), as :meth:`Phase.windows` has them.
        quantity: Name of the quantity.

    Returns:
        Shape (layers,); 0 for a layer that took no step.

    Example:
        >>> windows = {'count': np.array([[1], [3]])}
        >>> windows |= {'cosine_mean': np.array([[0.0], [2.0]])}
        >>> mean_square(windows | {'cosine_var': np.zeros((2, 1))}, 'cosine')
        array([3.])
    """
    squares = windows[f'{quantity}_mean'] ** 2 + windows[f'{quantity}_var']
    return _mean(windows['count'], squares)


def _mean(count: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean over windows, each of which counts by the number of its steps."""
    share = count / np.maximum(count.sum(0), 1)
    return (share * np.where(count > 0, values, 0.0)).sum(0)


def _over_windows(windows: Mapping[str, np.ndarray]) -> list[Measured]:
    """Every layer over all windows."""
    if not windows:
        return []
    count = windows['count']
    columns = (
        count.sum(0),
        _mean(count, windows['unit_h_mean']),
        _mean(count, windows['update_sq_mean']),
        np.where(count > 0, windows['unit_grad_sq_max'], 0).max(0),
        mean_square(windows, 'cosine'),
    )
    return [Measured(*map(float, layer)) for layer in zip(*columns, strict=True)]
