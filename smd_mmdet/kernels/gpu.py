"""The pass on a GPU: one Triton launch over all layers, and a small one to add up.

A program reads from a table where the tensors of its layer are, so that one launch
serves any number of layers. Sums are added in an order that does not change, without
atomics. With ``TRITON_INTERPRET=1`` the same programs run on tensors of the CPU.
"""

import importlib.util
import warnings
from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from smd_mmdet.transfers import Upload, to_device

from . import plain
from .layout import Layer

# Elements that a program reads, and how many at a time.
CHUNK, BLOCK = 16384, 1024
# Chunks whose products a program adds at a time.
SUM_BLOCK = 256
# Sets of layers whose tables are kept.
MAX_PLANS = 16

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def supports(device: torch.device) -> bool:
    """Whether tensors on a device are read here."""
    return device.type == 'cuda' and available()


def available() -> bool:
    """Whether Triton is there, and has not failed on this machine."""
    return _fault is None and importlib.util.find_spec('triton') is not None


def write(layers: list[Layer], rows: list[int], out: Tensor) -> None:
    """Write the inner products of every row; see :func:`.cpu.write`.

    In a CUDA graph that is captured, layers of these sizes must have been measured
    once before.
    """
    global _fault
    try:
        _launch([_readable(layer) for layer in layers], rows, out)
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


def _readable(layer: Layer) -> Layer:
    if all(tensor.dtype in _DTYPES for tensor in layer):
        return layer
    w, g, v = layer
    return w.float(), g.float(), v.float()  # float8, say


def _launch(layers: list[Layer], rows: list[int], out: Tensor) -> None:
    from . import programs  # imports Triton

    plan = _plan_for(layers, rows, out.device)
    if not plan.spans.numel():
        return
    addresses = tuple(tensor.data_ptr() for layer in layers for tensor in layer)
    aligned = plan.aligned and not any(address % 16 for address in addresses)
    pointers, partial = plan.tables(addresses)
    with torch.cuda.device_of(out):
        for dtypes, first, count in plan.launches:
            wide = torch.float64 if torch.float64 in dtypes else torch.float32
            programs.chunk_products[(count,)](
                pointers,
                plan.chunks[first:],
                partial[first:],
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
        launches: (dtypes of w, g and v; first chunk; number of chunks): one launch
            for all layers of the same dtypes.
        aligned: Whether every chunk begins at a multiple of 16 elements.
        chunks: Shape (chunks, 3): layer, first element, end.
        spans: Shape (rows, 2): first chunk, end.
        partial: Shape (chunks, 6), float64: products of each chunk.
        upload: Takes the addresses to the device.
    """

    launches: list[tuple[tuple, int, int]]
    aligned: bool
    chunks: Tensor
    spans: Tensor
    partial: Tensor
    upload: Upload
    addresses: tuple[int, ...] = ()
    pointers: Tensor | None = None
    captured: list[Tensor] = field(default_factory=list)

    def tables(self, addresses: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The addresses on the device, sent if they have changed; partial sums."""
        if self.chunks.is_cuda and torch.cuda.is_current_stream_capturing():
            return self._captured_tables(addresses)
        if addresses != self.addresses:
            self.pointers = self.upload.send(torch.tensor(addresses))
            self.addresses = addresses
        return self.pointers, self.partial

    def _captured_tables(self, addresses: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        # A graph reads them at every replay, whatever is measured in between.
        host = torch.tensor(addresses).pin_memory()
        self.captured.append(host)
        pointers = host.to(self.chunks.device, non_blocking=True)
        return pointers, torch.empty_like(self.partial)


_plans: dict[Hashable, _Plan] = {}


def _plan_for(layers: list[Layer], rows: list[int], device: torch.device) -> _Plan:
    sizes = [layer[0].numel() for layer in layers]
    dtypes = [tuple(tensor.dtype for tensor in layer) for layer in layers]
    key = (device, tuple(rows), tuple(sizes), tuple(dtypes))
    if key not in _plans:
        # A captured graph reads the tables of its plan.
        idle = [old for old, plan in _plans.items() if not plan.captured]
        if len(idle) >= MAX_PLANS:
            del _plans[idle[0]]
        _plans[key] = _make_plan(sizes, rows, dtypes, device)
    return _plans[key]


def _make_plan(
    sizes: list[int], rows: list[int], dtypes: list[tuple], device: torch.device
) -> _Plan:
    parts: list[np.ndarray] = []
    launches, aligned = [], True
    spans: list = [None] * len(sizes)
    for kind in dict.fromkeys(dtypes):
        first = sum(len(part) for part in parts)
        for layer in (i for i, other in enumerate(dtypes) if other == kind):
            begin = sum(len(part) for part in parts)
            part, spans[layer] = _chunks_of(layer, sizes[layer], rows[layer])
            aligned &= not (part[:, 1] % 16).any()
            spans[layer] += begin
            parts.append(part)
        count = sum(len(part) for part in parts) - first
        if count:
            launches.append((kind, first, count))
    chunks = np.concatenate([np.empty((0, 3), np.int64), *parts])
    rows_of = np.concatenate([np.empty((0, 2), np.int64), *spans])
    return _Plan(
        launches,
        bool(aligned),
        to_device(torch.from_numpy(chunks), device),
        to_device(torch.from_numpy(rows_of), device),
        torch.empty(len(chunks), 6, dtype=torch.float64, device=device),
        Upload((3 * len(sizes),), torch.int64, device),
    )


def _chunks_of(layer: int, size: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """(layer, begin, end) of a layer's chunks; (first chunk, end) of its rows."""
    length = size // max(rows, 1)
    per_row = -(-length // CHUNK)
    row, chunk = np.divmod(np.arange(rows * per_row), max(per_row, 1))
    begin = row * length + chunk * CHUNK
    end = np.minimum(begin + CHUNK, (row + 1) * length)
    chunks = np.stack([np.full_like(begin, layer), begin, end], 1)
    first = np.arange(rows) * per_row
    return chunks, np.stack([first, first + per_row], 1)
