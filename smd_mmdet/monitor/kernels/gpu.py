"""The pass on a GPU: one Triton launch over all layers, and a small one to add up.

The tensors are cut into chunks, and one program takes the products of one chunk. It
reads from a table where the tensors of its layer lie, so that one launch serves any
number of layers. The products of a layer's chunks are then added in an order that does
not change, without atomics. With ``TRITON_INTERPRET=1`` the same programs run on
tensors of the CPU.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

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

__all__ = ['Table', 'available', 'supports', 'table', 'write']

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
    try:
        _launch([layer[i] for i in range(3) for layer in layers], rows, out)
    except Exception as fault:  # it compiles at the first launch: no compiler, say
        _give_up(fault)
        plain.write(layers, rows, out)


def table(layers: list[Layer], out: Tensor) -> Table | None:
    """What does not change between passes; for the arguments see :func:`.cpu.table`.

    Returns:
        None if there is a dtype that Triton does not read.
    """
    tensors = [layer[i] for i in range(3) for layer in layers]
    if not _DTYPES.issuperset([tensor.dtype for tensor in tensors]):
        return None
    return Table(_plan_for(tensors, [1] * len(layers), out.device))


class Table:
    """A plan for the layers of a pass that is made again and again.

    Args:
        plan: What the launches need besides the addresses.
    """

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan

    def write(self, addresses: list[int], out: Tensor) -> bool:
        """Write the inner products; see :meth:`.cpu.Table.write`.

        Returns:
            Whether they are written: not, if Triton fails.
        """
        if _fault is not None:
            return False
        try:
            self._plan.launch(addresses, out)
        except Exception as fault:
            _give_up(fault)
        return _fault is None


_fault: Exception | None = None


def _give_up(fault: Exception) -> None:
    global _fault
    _fault = fault
    warnings.warn(
        "Triton does not run here, torch's operations measure instead: "
        f'{type(fault).__name__}: {fault}',
        RuntimeWarning,
        stacklevel=3,
    )


def _launch(tensors: list[Tensor], rows: list[int], out: Tensor) -> None:
    """Read three columns of tensors: w of all layers, then g, then v."""
    if not _DTYPES.issuperset([tensor.dtype for tensor in tensors]):
        tensors = [tensor.float() for tensor in tensors]  # float8, say
    plan = _plan_for(tensors, rows, out.device)
    plan.launch([tensor.data_ptr() for tensor in tensors], out)


# ------------------------------------------------- what stays from step to step


class Launcher:
    """Starts a Triton program again and again.

    At each launch Triton looks the compiled program up by what its arguments are like,
    which takes the host longer than all the rest of a step. From the second launch on
    the compiled program is started itself. Where it cannot be (in the interpreter, or
    in a Triton whose compiled programs take other arguments), Triton looks it up.

    Args:
        program: The program.
        grid: How many of it run, in one to three dimensions.
    """

    def __init__(self, program: Any, grid: tuple[int, ...]) -> None:
        self._program, self._grid = program, grid
        self._compiled: dict[Hashable, Callable[..., object] | None] = {}

    def start(self, alike: Hashable, *args: object) -> None:
        """Start the program.

        Args:
            alike: Differs where Triton would compile the program anew: for another
                constant, or an address or number that divides by 16 or does not.
            args: All of its arguments, constants too, in order.
        """
        compiled = self._compiled.get(alike)
        if compiled is not None:
            try:
                compiled(*args)
            except TypeError:
                self._compiled[alike] = None
            else:
                return
        found = self._program[self._grid](*args)
        if alike not in self._compiled:
            whole = (*self._grid, 1, 1)[:3]
            there = hasattr(found, '__getitem__')
            self._compiled[alike] = found[whole] if there else None


@dataclass
class _Plan:
    """What a launch needs besides the addresses, which change with the gradients.

    Args:
        launches: One launch for all layers of the same dtypes, each a tuple of four:
            the dtypes of w, g and v; the number of its chunks, as a grid; the layer,
            first element and end of every chunk, shape (chunks, 3); and how many chunks
            the launches before it have.
        even: Whether every chunk begins at a multiple of 16 elements.
        spans: First chunk and end of every row, shape (rows, 2).
        partial: Products of every chunk, shape (chunks, 6), float64.
        upload: Takes the addresses to the device.
        addresses: The addresses that are on the device now.
        aligned: Whether all of them, and ``even``, let a chunk begin at a multiple of
            16 bytes.
        captured: Addresses on the host that CUDA graphs copy at every replay.
    """

    launches: list[tuple[tuple, tuple[int], Tensor, int]]
    even: bool
    spans: Tensor
    partial: Tensor
    upload: Upload
    addresses: list[int] = field(default_factory=list)
    aligned: bool = False
    captured: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = len(self.spans)
        # The launchers of the programs, made when Triton is first needed.
        self._products: list[Launcher] = []
        self._sums: Launcher | None = None

    def launch(self, addresses: list[int], out: Tensor) -> None:
        """Start the pass.

        Args:
            addresses: Where w of every layer lies, then g, then v.
            out: The products; shape (rows of all layers, 6), float64, overwritten.
        """
        if not self.rows:
            return
        from . import programs  # imports Triton

        if self._sums is None:
            self._products = [
                Launcher(programs.chunk_products, grid)
                for _, grid, _, _ in self.launches
            ]
            self._sums = Launcher(programs.row_sums, (self.rows, 6))
        pointers, partial, aligned = self.tables(addresses)
        with torch.cuda.device_of(out):
            for launcher, launch in zip(self._products, self.launches, strict=True):
                dtypes, _, chunks, first = launch
                wide = torch.float64 if torch.float64 in dtypes else torch.float32
                launcher.start(
                    aligned,
                    pointers,
                    chunks,
                    partial[first:] if first else partial,
                    *[programs.DTYPES[dtype] for dtype in (*dtypes, wide)],
                    aligned,
                    BLOCK,
                )
            strides = out.stride()
            self._sums.start(
                (out.data_ptr() % 16, strides),
                *(partial, self.spans, out, *strides, SUM_BLOCK),
            )

    def tables(self, addresses: list[int]) -> tuple[Tensor, Tensor, bool]:
        """Send the addresses to the device if they have changed.

        Args:
            addresses: Where w of every layer lies, then g, then v.

        Returns:
            The addresses on the device, where the products of the chunks go, and
            whether every chunk begins at a multiple of 16 bytes.
        """
        if self.partial.is_cuda and torch.cuda.is_current_stream_capturing():
            return self._captured_tables(addresses)
        if addresses != self.addresses:
            table = np.array(addresses, np.int64)
            self.aligned = self._are_aligned(table)
            self.upload.send(_by_layer(table))
            self.addresses = addresses
        return self.upload.values, self.partial, self.aligned

    def _are_aligned(self, addresses: np.ndarray) -> bool:
        return self.even and not np.bitwise_or.reduce(addresses) & 15

    def _captured_tables(self, addresses: list[int]) -> tuple[Tensor, Tensor, bool]:
        # A graph reads these tensors at every replay, whatever is measured in between,
        # so they are its own.
        table = np.array(addresses, np.int64)
        host = _by_layer(table).pin_memory()
        self.captured.append(host)
        pointers = host.to(self.partial.device, non_blocking=True)
        return pointers, torch.empty_like(self.partial), self._are_aligned(table)


def _by_layer(addresses: np.ndarray) -> Tensor:
    """Those of each layer side by side, as the programs look them up."""
    return torch.from_numpy(addresses.reshape(3, -1).T.ravel())


_plans: dict[Hashable, _Plan] = {}


def _plan_for(tensors: list[Tensor], rows: list[int], device: torch.device) -> _Plan:
    # Looked up at every step: lists, and no more calls than there are tensors.
    layers = len(rows)
    sizes = [w.numel() for w in tensors[:layers]]
    dtypes = [tensor.dtype for tensor in tensors]
    key = (device, tuple(rows), tuple(sizes), tuple(dtypes))
    plan = _plans.get(key)
    if plan is None:
        # A captured graph goes on reading the tables of its plan, which has to stay.
        idle = [old for old, plan in _plans.items() if not plan.captured]
        if len(idle) >= MAX_PLANS:
            del _plans[idle[0]]
        columns = (dtypes[i * layers : (i + 1) * layers] for i in range(3))
        of_layers = list(zip(*columns, strict=True))
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
            on_device = to_device(torch.from_numpy(chunks), device)
            launches.append((kind, (len(chunks),), on_device, first))
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
