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


class HostCopy:
    """A tensor on its way to the host, without making the device wait.

    Args:
        tensor: Any tensor; on a GPU it is copied to pinned memory.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._event = None
        if tensor.is_cuda:
            self._tensor = torch.empty(
                tensor.shape, dtype=tensor.dtype, device='cpu', pin_memory=True
            )
            self._tensor.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._tensor = tensor.clone()

    @property
    def arrived(self) -> bool:
        """Whether the host can read it without waiting."""
        return self._event is None or self._event.query()

    def numpy(self):
        """The values; waits for them if they have not arrived."""
        if self._event is not None:
            self._event.synchronize()
        return self._tensor.numpy()
