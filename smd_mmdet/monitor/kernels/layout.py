"""How a layer's three tensors lie in memory."""

import torch
from torch import Tensor

__all__ = ['Layer', 'lay_flat', 'widen']

# w, g and v: three tensors of one shape.
Layer = tuple[Tensor, Tensor, Tensor]


def lay_flat(layer: Layer, by_filter: bool = False) -> Layer:
    """Lay three tensors contiguously, so that the same elements still meet.

    Args:
        layer: Three tensors of one shape.
        by_filter: Keep the slices of the first dimension together, in order.

    Returns:
        Contiguous tensors; views where the three are laid out in the same way.

    Example:
        >>> transposed = torch.arange(6.0).view(2, 3).T
        >>> flat = lay_flat((transposed,) * 3)[0]
        >>> flat.flatten().tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """
    w, g, v = layer
    if w.is_contiguous() and g.is_contiguous() and v.is_contiguous():
        return layer
    # Inner products do not change if all three are permuted alike, and this makes a
    # channels_last weight contiguous without a copy.
    stride = w.stride()
    order = sorted(range(w.ndim), key=lambda d: -stride[d])
    if by_filter:
        order.remove(0)
        order.insert(0, 0)
    w, g, v = (tensor.permute(order).contiguous() for tensor in layer)
    return w, g, v


def widen(layer: Layer) -> Layer:
    """Bring the three to one dtype, float32 or wider.

    Example:
        >>> half, single = torch.ones(2).half(), torch.ones(2)
        >>> widen((half, single, half))[0].dtype
        torch.float32
    """
    w, g, v = layer
    if w.dtype == g.dtype == v.dtype and w.dtype in (torch.float32, torch.float64):
        return layer
    dtype = torch.float32
    for tensor in layer:
        dtype = torch.promote_types(dtype, tensor.dtype)
    w, g, v = (tensor.to(dtype) for tensor in layer)
    return w, g, v
