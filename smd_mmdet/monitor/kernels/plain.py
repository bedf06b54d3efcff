"""The pass by torch's operations: slower, and on any device."""

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor

from smd_mmdet.monitor.transfers import to_device

from .layout import Layer, widen

__all__ = ['write']

# A float32 dot product loses digits as it gets longer, and the angle loses digits
# again by the factor (radial part / tangential part)². So within a chunk of this many
# elements the sum is torch's float32 one, and over chunks it is float64. A chunk of w,
# g and v also stays in a core's cache while its products are taken.
CPU_CHUNK = 65536

_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


def write(layers: list[Layer], rows: list[int], out: Tensor) -> None:
    """Write the inner products of every row; for the arguments see :func:`.cpu.write`.

    Example:
        >>> out = torch.zeros(1, 6).double()
        >>> write([tuple(torch.tensor([[1.0], [2.0], [3.0]]))], [1], out)
        >>> out.tolist()
        [[1.0, 2.0, 3.0, 4.0, 6.0, 9.0]]
    """
    if all(number == 1 for number in rows):
        _write_layers(layers, out)
        return
    begin = 0
    for layer, number in zip(layers, rows, strict=True):
        parts = (
            [tensor.reshape(number, -1) for tensor in widen(layer)] if number else ()
        )
        for column, (a, b) in enumerate(_PAIRS if parts else ()):
            product = torch.linalg.vecdot(parts[a], parts[b])
            out[begin : begin + number, column].copy_(product, non_blocking=True)
        begin += number


def _write_layers(layers: list[Layer], out: Tensor) -> None:
    products: dict[torch.dtype, list[Tensor]] = defaultdict(list)
    rows: dict[torch.dtype, list[int]] = defaultdict(list)
    for row, layer in enumerate(layers):
        for chunk in _chunks(widen(layer)):
            dtype = chunk[0].dtype
            rows[dtype].append(row)
            products[dtype] += [torch.dot(chunk[a], chunk[b]) for a, b in _PAIRS]
    out.zero_()
    for dtype, values in products.items():
        index = _index(tuple(rows[dtype]), out.device)
        values = [value.to(out.device, non_blocking=True) for value in values]
        out.index_add_(0, index, torch.stack(values).double().view(-1, 6))


def _chunks(layer: Layer) -> Iterator[tuple[Tensor, ...]]:
    w = layer[0]
    # A GPU adds in a tree, which keeps the digits, and there every chunk would cost a
    # launch: the whole layer is one chunk.
    size = CPU_CHUNK if w.device.type == 'cpu' else max(w.numel(), 1)
    flat = [tensor.view(-1) for tensor in layer]
    return zip(*(tensor.split(size) for tensor in flat), strict=True)


_indices: dict[tuple, Tensor] = {}


def _index(rows: tuple[int, ...], device: torch.device) -> Tensor:
    """The row numbers on the device, copied there once: a copy would wait for it."""
    key = (rows, device)
    if key not in _indices:
        if len(_indices) > 64:
            _indices.clear()
        _indices[key] = to_device(torch.tensor(rows), device)
    return _indices[key]
