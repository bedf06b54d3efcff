"""What is kept of a window of steps: first their rows, then only their moments.

A step's row waits on the device in a :class:`Block`. When the block is full, its
quantities are computed for all steps at once and merged into :class:`Moments`. When
the window is full, the moments are sent to the host as a :class:`ClosedWindow`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smd_mmdet.stages import Stage

from .clipping import Clipped
from .transfers import Download, HostCopy, Upload

__all__ = ['Block', 'ClosedWindow', 'Moments', 'Window']


class Block:
    """The last few steps, as they were read: rows that wait to be reduced.

    Args:
        size: Number of steps that the block holds.
        layers: Number of layers.
        columns: Number of values that are read of a layer.
        device: Device of the weights.

    Attributes:
        rows: What was read; shape (size, layers, columns), float64, on the device.
        taken: Whether the optimizer took the step; shape (size,), bool, on the device.
        has_grad: Whether a layer took part in the step; shape (size, layers), bool,
            on the host.
        settings: Learning rate, weight decay and momentum of each layer; shape
            (size, layers, 3), float64, on the host.
        clipped: What the gradients of each step were multiplied by when they were
            clipped, and the norm of all of them after it, NaN where that is not known;
            shape (size, 2), float64, on the device.
        iterations: Number of each step in the block; as many as there are steps.

    Example:
        >>> block = Block(size=4, layers=2, columns=7, device=torch.device('cpu'))
        >>> grad, settings = torch.tensor([True, False]), torch.zeros(2, 3)
        >>> for iteration in (1, 2, 3):
        ...     block.add(iteration, settings, grad, found_inf=None)
        >>> block.conditions()[1][:3]
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
        self.size = size
        double = torch.float64
        shape = (size, layers, columns)
        self.rows = torch.full(shape, torch.nan, dtype=double, device=device)
        self.taken = torch.zeros(size, dtype=torch.bool, device=device)
        self.has_grad = torch.zeros(size, layers, dtype=torch.bool)
        self.settings = torch.zeros(size, layers, 3, dtype=double)
        self.clipped = torch.full((size, 2), torch.nan, dtype=double, device=device)
        self.iterations: list[int] = []
        self._has_grad_upload = Upload((size, layers), torch.bool, device)
        self._settings_upload = Upload((size, layers, 3), double, device)

    def __len__(self) -> int:
        return len(self.iterations)

    def add(
        self,
        iteration: int,
        settings: Tensor,
        has_grad: Tensor,
        found_inf: Tensor | None,
        clipped: Clipped = (math.nan, math.nan),
    ) -> None:
        """Add what is known of a step without reading the weights.

        Args:
            iteration: Number of the step.
            settings: Settings of each layer, shape (layers, 3), on the host.
            has_grad: Whether each layer takes part, shape (layers,), on the host.
            found_inf: For a fused optimizer under mixed precision, which decides on
                the device whether it steps: not 0 if it does not. None if it does.
            clipped: What :func:`.clipping.note` tells; NaN where nothing is known.
        """
        row = len(self.iterations)
        self.iterations.append(iteration)
        self.settings[row] = settings
        self.has_grad[row] = has_grad
        if found_inf is None:
            self.taken[row].fill_(True)
        else:
            self.taken[row].copy_(found_inf.reshape(()) == 0)
        for out, value in zip(self.clipped[row], clipped, strict=True):
            if isinstance(value, Tensor):
                out.copy_(value, non_blocking=True)
            else:
                out.fill_(value)

    def conditions(self) -> tuple[Tensor, Tensor]:
        """Send to the device under which conditions the steps were made.

        Returns:
            The settings, shape (size, layers, 3), and whether a step of a layer
            counts, shape (size, layers).
        """
        valid = self._has_grad_upload.send(self.has_grad) & self.taken.unsqueeze(1)
        return self._settings_upload.send(self.settings), valid

    def drop(self, count: int) -> None:
        """Forget the first steps; at most one may be left, which becomes the first."""
        del self.iterations[:count]
        if self.iterations:
            for tensor in self.tensors().values():
                tensor[0].copy_(tensor[count])

    def tensors(self) -> dict[str, Tensor]:
        """The tensors whose first dimension is the steps, by name."""
        names = ('rows', 'taken', 'has_grad', 'settings', 'clipped')
        return {name: getattr(self, name) for name in names}


