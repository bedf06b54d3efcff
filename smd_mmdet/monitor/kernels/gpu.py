"""The pass on a GPU: one Triton launch over all layers, and a small one to add up.

The tensors are cut into chunks, and one program takes the products of one chunk. It
reads from a table where the tensors of its layer lie, so that one launch serves any
number of layers. The products of a layer's chunks are then added in an order that does
not change, without atomics. With ``TRITON_INTERPRET=1`` the same programs run on
tensors of the CPU.
"""

import importlib.util
import warnings
from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from smd_mmdet.monitor.transfers import Upload, to_device

from . import plain
from .layout import Layer

# Elements that a program reads (a chunk), and how many of them at a time.
CHUNK, BLOCK = 16384, 1024
# Chunks whose products a program adds at a time.
SUM_BLOCK = 256
# Sets of layers whose tables are kept.
MAX_PLANS = 16

__all__ = ['available', 'supports', 'write']

_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def supports(device: torch.device) -> bool:
    """Whether tensors on a device are read here.

    Example:
        >>> supports(torch.device('cpu'))
        False
    """
    return device.type == 'cuda' and available()


def available() -> bool:
    """Whether Triton is there, and has not failed on this machine."""
    return _fault is None and importlib.util.find_spec('triton') is not None


def write(layers: list[Layer], rows: list[int], out: Tensor) -> None:
    """Write the inner products of every row; for the arguments see :func:`.cpu.write`.

    Before this is captured in a CUDA graph, layers of these sizes must have been
    measured once.
    """
    global _fault
    try:
        _launch([tensor for layer in layers for tensor in layer], rows, out)
    except Exception as fault:  # it compiles at the first launch: no compiler, say
        _fault = fault
        warnings.warn(
            "Triton does not run here, torch's operations measure instead: "
            f'{type(fault).__name__}: {fault}',
            RuntimeWarning,
            stacklevel=2,
        )
        plain.write(layers, rows, out)


_fault: Exception | None = None


def _launch(tensors: list[Tensor], rows: list[int], out: Tensor) -> None:
    """Read w, g and v of the first layer, then of the next, and so on."""
    from . import programs  # imports Triton

    if not _DTYPES.issuperset([tensor.dtype for tensor in tensors]):
        tensors = [tensor.float() for tensor in tensors]  # float8, say
    plan = _plan_for(tensors, rows, out.device)
    if not plan.spans.numel():
        return
    pointers, partial, aligned = plan.tables([t.data_ptr() for t in tensors])
    with torch.cuda.device_of(out):
        for dtypes, chunks, first in plan.launches:
            wide = torch.float64 if torch.float64 in dtypes else torch.float32
            programs.chunk_products[(len(chunks),)](
                pointers,
                chunks,
                partial[first:] if first else partial,
                *(programs.DTYPES[dtype] for dtype in (*dtypes, wide)),
                ALIGNED=aligned,
                BLOCK=BLOCK,
            )
        programs.row_sums[(len(plan.spans), 6)](
            partial, plan.spans, out, *out.stride(), BLOCK=SUM_BLOCK
        )


# ------------------------------------------------- what stays from step to step


