"""The pass on a CPU: a C library that reads every element once.

Six dot products would read every element several times; benchmarks/bandwidth.py
compares the ways there are.
"""

from __future__ import annotations

import ctypes
import functools
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .layout import Layer, widen

__all__ = ['Table', 'supports', 'table', 'write']

# A thread that reads fewer elements is not worth its start.
ELEMENTS_PER_THREAD = 500_000


def supports(device: torch.device) -> bool:
    """Whether tensors on a device are read here: on a CPU, if the library is built.

    Example:
        >>> supports(torch.device('meta'))
        False
    """
    return device.type == 'cpu' and _library() is not None


def write(layers: list[Layer], rows: list[int], out: Tensor) -> None:
    """Write the inner products of every row.

    Args:
        layers: Three contiguous tensors of each layer.
        rows: Number of rows of each layer: equal parts, each with products of its
            own.
        out: The products; shape (rows of all layers, 6), float64, overwritten.
    """
    layers = [widen(layer) for layer in layers]
    dtypes = {layer[0].dtype for layer in layers}
    dtype = torch.float32 if dtypes <= {torch.float32} else torch.float64
    if len(dtypes) > 1:  # rare: float32 weights beside float64 ones
        layers = [(w.to(dtype), g.to(dtype), v.to(dtype)) for w, g, v in layers]
    elements = [layer[0].numel() for layer in layers]
    addresses = [layer[i].data_ptr() for i in range(3) for layer in layers]
    Table(elements, rows, dtype).write(addresses, out)


def table(layers: list[Layer], out: Tensor) -> Table | None:
    """What does not change between passes over tensors of the same kinds.

    Args:
        layers: Three contiguous tensors of each layer.
        out: Where the products go.

    Returns:
        None unless all are of one dtype that the library reads.
    """
    dtypes = {tensor.dtype for layer in layers for tensor in layer}
    if len(dtypes) != 1 or not dtypes <= {torch.float32, torch.float64}:
        return None
    return Table([w.numel() for w, _, _ in layers], [1] * len(layers), dtypes.pop())


class Table:
    """What the library is called with, besides the addresses.

    Args:
        elements: Number of elements of each layer.
        rows: Number of rows of each layer.
        dtype: That of all tensors.
    """

    def __init__(
        self, elements: list[int], rows: list[int], dtype: torch.dtype
    ) -> None:
        self._most_threads = sum(elements) // ELEMENTS_PER_THREAD
        parts = zip(elements, rows, strict=True)
        sizes = np.array([number // max(row, 1) for number, row in parts], np.int64)
        self._pointers = np.empty((len(rows), 3), np.uint64)
        self._products = np.empty((sum(rows), 6))
        self._result = torch.from_numpy(self._products)
        # The arguments are addresses: the arrays have to live as long.
        self._arrays = self._pointers, np.array(rows, np.int64), sizes
        arrays = [array.ctypes.data for array in self._arrays]
        self._arguments = len(rows), *arrays, dtype.itemsize
        self._out = self._products.ctypes.data

    def write(self, addresses: list[int], out: Tensor) -> bool:
        """Write the inner products of every row.

        Args:
            addresses: Where w of every layer lies, then g, then v.
            out: The products; shape (rows of all layers, 6), float64, overwritten.

        Returns:
            True: they are written.
        """
        self._pointers.T[...] = np.array(addresses, np.uint64).reshape(3, -1)
        threads = min(torch.get_num_threads(), self._most_threads)
        # ctypes lets other Python threads run meanwhile.
        library: Any = _library()
        if library.smd_gram(*self._arguments, threads, self._out):
            raise MemoryError('no memory for the inner products')
        out.copy_(self._result)
        return True


@functools.cache
def _library() -> ctypes.CDLL | None:
    for suffix in EXTENSION_SUFFIXES:
        file = Path(__file__).with_name('_fused' + suffix)
        if not file.exists():
            continue
        try:
            library = ctypes.CDLL(str(file))
            function = library.smd_gram
        except (OSError, AttributeError):  # built on another machine, say
            continue
        number, pointer = ctypes.c_int64, ctypes.c_void_p
        function.argtypes = [number, pointer, pointer, pointer]
        function.argtypes += [ctypes.c_int, ctypes.c_int, pointer]
        return library
    return None
