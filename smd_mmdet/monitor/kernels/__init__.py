"""Inner products of (w, g, v) for many layers: the only pass over the weights.

There are three ways, and where the tensors lie decides between them: on a CPU a small C
library (:mod:`.cpu`), on a GPU one Triton launch (:mod:`.gpu`), and torch's operations
(:mod:`.plain`) wherever the library was not built, Triton is missing, or the layers are
spread over devices.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from . import cpu, gpu, plain
from .layout import Layer, lay_flat

__all__ = ['GG', 'GV', 'VV', 'WG', 'WV', 'WW', 'filter_gram', 'gram', 'squared_norms']

# Columns of a Gram row.
WW, WG, WV, GG, GV, VV = range(6)


@torch.no_grad()
def gram(layers: Iterable[Layer], out: Tensor) -> None:
    """Write the six inner products of every layer's (w, g, v).

    The result is the same to the bit for the same tensors, and on a CPU for any
    number of threads. It does not wait for the device.

    Args:
        layers: Per layer three tensors of one shape, any floating dtype and
            memory layout.
        out: The products ⟨w,w⟩, ⟨w,g⟩, ⟨w,v⟩, ⟨g,g⟩, ⟨g,v⟩ and ⟨v,v⟩; shape
            (layers, 6), float64, overwritten.

    Example:
        >>> w, g, v = torch.tensor([3.0, 4.0]), torch.ones(2), torch.zeros(2)
        >>> out = torch.empty(1, 6, dtype=torch.float64)
        >>> gram([(w, g, v)], out)
        >>> out[0, WW].item(), out[0, WG].item()
        (25.0, 7.0)
    """
    flat = [lay_flat(layer) for layer in layers]
    _write(flat, [1] * len(flat), out)


@torch.no_grad()
def filter_gram(layers: Iterable[Layer], out: Tensor) -> None:
    """Write the six inner products of every filter's (w, g, v).

    Args:
        layers: Per layer three tensors of one shape; a filter is a slice of the
            first dimension.
        out: The products as for :func:`gram`; shape (filters of all layers, 6),
            float64, overwritten.

    Example:
        >>> w = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
        >>> out = torch.empty(2, 6, dtype=torch.float64)
        >>> filter_gram([(w, w, w)], out)
        >>> out[:, WW].tolist()
        [25.0, 1.0]
    """
    layers = list(layers)
    flat = [lay_flat(layer, by_filter=True) for layer in layers]
    _write(flat, [layer[0].shape[0] for layer in layers], out)


@torch.no_grad()
def squared_norms(tensors: Iterable[Tensor], out: Tensor) -> None:
    """Write the squared norm of every tensor.

    Args:
        tensors: Tensors of any shape, floating dtype and memory layout.
        out: The squared norms; shape (tensors,), float64, overwritten.

    Example:
        >>> out = torch.empty(2, dtype=torch.float64)
        >>> squared_norms([torch.tensor([3.0, 4.0]), torch.ones(2, 2)], out)
        >>> out.tolist()
        [25.0, 4.0]
    """
    # The same tensor three times is read from memory once.
    layers = [(tensor,) * 3 for tensor in tensors]
    products = out.new_empty(len(layers), 6)
    gram(layers, products)
    out.copy_(products[:, WW])


def _write(layers: list[Layer], rows: list[int], out: Tensor) -> None:
    kinds = {t.device for layer in layers for t in layer} | {out.device}
    for backend in (cpu, gpu):
        if len(kinds) == 1 and backend.supports(out.device):
            return backend.write(layers, rows, out)
    return plain.write(layers, rows, out)
