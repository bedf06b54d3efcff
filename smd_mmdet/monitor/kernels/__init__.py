"""Inner products of (w, g, v) for many layers: the only pass over the weights.

There are three ways, and where the tensors lie decides between them: on a CPU a small C
library (:mod:`.cpu`), on a GPU one Triton launch (:mod:`.gpu`), and torch's operations
(:mod:`.plain`) wherever the library was not built, Triton is missing, or the layers are
spread over devices.
"""

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from . import cpu, gpu, plain
from .layout import Layer, lay_flat

__all__ = [
    'GG',
    'GV',
    'VV',
    'WG',
    'WV',
    'WW',
    'Columns',
    'RepeatedGram',
    'filter_gram',
    'gram',
]

# w, g and v of all layers: three sequences of one length.
Columns = tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]

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


class RepeatedGram:
    """:func:`gram` of the same layers again and again.

    At every step the same tensors come, or tensors like them. So what the pass needs
    to know of them is checked, by a few loops that Python runs in C, and not built
    anew: where the tensors lie is all that may have changed.

    Example:
        >>> w, g = torch.tensor([3.0, 4.0]), torch.ones(2)
        >>> repeated, out = RepeatedGram(), torch.empty(1, 6, dtype=torch.float64)
        >>> repeated.write(([w], [g], [g]), out)
        >>> w += 1
        >>> repeated.write(([w], [g], [g]), out)
        >>> out[0, WW].item(), out[0, WG].item()
        (41.0, 9.0)
    """

    def __init__(self) -> None:
        # What the tables were made for, and where w and v lay when it was looked up.
        self._kinds: list[Any] = []
        self._kinds_of_kept: list[Any] = []
        self._kept: list[int] | None = None
        # None where the tensors need more than their addresses looked up.
        self._table: cpu.Table | gpu.Table | None = None

    def write(self, columns: Columns, out: Tensor) -> None:
        """Write the six inner products of every layer, as :func:`gram` does.

        Args:
            columns: w of every layer, then g, then v.
            out: The products; shape (layers, 6), float64, overwritten.
        """
        w, g, v = columns
        tensors = [*w, *g, *v]
        addresses = list(map(_address, tensors))
        if self._have_changed(tensors, addresses, len(w), out):
            self._table = _table_for(columns, out)
        if self._table is not None:
            if self._table.write(addresses, out):
                return
            self._table = None  # it has failed
        gram(zip(w, g, v, strict=True), out)

    def _have_changed(
        self, tensors: list[Tensor], addresses: list[int], layers: int, out: Tensor
    ) -> bool:
        """Whether anything has that decides how the tensors are read.

        A gradient may be another tensor at every step. Weights and buffers stay, and
        one that lies where it lay is on the same device and has the same dtype.
        """
        w, g = tensors[:layers], tensors[layers : 2 * layers]
        kinds: list[Any] = [_place(out), *map(_place, g)]
        kinds += map(_dtype, g)
        kinds += map(_elements, w)
        if not all(map(_contiguous, tensors)):
            kinds += map(_stride, tensors)
        changed, self._kinds = kinds != self._kinds, kinds
        kept = addresses[:layers] + addresses[2 * layers :]
        if kept != self._kept:
            self._kept = kept
            kinds = [*map(_place, tensors), *map(_dtype, tensors)]
            changed |= kinds != self._kinds_of_kept
            self._kinds_of_kept = kinds
        return changed

    def squared_norms(self, tensors: Sequence[Tensor], out: Tensor) -> None:
        """Write the squared norm of every tensor.

        Args:
            tensors: Tensors of any shape, floating dtype and memory layout.
            out: The squared norms; shape (tensors,), float64, overwritten.

        Example:
            >>> out = torch.empty(2, dtype=torch.float64)
            >>> tensors = [torch.tensor([3.0, 4.0]), torch.ones(2, 2)]
            >>> RepeatedGram().squared_norms(tensors, out)
            >>> out.tolist()
            [25.0, 4.0]
        """
        # The same tensor three times is read from memory once.
        products = out.new_empty(len(tensors), 6)
        self.write((tensors, tensors, tensors), products)
        out.copy_(products[:, WW])


# Taken from the class, so that map() calls them without looking them up.
_address, _elements = Tensor.data_ptr, Tensor.numel
_place: Callable[[Tensor], int] = Tensor.get_device
_contiguous, _stride, _dtype = Tensor.is_contiguous, Tensor.stride, attrgetter('dtype')


@torch.no_grad()
def _table_for(columns: Columns, out: Tensor) -> cpu.Table | gpu.Table | None:
    layers = list(zip(*columns, strict=True))
    flat = [lay_flat(layer) for layer in layers]
    copied = any(
        _address(given) != _address(laid)
        for pair in zip(layers, flat, strict=True)
        for given, laid in zip(*pair, strict=True)
    )
    backend = _backend(flat, out)
    return None if copied or backend is plain else backend.table(flat, out)


def _backend(layers: list[Layer], out: Tensor) -> Any:
    devices = {tensor.device for layer in layers for tensor in layer} | {out.device}
    for backend in (cpu, gpu):
        if len(devices) == 1 and backend.supports(out.device):
            return backend
    return plain


def _write(layers: list[Layer], rows: list[int], out: Tensor) -> None:
    _backend(layers, out).write(layers, rows, out)