@dataclass
class _Plan:
    """What a launch needs besides the addresses, which change with the gradients.

    Args:
        launches: One launch for all layers of the same dtypes, each a tuple of three:
            the dtypes of w, g and v; the layer, first element and end of every chunk,
            shape (chunks, 3); and how many chunks the launches before it have.
        even: Whether every chunk begins at a multiple of 16 elements.
        spans: First chunk and end of every row, shape (rows, 2).
        partial: Products of every chunk, shape (chunks, 6), float64.
        upload: Takes the addresses to the device.
        addresses: The addresses that are on the device now.
        aligned: Whether all of them, and ``even``, let a chunk begin at a multiple of
            16 bytes.
        captured: Addresses on the host that CUDA graphs copy at every replay.
    """

    launches: list[tuple[tuple, Tensor, int]]
    even: bool
    spans: Tensor
    partial: Tensor
    upload: Upload
    addresses: list[int] = field(default_factory=list)
    aligned: bool = False
    captured: list[Tensor] = field(default_factory=list)

    def tables(self, addresses: list[int]) -> tuple[Tensor, Tensor, bool]:
        """Send the addresses to the device if they have changed.

        Args:
            addresses: Where w, g and v of every layer lie.

        Returns:
            The addresses on the device, where the products of the chunks go, and
            whether every chunk begins at a multiple of 16 bytes.
        """
        if self.partial.is_cuda and torch.cuda.is_current_stream_capturing():
            return self._captured_tables(addresses)
        if addresses != self.addresses:
            self.aligned = self._are_aligned(addresses)
            self.upload.send(torch.tensor(addresses))
            self.addresses = addresses
        return self.upload.values, self.partial, self.aligned

    def _are_aligned(self, addresses: list[int]) -> bool:
        return self.even and not any(address % 16 for address in addresses)

    def _captured_tables(self, addresses: list[int]) -> tuple[Tensor, Tensor, bool]:
        # A graph reads these tensors at every replay, whatever is measured in between,
        # so they are its own.
        host = torch.tensor(addresses).pin_memory()
        self.captured.append(host)
        pointers = host.to(self.partial.device, non_blocking=True)
        return pointers, torch.empty_like(self.partial), self._are_aligned(addresses)


_plans: dict[Hashable, _Plan] = {}


def _plan_for(tensors: list[Tensor], rows: list[int], device: torch.device) -> _Plan:
    # Looked up at every step: lists, and no more calls than there are tensors.
    sizes = [w.numel() for w in tensors[::3]]
    dtypes = [tensor.dtype for tensor in tensors]
    key = (device, tuple(rows), tuple(sizes), tuple(dtypes))
    plan = _plans.get(key)
    if plan is None:
        # A captured graph goes on reading the tables of its plan, which has to stay.
        idle = [old for old, plan in _plans.items() if not plan.captured]
        if len(idle) >= MAX_PLANS:
            del _plans[idle[0]]
        of_layers = list(zip(*(dtypes[i::3] for i in range(3)), strict=True))
        plan = _plans[key] = _make_plan(sizes, rows, of_layers, device)
    return plan


def _make_plan(
    sizes: list[int], rows: list[int], dtypes: list[tuple], device: torch.device
) -> _Plan:
    kinds: dict[tuple, list[np.ndarray]] = {kind: [] for kind in dtypes}
    spans: list = [None] * len(sizes)
    total = 0
    for kind, parts in kinds.items():
        for layer in (i for i, other in enumerate(dtypes) if other == kind):
            part, span = _chunks_of(layer, sizes[layer], rows[layer])
            spans[layer] = span + total
            total += len(part)
            parts.append(part)
    launches, first, even = [], 0, True
    for kind, parts in kinds.items():
        chunks = np.concatenate(parts)
        even &= not (chunks[:, 1] % 16).any()
        if len(chunks):
            launches.append((kind, to_device(torch.from_numpy(chunks), device), first))
        first += len(chunks)
    return _Plan(
        launches,
        bool(even),
        to_device(
            torch.from_numpy(np.concatenate([np.empty((0, 2), np.int64), *spans])),
            device,
        ),
        torch.empty(total, 6, dtype=torch.float64, device=device),
        Upload((3 * len(sizes),), torch.int64, device),
    )


def _chunks_of(layer: int, size: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a layer into chunks that do not reach from one row into the next.

    Args:
        layer: Position of the layer.
        size: Number of its elements.
        rows: Number of its rows.

    Returns:
        Layer, first element and end of every chunk, shape (chunks, 3); first chunk
        and end of every row, shape (rows, 2).
    """
    length = size // max(rows, 1)
    per_row = -(-length // CHUNK)
    row, chunk = np.divmod(np.arange(rows * per_row), max(per_row, 1))
    begin = row * length + chunk * CHUNK
    end = np.minimum(begin + CHUNK, (row + 1) * length)
    chunks = np.stack([np.full_like(begin, layer), begin, end], 1)
    first = np.arange(rows) * per_row
    return chunks, np.stack([first, first + per_row], 1)
