"""Copies between host and device that make neither wait for the other."""

import numpy as np
import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Values of the host on the device; for what is sent once."""
    if device.type != 'cuda':
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


class _Pinned:
    """Page-locked memory, and whether the device is done with it."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.tensor = torch.zeros(shape, dtype=dtype, pin_memory=True)
        self._event = torch.cuda.Event()

    def in_use(self) -> None:
        """Until what is queued on the current stream is done."""
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
        shape: Of the values.
        dtype: Of the values.
        device: Where they go.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> None:
        self._values = torch.zeros(shape, dtype=dtype, device=device)
        self._slots = []
        if device.type == 'cuda':
            self._slots = [_Pinned(shape, dtype) for _ in range(2)]

    def send(self, values: Tensor) -> Tensor:
        """Copy values to the device.

        Args:
            values: On the host; may be overwritten as soon as this returns.

        Returns:
            Tensor: The values on the device, until the next call.
        """
        if not self._slots:
            return self._values.copy_(values)
        # The one used longest ago; a device far behind the host gets another.
        if not self._slots[0].free:
            self._slots.insert(0, _Pinned(values.shape, values.dtype))
        slot = self._slots.pop(0)
        slot.tensor.copy_(values)
        self._values.copy_(slot.tensor, non_blocking=True)
        slot.in_use()
        self._slots.append(slot)
        return self._values


class Download:
    """Device values for the host, through buffers that are used again.

    Args:
        shape: Of the values.
        device: Where they come from.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self._shape = shape
        self._free = []
        if device.type == 'cuda':
            self._free = [_Pinned(shape, torch.float64) for _ in range(2)]

    def send(self, values: Tensor) -> 'HostCopy':
        """Start to copy float64 values to the host."""
        if not values.is_cuda:
            return HostCopy(values.numpy().copy())
        buffer = self._free.pop() if self._free else _Pinned(self._shape, torch.float64)
        buffer.tensor.copy_(values, non_blocking=True)
        buffer.in_use()
        return HostCopy(None, buffer, self._free)


class HostCopy:
    """Values on their way to the host.

    Args:
        values: Those that need no way.
        buffer: Where the others arrive.
        free: Where the buffer goes once it is read.
    """

    def __init__(
        self,
        values: np.ndarray | None,
        buffer: _Pinned | None = None,
        free: list | None = None,
    ) -> None:
        self._values, self._buffer, self._free = values, buffer, free

    @property
    def arrived(self) -> bool:
        """Whether the host can read them without waiting."""
        return self._buffer is None or self._buffer.free

    def numpy(self) -> np.ndarray:
        """The values; waits for them if they have not arrived."""
        if self._buffer is not None:
            self._buffer.wait()
            self._values = self._buffer.tensor.numpy().copy()
            self._free.append(self._buffer)
            self._buffer = None
        return self._values
