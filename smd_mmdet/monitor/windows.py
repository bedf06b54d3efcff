"""What is kept of a window of steps: first their rows, then only their moments.

A step's row waits on the device in a :class:`Block`. When the block is full, its
quantities are computed for all steps at once and merged into :class:`.WindowMoments`.
When the window is full, the moments are sent to the host as a :class:`ClosedWindow`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from smd_mmdet.stages import Stage

from .clipping import UNCLIPPED, UNKNOWN, Clipped
from .transfers import HostCopy, Upload

__all__ = ['Block', 'ClosedWindow', 'Window']


class Block:
    """The last few steps, as they were read: rows that wait to be reduced.

    Args:
        size: Number of steps that the block holds.
        layers: Number of layers.
        columns: Number of values that are read of a layer.
        device: Device of the weights.

    Attributes:
        rows: What was read; shape (size, layers, columns), float64, on the device.
        iterations: Number of each step in the block; as many as there are steps.

    Example:
        >>> block = Block(size=4, layers=2, columns=7, device=torch.device('cpu'))
        >>> grad, settings = torch.tensor([True, False]), torch.zeros(2, 3)
        >>> for iteration in (1, 2, 3):
        ...     block.add(iteration, settings, grad, found_inf=None)
        >>> block.valid(0, 3)
        tensor([[ True, False],
                [ True, False],
                [ True, False]])
        >>> block.drop(2)
        >>> block.iterations
        [3]
    """

    def __init__(
        self, size: int, layers: int, columns: int, device: torch.device
    ) -> None:
        self.size, self._layers = size, layers
        double = torch.float64
        shape = (size, layers, columns)
        self.rows = torch.full(shape, torch.nan, dtype=double, device=device)
        self.iterations: list[int] = []
        # Of each step. They are references to what seldom changes: tensors are made of
        # them when the block is reduced.
        self._settings: list[Tensor] = []
        self._has_grad: list[Tensor | None] = []
        self._taken: list[Tensor | None] = []
        self._clipped: list[Clipped] = []
        self._has_grad_upload = Upload((size, layers), torch.bool, device)
        self._settings_upload = Upload((size, layers, 3), double, device)
        self._clipped_upload = Upload((size, 2), double, device)

    def __len__(self) -> int:
        return len(self.iterations)

    def add(
        self,
        iteration: int,
        settings: Tensor,
        has_grad: Tensor | None,
        found_inf: Tensor | None,
        clipped: Clipped = UNKNOWN,
    ) -> None:
        """Add what is known of a step without reading the weights.

        Args:
            iteration: Number of the step.
            settings: Settings of each layer, shape (layers, 3), float64, on the host:
                a tensor that does not change any more.
            has_grad: Whether each layer takes part, shape (layers,), likewise. None if
                all do.
            found_inf: For a fused optimizer under mixed precision, which decides on
                the device whether it steps: not 0 if it does not. None if it does.
            clipped: What :func:`.clipping.note` tells; NaN where nothing is known.
        """
        self.iterations.append(iteration)
        self._settings.append(settings)
        self._has_grad.append(has_grad)
        taken = None if found_inf is None else found_inf.reshape(()) == 0
        self._taken.append(taken)
        self._clipped.append(clipped)

    def settings(self, begin: int, end: int) -> Tensor:
        """Settings of each layer.

        Args:
            begin: First step.
            end: Step after the last one.

        Returns:
            Learning rate, weight decay and momentum, shape (steps, layers, 3), float64,
            on the host; (1, layers, 3) where they are the same in all steps.
        """
        first, *others = self._settings[begin:end]
        if all(settings is first for settings in others):
            return first.unsqueeze(0)
        return torch.stack([first, *others])

    def sent_settings(self, begin: int, end: int) -> Tensor:
        """:meth:`settings` on the device, until it is called again."""
        return self._settings_upload.send(self.settings(begin, end))

    def valid(self, begin: int, end: int) -> Tensor | None:
        """Whether a step of a layer counts.

        Args:
            begin: First step.
            end: Step after the last one.

        Returns:
            Shape (steps, layers), bool, on the device; None where all of them do.
        """
        valid, taken = None, self._taken[begin:end]
        if any(one is not None for one in self._has_grad[begin:end]):
            valid = self._has_grad_upload.send(self._of_all(begin, end))
        if any(one is not None for one in taken):
            yes = torch.ones((), dtype=torch.bool, device=self.rows.device)
            column = torch.stack([yes if one is None else one for one in taken])
            column = column.unsqueeze(1).expand(-1, self._layers)
            valid = column if valid is None else valid & column
        return valid

    def same_clipping(self, steps: int) -> Clipped | None:
        """What the first steps' clipping is known to be, if it is all the same.

        Returns:
            :data:`.UNKNOWN`, :data:`.UNCLIPPED`, or None where it is neither.
        """
        first = self._clipped[0]
        if first is not UNKNOWN and first is not UNCLIPPED:
            return None
        same = all(clipped is first for clipped in self._clipped[:steps])
        return first if same else None

    def clipped(self, steps: int) -> Tensor:
        """What the first steps' gradients were multiplied by, and their norm after it.

        Returns:
            Shape (steps, 2), float64, on the device; NaN where it is not known.
        """
        values = [value for clipped in self._clipped[:steps] for value in clipped]
        on_host = [math.nan if isinstance(v, Tensor) else v for v in values]
        rows = torch.tensor(on_host, dtype=torch.float64).view(-1, 2)
        rows = self._clipped_upload.send(rows).clone()
        for out, value in zip(rows.view(-1).unbind(), values, strict=True):
            if isinstance(value, Tensor):
                out.copy_(value, non_blocking=True)
        return rows

    def drop(self, count: int) -> None:
        """Forget the first steps; at most one may be left, which becomes the first."""
        for steps in self._lists():
            del steps[:count]
        if self.iterations:
            self.rows[0].copy_(self.rows[count])

    def tensors(self) -> dict[str, Tensor]:
        """Everything of its steps as tensors, whose first dimension is the steps.

        Returns:
            Besides ``rows`` and what :meth:`add` takes (has_grad, settings, clipped),
            whether the optimizer took the step (taken).
        """
        steps, shape = len(self), (len(self), self._layers)
        taken = torch.ones(steps, dtype=torch.bool)
        for step, one in enumerate(self._taken):
            if one is not None:
                taken[step] = one.cpu()
        return {
            'rows': self.rows[:steps],
            'taken': taken,
            'has_grad': self._of_all(0, steps),
            'settings': torch.stack(self._settings)
            if steps
            else torch.zeros(*shape, 3),
            'clipped': self.clipped(steps),
        }

    def load(self, iterations: Sequence[int], tensors: dict[str, Tensor]) -> None:
        """Take the steps of :meth:`tensors` in place of its own.

        Args:
            iterations: Number of each step.
            tensors: The tensors by name.
        """
        self.iterations = list(iterations)
        self.rows[: len(self)].copy_(tensors['rows'])
        device = self.rows.device
        self._settings = list(tensors['settings'].unbind())
        self._has_grad = list(tensors['has_grad'].unbind())
        self._taken = list(tensors['taken'].to(device).unbind())
        self._clipped = [(one[0], one[1]) for one in tensors['clipped'].tolist()]

    def _of_all(self, begin: int, end: int) -> Tensor:
        """Whether each layer takes part; shape (steps, layers), bool, on the host."""
        has_grad = torch.ones(end - begin, self._layers, dtype=torch.bool)
        for step, one in enumerate(self._has_grad[begin:end]):
            if one is not None:
                has_grad[step] = one
        return has_grad

    def _lists(self) -> tuple[list, ...]:
        named = self._settings, self._has_grad, self._taken, self._clipped
        return (self.iterations, *named)


class Window:
    """Which steps a window holds, and what they were made with.

    Args:
        first_iteration: Number of its first step.
        layers: Number of layers.
        stage: Stage of the learning rate; None before the first step is seen. While
            the stage goes on its number may still change, so it is read late.

    Attributes:
        settings: Settings of the last reduced step; shape (layers, 3): learning rate,
            weight decay, momentum; float64, on the host.
        steps: Number of steps, those that wait in the block included.
        last_iteration: Number of the last reduced step.

    Example:
        >>> window = Window(first_iteration=1, layers=2, stage=None)
        >>> window.take(torch.full((4, 2, 3), 0.5), [1, 2, 3, 4])
        >>> window.settings_sum[0].tolist(), window.last_iteration
        ([2.0, 2.0, 2.0], 4)
    """

    def __init__(self, first_iteration: int, layers: int, stage: Stage | None) -> None:
        self.first_iteration, self.stage = first_iteration, stage
        self.steps = self.last_iteration = 0
        self.settings = self._sum = torch.zeros(layers, 3, dtype=torch.float64)
        # Settings that are not yet in the sum, which is seldom needed.
        self._waiting: list[tuple[Tensor, int]] = []

    def take(self, settings: Tensor, iterations: Sequence[int]) -> None:
        """Take in steps that are being reduced.

        Args:
            settings: Settings of the steps, shape (steps, layers, 3), or (1, layers, 3)
                if they are the same in all: a tensor that does not change any more.
            iterations: Number of each step.
        """
        self._waiting.append((settings, len(iterations)))
        self.settings = settings[-1]
        self.last_iteration = iterations[-1]

    @property
    def settings_sum(self) -> Tensor:
        """Sum of the settings over the reduced steps; shape (layers, 3)."""
        for settings, steps in self._waiting:
            # Equal numbers are added one after another, as they would be if they moved.
            self._sum = self._sum + settings.expand(steps, -1, -1).contiguous().sum(0)
        self._waiting.clear()
        return self._sum

    def load(
        self, settings_sum: Tensor, settings: Tensor, steps: int, last_iteration: int
    ) -> None:
        """Continue a window from its attributes."""
        self._sum, self.settings = settings_sum.clone(), settings.clone()
        self.steps, self.last_iteration = steps, last_iteration


@dataclass
class ClosedWindow:
    """A window that is complete, and its values on their way to the host.

    Args:
        window: Its steps.
        stage: Stage of the learning rate that its steps belong to.
        quantities: Names of the quantities that are measured.
        moments: :meth:`.Moments.summary` of their values.
        clipping: The same of what is kept of clipping, or what is known ahead.
        filter_means: Means of its steps by filter, where filters are measured.
        failures: Number of failed readings up to now, where ranks share the layers.
    """

    window: Window
    stage: Stage
    quantities: Sequence[str]
    moments: HostCopy
    clipping: HostCopy | Clipped
    filter_means: HostCopy | None = None
    failures: HostCopy | None = None

    @property
    def arrived(self) -> bool:
        """Whether the values can be read without waiting for the device."""
        # What was sent last arrives last.
        return (self.failures or self.moments).arrived

    @property
    def failed(self) -> bool:
        """Whether reading failed on another rank before the window was complete."""
        return self.failures is not None and bool(self.failures.numpy())

    def clipping_means(self) -> np.ndarray:
        """Means of :func:`.clipping.clip_samples`; shape (3, layers)."""
        if isinstance(self.clipping, HostCopy):
            return self.clipping.numpy()[1]
        # Known ahead: of what is not clipped, or of nothing.
        coefficient = float(self.clipping[0])
        of_step = np.array([[0.0], [1.0], [0.0]]) * coefficient
        counted = self.moments.numpy()[0, 0] > 0
        return np.where(counted, of_step, np.nan)
