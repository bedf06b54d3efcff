"""Moments of what is measured in a window, kept on the device while steps come."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .clipping import COLUMNS as CLIPPING
from .clipping import Clipped, clip_samples
from .quantities import QUANTITIES, Step, measure
from .transfers import Download, HostCopy
from .windows import Block

__all__ = ['ClippingMoments', 'Moments', 'WindowMoments']


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
        self._each = self.values.unbind()
        # How many samples each has, while it is the same number for all; else None.
        self._samples: int | None = 0
        self._download = Download(shape, device)
        self.reset()

    def load(self, values: Tensor) -> None:
        """Continue from ``values`` of other moments."""
        self.values.copy_(values)
        self._samples = None

    def reset(self) -> None:
        """Forget everything."""
        self._samples = 0
        self.values[:3].zero_()
        self.values[3].fill_(torch.inf)
        self.values[4].fill_(-torch.inf)

    def add(self, samples: Tensor, valid: Tensor | None) -> None:
        """Merge samples in, by the pairwise update of Chan et al. (1979).

        With n samples of mean m and sum of squared deviations S so far, and n', m'
        and S' of those that are added, δ = m' − m and N = n + n', the new mean is
        m + δ n'/N and the new sum is S + S' + δ² n n'/N.

        Args:
            samples: Shape (quantities, steps, layers), float64.
            valid: Which samples count; shape (steps, layers), bool. None if all do.
        """

        def masked(values: Tensor, other: float) -> Tensor:
            return values if valid is None else torch.where(valid, values, other)

        count, mean, sum_sq, low, high = self._each
        added, before, total, weight, share = self._counts(samples.shape[1], valid)
        batch_mean = masked(samples, 0.0).sum(1) * weight
        centred = masked(samples - batch_mean.unsqueeze(1), 0.0)
        shift = batch_mean - mean
        if isinstance(added, Tensor):
            shift = torch.where(added > 0, shift, 0.0)
        sum_sq += centred.square().sum(1) + shift.square() * before * share
        mean += shift * share
        count.copy_(total) if isinstance(total, Tensor) else count.fill_(total)
        torch.minimum(low, masked(samples, torch.inf).amin(1), out=low)
        torch.maximum(high, masked(samples, -torch.inf).amax(1), out=high)

    def _counts(self, steps: int, valid: Tensor | None) -> tuple[Tensor | float, ...]:
        """How many are added, were there, and are now; 1/added, and added/now.

        Numbers on the host as long as everything counts, else tensors.
        """
        if valid is None and self._samples is not None:
            before = self._samples
            self._samples = total = before + steps
            return steps, before, total, 1 / steps, steps / total
        self._samples = None
        count = self._each[0]
        if valid is None:
            added = torch.full_like(count[0], steps)
        else:
            added = valid.sum(0).double()
        sums = count + added
        return added, count, sums, 1 / added.clamp_min(1), added / sums.clamp_min(1)

    def summary(self) -> Tensor:
        """The moments, in the order count, mean, population variance, min, max.

        Returns:
            Tensor: Shape (5, quantities, layers); NaN where nothing was counted.
        """
        count, mean, sum_sq, low, high = self._each
        empty = count == 0
        statistics = torch.stack([mean, sum_sq / count.clamp_min(1), low, high])
        return torch.cat([count.unsqueeze(0), statistics.masked_fill(empty, torch.nan)])

    def send(self) -> HostCopy:
        """Start to copy :meth:`summary` to the host."""
        return self._download.send(self.summary())


class ClippingMoments:
    """Moments of what is kept of clipping: free as long as nothing is clipped.

    Blocks of which it is known ahead are only noted. Should a block of another kind
    come in the same window, they are merged after all.

    Args:
        layers: Number of layers.
        device: Device of the measured values.

    Example:
        >>> cpu = torch.device('cpu')
        >>> from smd_mmdet.monitor.clipping import UNCLIPPED
        >>> moments = ClippingMoments(layers=1, device=cpu)
        >>> block = Block(size=2, layers=1, columns=7, device=cpu)
        >>> block.add(1, torch.zeros(1, 3), None, None, clipped=UNCLIPPED)
        >>> moments.add(block, 1, step=None, valid=None)
        >>> moments.send()
        (1.0, 1.0)
    """

    def __init__(self, layers: int, device: torch.device) -> None:
        self._moments = Moments(len(CLIPPING), layers, device)
        self._noted: list[tuple[Clipped, int, Tensor | None]] = []
        self._begun = False

    def add(
        self, block: Block, steps: int, step: Step | None, valid: Tensor | None
    ) -> None:
        """Merge the block's first steps in.

        Args:
            block: The steps.
            steps: How many of them.
            step: Their inner products, of shape (steps, layers); not needed if it is
                known ahead what is kept.
            valid: Which of them count; see :meth:`Moments.add`.
        """
        same = block.same_clipping(steps)
        if same is not None and not self._begun:
            # A block's tensor is used again.
            self._noted.append((same, steps, None if valid is None else valid.clone()))
        elif step is not None:
            self._merge_noted()
            counted = torch.ones_like(step.gg, dtype=torch.bool)
            samples = clip_samples(
                block.clipped(steps),
                step.gg,
                step.unit_grad_sq,
                counted if valid is None else valid,
            )
            self._moments.add(samples, valid)

    def reset(self) -> None:
        """Forget everything."""
        if self._begun:
            self._moments.reset()
        self._noted, self._begun = [], False

    def send(self) -> HostCopy | Clipped:
        """Start to copy the moments to the host, or tell what is known ahead."""
        first = self._noted[0][0] if self._noted else None
        if first and all(clipped is first for clipped, _, _ in self._noted):
            return first
        self._merge_noted()
        return self._moments.send()

    def values(self) -> Tensor:
        """As :attr:`Moments.values`, with all that was added."""
        self._merge_noted()
        return self._moments.values

    def load(self, values: Tensor) -> None:
        """Continue from :meth:`values` of others."""
        self._noted, self._begun = [], True
        self._moments.load(values)

    def _merge_noted(self) -> None:
        self._begun = True
        values = self._moments.values
        noted, self._noted = self._noted, []
        for (coefficient, _), steps, valid in noted:
            samples = values.new_empty(values.shape[1], steps, values.shape[2])
            # A share, a coefficient, and a power times ‖g̃‖², of what is not clipped.
            for of_step, value in zip(samples, (0.0, 1.0, 0.0), strict=True):
                of_step.fill_(value * float(coefficient))
            self._moments.add(samples, valid)


class WindowMoments:
    """Moments of all that is kept of a window.

    Args:
        quantities: Names of the quantities that are measured; see
            :attr:`.Reader.quantities`. The others are NaN, and cost nothing.
        layers: Number of layers.
        device: Device of the measured values.

    Example:
        >>> moments = WindowMoments(['grad_norm'], 2, torch.device('cpu'))
        >>> [kept for kept in moments.saved()[0, :, 0].shape]  # all that is recorded
        [12]
    """

    def __init__(
        self, quantities: Sequence[str], layers: int, device: torch.device
    ) -> None:
        self.quantities = tuple(quantities)
        self._measured = Moments(len(self.quantities), layers, device)
        self._clipping = ClippingMoments(layers, device)
        self._positions = [list(QUANTITIES).index(name) for name in self.quantities]

    def add(self, block: Block, steps: int, step: Step, valid: Tensor | None) -> None:
        """Merge the block's first steps in.

        Args:
            block: The steps.
            steps: How many of them.
            step: Their inner products; shape (steps, layers).
            valid: Which of them count, shape (steps, layers); None if all do.
        """
        self._measured.add(measure(step, self.quantities), valid)
        self._clipping.add(block, steps, step, valid)

    def reset(self) -> None:
        """Forget everything."""
        self._measured.reset()
        self._clipping.reset()

    def send(self) -> tuple[HostCopy, HostCopy | Clipped]:
        """Start to copy to the host: of the quantities, then of clipping.

        What :meth:`ClippingMoments.send` gives is sent first.
        """
        clipping = self._clipping.send()
        return self._measured.send(), clipping

    def saved(self) -> Tensor:
        """Moments of all quantities and of clipping, for a checkpoint.

        Returns:
            Shape (5, quantities and columns of clipping, layers), float64, on the host.
        """
        measured, clipping = self._measured.values.cpu(), self._clipping.values().cpu()
        count = measured[:, :1]
        unknown = torch.where(count[:1] > 0, torch.nan, _nothing_of(count))
        unknown[0] = count[0]
        quantities = unknown.repeat(1, len(QUANTITIES), 1)
        quantities[:, self._positions] = measured
        return torch.cat([quantities, clipping], 1)

    def load(self, saved: Tensor) -> None:
        """Continue from :meth:`saved`."""
        self._measured.load(saved[:, self._positions])
        self._clipping.load(saved[:, len(QUANTITIES) :])

    def fit(self, saved: Tensor) -> bool:
        """Whether :meth:`saved` is of as many quantities and layers as these."""
        of_all = len(QUANTITIES) + len(CLIPPING)
        return saved.shape == (5, of_all, self._measured.values.shape[2])


def _nothing_of(moments: Tensor) -> Tensor:
    """Moments of the same shape, of nothing."""
    nothing = torch.zeros_like(moments)
    nothing[3], nothing[4] = torch.inf, -torch.inf
    return nothing
