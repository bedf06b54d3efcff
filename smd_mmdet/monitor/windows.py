"""Reduction of a window of iterations to count, mean, variance, minimum, maximum."""

import torch
from torch import Tensor


class Moments:
    """Running moments over iterations, kept on the device.

    Args:
        quantities: Number of quantities.
        layers: Number of layers.
        device: Where the measured values are.
    """

    NAMES = ('count', 'mean', 'sum_sq', 'min', 'max')

    def __init__(self, quantities: int, layers: int, device: torch.device) -> None:
        self.values = torch.empty(
            len(self.NAMES), quantities, layers, dtype=torch.float64, device=device
        )
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.values.zero_()
        self.values[3].fill_(torch.inf)
        self.values[4].fill_(-torch.inf)

    def add(self, samples: Tensor, valid: Tensor) -> None:
        """Merge samples in, by the pairwise update of Chan et al. (1979).

        Args:
            samples: Shape (quantities, iterations, layers), float64.
            valid: Shape (iterations, layers), bool; the others are not counted.
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
