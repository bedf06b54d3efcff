"""Inner products of (w, g, v) for many layers: the only pass over the weights."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

# Columns of a Gram row.
WW, WG, WV, GG, GV, VV = range(6)

# A float32 dot product loses digits with its length, and the angle loses them
# again by (radial / tangential)². Within a chunk of this many elements the sum is
# the library's float32 one, over chunks it is float64; a chunk of w, g and v also
# stays in a core's cache while its products are taken.
CPU_CHUNK = 65536


@torch.no_grad()
def gram(layers: Iterable[tuple[Tensor, Tensor, Tensor]], out: Tensor) -> None:
    """Write the six inner products of every layer's (w, g, v).

    Args:
        layers: Per layer three tensors of one shape, any floating dtype and
            memory layout.
        out: Shape (layers, 6), float64: ⟨w,w⟩, ⟨w,g⟩, ⟨w,v⟩, ⟨g,g⟩, ⟨g,v⟩,
            ⟨v,v⟩, overwritten.
    """
    products = defaultdict(list)
    rows = defaultdict(list)
    for row, layer in enumerate(layers):
        for w, g, v in _chunks(layer):
            rows[w.dtype].append(row)
            products[w.dtype] += (
                torch.dot(w, w),
                torch.dot(w, g),
                torch.dot(w, v),
                torch.dot(g, g),
                torch.dot(g, v),
                torch.dot(v, v),
            )
    out.zero_()
    for dtype, values in products.items():
        index = _index(tuple(rows[dtype]), out.device)
        values = torch.stack(values).to(out.device, torch.float64, non_blocking=True)
        out.index_add_(0, index, values.view(-1, 6))


@torch.no_grad()
def filter_gram(layers: Iterable[tuple[Tensor, Tensor, Tensor]], out: Tensor) -> None:
    """Write the six inner products of every filter's (w, g, v).

    Args:
        layers: Per layer three tensors of one shape; a filter is a slice of the
            first dimension.
        out: Shape (filters of all layers, 6), float64, as for :func:`gram`.
    """
    begin = 0
    for layer in layers:
        filters = layer[0].shape[0]
        w, g, v = (_wide(tensor.reshape(filters, -1)) for tensor in layer)
        pairs = ((w, w), (w, g), (w, v), (g, g), (g, v), (v, v))
        for column, (a, b) in enumerate(pairs):
            out[begin : begin + filters, column] = torch.linalg.vecdot(a, b)
        begin += filters


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _chunks(layer: tuple[Tensor, Tensor, Tensor]) -> Iterable[tuple[Tensor, ...]]:
    w = layer[0]
    # A GPU reduces in a tree, which keeps the digits; there a chunk is a launch.
    size = CPU_CHUNK if w.device.type == 'cpu' else max(w.numel(), 1)
    flat = [_wide(tensor) for tensor in _flat(layer)]
    return zip(*(tensor.split(size) for tensor in flat), strict=True)


def _flat(layer: tuple[Tensor, ...]) -> list[Tensor]:
    """Flat tensors that pair the same elements, views where the layouts agree."""
    if all(tensor.is_contiguous() for tensor in layer):
        return [tensor.view(-1) for tensor in layer]
    # The same transpose of all three pairs elements as well, and lays a
    # channels_last weight flat without a copy.
    stride = layer[0].stride()
    order = sorted(range(layer[0].ndim), key=lambda d: -stride[d])
    return [tensor.permute(order).reshape(-1) for tensor in layer]


_indices: dict[tuple, Tensor] = {}


def _index(rows: tuple[int, ...], device: torch.device) -> Tensor:
    """The row numbers on the device, copied there once: a copy would wait for it."""
    key = (rows, device)
    if key not in _indices:
        if len(_indices) > 64:
            _indices.clear()
        _indices[key] = torch.tensor(rows, device=device)
    return _indices[key]