class Moments:
    """Count, mean, variance, minimum and maximum over steps, kept on the device.

    Args:
        quantities: Number of quantities.
        layers: Number of layers.
        device: Device of the measured values.

    Attributes:
        values: Count, mean, sum of squared deviations from the mean, minimum and
            maximum; shape (5, quantities, layers), float64.

    Example:
        >>> moments = Moments(quantities=1, layers=1, device=torch.device('cpu'))
        >>> valid = torch.tensor([[True], [True], [False]])
        >>> moments.add(torch.tensor([[[1.0], [3.0], [9.0]]]).double(), valid)
        >>> moments.summary().flatten().tolist()
        [2.0, 2.0, 1.0, 1.0, 3.0]
    """

    def __init__(self, quantities: int, layers: int, device: torch.device) -> None:
        shape = (5, quantities, layers)
        self.values = torch.empty(shape, dtype=torch.float64, device=device)
        self._download = Download(shape, device)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.values.zero_()
        self.values[3].fill_(torch.inf)
        self.values[4].fill_(-torch.inf)

    def add(self, samples: Tensor, valid: Tensor) -> None:
        """Merge samples in, by the pairwise update of Chan et al. (1979).

        With n samples of mean m and sum of squared deviations S so far, and n', m'
        and S' of those that are added, δ = m' − m and N = n + n', the new mean is
        m + δ n'/N and the new sum is S + S' + δ² n n'/N.

        Args:
            samples: Shape (quantities, steps, layers), float64.
            valid: Which samples count; shape (steps, layers), bool.
        """
        count, mean, sum_sq, low, high = self.values
        added = valid.sum(0).double()
        weight = 1 / added.clamp_min(1)
        batch_mean = torch.where(valid, samples, 0.0).sum(1) * weight
        centred = torch.where(valid, samples - batch_mean.unsqueeze(1), 0.0)
        total = count + added
        shift = torch.where(added > 0, batch_mean - mean, 0.0)
        share = added / total.clamp_min(1)
        sum_sq += centred.square().sum(1) + shift.square() * count * share
        mean += shift * share
        count.copy_(total)
        torch.minimum(low, torch.where(valid, samples, torch.inf).amin(1), out=low)
        torch.maximum(high, torch.where(valid, samples, -torch.inf).amax(1), out=high)

    def summary(self) -> Tensor:
        """The moments, in the order count, mean, population variance, min, max.

        Returns:
            Tensor: Shape (5, quantities, layers); NaN where nothing was counted.
        """
        count, mean, sum_sq, low, high = self.values
        empty = count == 0
        statistics = torch.stack([mean, sum_sq / count.clamp_min(1), low, high])
        return torch.cat([count.unsqueeze(0), statistics.masked_fill(empty, torch.nan)])

    def send(self) -> HostCopy:
        """Start to copy :meth:`summary` to the host."""
        return self._download.send(self.summary())


@dataclass
class Window:
    """Which steps a window holds, and what they were made with.

    Args:
        first_iteration: Number of its first step.
        settings_sum: Sum of the settings over the reduced steps; shape (layers, 3):
            learning rate, weight decay, momentum; float64, on the host.
        settings: Settings of the last reduced step, of the same shape.
        stage: Stage of the learning rate; None before the first step is seen. While
            the stage goes on its number may still change, so it is read late.
        steps: Number of steps, those that wait in the block included.
        last_iteration: Number of the last reduced step.

    Example:
        >>> window = Window.starting_at(iteration=1, layers=2, stage=None)
        >>> window.take(torch.full((4, 2, 3), 0.5), [1, 2, 3, 4])
        >>> window.settings_sum[0].tolist(), window.last_iteration
        ([2.0, 2.0, 2.0], 4)
    """

    first_iteration: int
    settings_sum: Tensor
    settings: Tensor
    stage: Stage | None = None
    steps: int = 0
    last_iteration: int = 0

    @classmethod
    def starting_at(cls, iteration: int, layers: int, stage: Stage | None) -> Window:
        """A window that has no step yet."""
        zeros = torch.zeros(layers, 3, dtype=torch.float64)
        return cls(iteration, zeros, zeros.clone(), stage)

    def take(self, settings: Tensor, iterations: Sequence[int]) -> None:
        """Take in steps that are being reduced.

        Args:
            settings: Settings of the steps, shape (steps, layers, 3).
            iterations: Number of each step.
        """
        self.settings_sum += settings.sum(0)
        self.settings = settings[-1].clone()
        self.last_iteration = iterations[-1]


@dataclass
class ClosedWindow:
    """A window that is complete, and its values on their way to the host.

    Args:
        window: Its steps.
        stage: Stage of the learning rate that its steps belong to.
        moments: :meth:`Moments.summary` of its steps.
        filter_means: Means of its steps by filter, where filters are measured.
        failures: Number of failed readings up to now, where ranks share the layers.
    """

    window: Window
    stage: Stage
    moments: HostCopy
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
