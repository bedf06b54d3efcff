"""The pass on a CPU: a C library that reads every element once.

Six dot products would read every element several times; benchmarks/bandwidth.py
compares the ways there are.
"""

import ctypes
import functools
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .layout import Layer, widen

__all__ = ['supports', 'write']

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
    parts = zip(elements, rows, strict=True)
    sizes = np.array([number // max(row, 1) for number, row in parts], np.int64)
    addresses = [tensor.data_ptr() for layer in layers for tensor in layer]
    pointers, counts = np.array(addresses, np.uint64), np.array(rows, np.int64)
    products = np.empty((sum(rows), 6))
    arrays = (array.ctypes.data for array in (pointers, counts, sizes))
    threads = min(torch.get_num_threads(), sum(elements) // ELEMENTS_PER_THREAD)
    # ctypes lets other Python threads run meanwhile.
    library: Any = _library()
    if library.smd_gram(
        len(layers), *arrays, dtype.itemsize, threads, products.ctypes.data
    ):
        raise MemoryError('no memory for the inner products')
    out.copy_(torch.from_numpy(products))


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
