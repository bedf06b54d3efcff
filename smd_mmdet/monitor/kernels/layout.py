"""How a layer's three tensors lie in memory."""

import torch
from torch import Tensor

Layer = tuple[Tensor, Tensor, Tensor]


def lay_flat(layer: Layer, by_filter: bool = False) -> Layer:
    """Contiguous tensors that pair the same elements, views where layouts agree.

    Args:
        layer: Three tensors of one shape.
        by_filter: Keep the slices of the first dimension together, in order.
    """
    w, g, v = layer
    if w.is_contiguous() and g.is_contiguous() and v.is_contiguous():
        return layer
    # The same transpose of all three pairs elements as well, and makes a
    # channels_last weight contiguous without a copy.
    stride = w.stride()
    order = sorted(range(w.ndim), key=lambda d: -stride[d])
    if by_filter:
        order.remove(0)
        order.insert(0, 0)
    w, g, v = (tensor.permute(order).contiguous() for tensor in layer)
    return w, g, v


def widen(layer: Layer) -> Layer:
    """The three in one dtype, float32 or wider."""
    w, g, v = layer
    if w.dtype == g.dtype == v.dtype and w.dtype in (torch.float32, torch.float64):
        return layer
    dtype = torch.float32
    for tensor in layer:
        dtype = torch.promote_types(dtype, tensor.dtype)
    w, g, v = (tensor.to(dtype) for tensor in layer)
    return w, g, v
