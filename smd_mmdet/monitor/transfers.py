"""Copies between host and device that make neither wait for the other."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ['Download', 'HostCopy', 'Upload', 'to_device']


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy values that are sent only once to the device.

    Args:
        values: Values on the host.
        device: Device that they go to.

    Returns:
        Tensor: The values on the device.

    Example:
        >>> to_device(torch.tensor([1, 2]), torch.device('cpu'))
        tensor([1, 2])
    """
    if device.type != 'cuda':
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


class _Pinned:
    """Page-locked memory, and whether the device is done with it."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.tensor = torch.zeros(shape, dtype=dtype, pin_memory=True)
        self._event = torch.cuda.Event()

    def in_use(self) -> None:
        """Mark as in use until what is queued on the current stream is done."""
        self._event.record()

    @property
    def free(self) -> bool:
        """Whether the device has come past its last use."""
        return self._event.query()

    def wait(self) -> None:
        """Wait for the device to come past its last use."""
        self._event.synchronize()


class Upload:
    """Small host values that a device needs again and again.

    Args:
        shape: Shape of the values.
        dtype: Data type of the values.
        device: Device that they go to.

    Attributes:
        values: On the device, what was sent last; 0 before.

    Example:
        >>> upload = Upload((2,), torch.float64, torch.device('cpu'))
        >>> values = torch.tensor([1.0, 2.0]).double()
        >>> sent = upload.send(values)
        >>> values.zero_()
        tensor([0., 0.], dtype=torch.float64)
        >>> sent
        tensor([1., 2.], dtype=torch.float64)
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self._slots: list[_Pinned] = []
        if device.type == 'cuda':
            self._slots = [_Pinned(shape, dtype) for _ in range(2)]

    def send(self, values: Tensor) -> Tensor:
        """Copy values to the device.

        Args:
            values: Values on the host; may be overwritten as soon as this returns. The
                first dimension may be smaller.

        Returns:
            Tensor: The values on the device, until the next call.
        """
        whole = values.shape == self.values.shape
        sent = self.values if whole else self.values[: len(values)]
        if not self._slots:
            return sent.copy_(values)
        # The buffer used longest ago. If the device is so far behind that it still
        # needs it, another is made.
        if not self._slots[0].free:
            self._slots.insert(0, _Pinned(self.values.shape, self.values.dtype))
        slot = self._slots.pop(0)
        part = slot.tensor[: len(values)].copy_(values)
        sent.copy_(part, non_blocking=True)
        slot.in_use()
        self._slots.append(slot)
        return sent


class Download:
    """Device values for the host, through buffers that are used again.

    Args:
        shape: Shape of the values.
        device: Device that they come from.

    Example:
        >>> download = Download((2,), torch.device('cpu'))
        >>> copy = download.send(torch.tensor([1.0, 2.0]).double())
        >>> copy.arrived, copy.numpy()
        (True, array([1., 2.]))
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self._shape = shape
        self._free: list[_Pinned] = []
        if device.type == 'cuda':
            self._free = [_Pinned(shape, torch.float64) for _ in range(2)]

    def send(self, values: Tensor) -> HostCopy:
        """Start to copy float64 values to the host."""
        if not values.is_cuda:
            return HostCopy(values.numpy().copy(), self._free)
        buffer = self._free.pop() if self._free else _Pinned(self._shape, torch.float64)
        buffer.tensor.copy_(values, non_blocking=True)
        buffer.in_use()
        return HostCopy(buffer, self._free)


class HostCopy:
    """Values on their way to the host.

    Args:
        source: The values, or the buffer where they arrive.
        free: List of free buffers, where the buffer goes once it is read.

    Example:
        >>> copy = HostCopy(np.array([1.0, 2.0]), [])
        >>> copy.arrived, copy.numpy()
        (True, array([1., 2.]))
    """

    def __init__(self, source: np.ndarray | _Pinned, free: list[_Pinned]) -> None:
        self._source, self._free = source, free

    @property
    def arrived(self) -> bool:
        """Whether the host can read the values without waiting."""
        return not isinstance(self._source, _Pinned) or self._source.free

    def numpy(self) -> np.ndarray:
        """The values; waits for them if they have not arrived."""
        if isinstance(self._source, _Pinned):
            buffer = self._source
            buffer.wait()
            self._source = buffer.tensor.numpy().copy()
            self._free.append(buffer)
        return self._source
