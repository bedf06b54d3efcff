"""The operations of autograd by name, and what a node of its graph tells of itself."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .degrees import Shape

__all__ = [
    'CONVOLUTIONS',
    'CUSTOM_PRODUCTS',
    'CUTS',
    'HOMOGENEOUS',
    'KEEP_CHANNELS',
    'NORMS_OF_GROUPS',
    'PRODUCTS',
    'RESHAPES',
    'SCALED_PRODUCTS',
    'SPREADS',
    'SUMS',
    'VIEWS',
    'Node',
    'input_shapes',
    'is_batch_norm_operation',
    'keeps_channels',
    'note_shapes',
    'one_per_channel',
    'operation_of',
    'output_shape',
    'saved_attribute',
]

# torch.autograd.graph.Node, whose attributes (`_saved_...`, `variable`) vary from one
# operation to the other and have no types.
Node = Any


def _operations(names: str) -> frozenset[str]:
    return frozenset(names.split())


# These move, copy, select or average values: all that is known of the value stays true.
VIEWS = _operations("""
    Alias AsStrided Clone Contiguous Detach Diagonal Expand Flip Permute Reshape
    ReshapeAlias Roll Select Squeeze Swapaxes T ToCopy Transpose Unbind Unsqueeze
    UnsafeView View Identity Movedim Repeat Gather IndexSelect Index Slice Split
    SplitWithSizes UnsafeSplit Narrow Chunk Take TakeAlongDim MaskedSelect Triu Tril
    Unfold Lift Abs Cumsum Sum Mean Nansum Nanmean Max Min Amax Amin Aminmax Cummax
    Cummin Median Mode Sort Topk Kthvalue Trace
""")
# Of these, the ones after which a parameter is still the same parameter, in another
# shape or type.
RESHAPES = _operations("""
    Alias Clone Contiguous Expand Permute Reshape ReshapeAlias Squeeze T ToCopy
    Transpose UnsafeView Unsqueeze View
""")
# Of these, the ones after which the channels are still what they were, or some of them.
KEEP_CHANNELS = _operations("""
    Clone ToCopy Alias Contiguous Slice Split SplitWithSizes UnsafeSplit
    MaxPool2DWithIndices
""")
# Of these, the ones that may leave some channels out.
CUTS = _operations('Slice Split SplitWithSizes UnsafeSplit')
# f(kx) = k · f(x) in the first input x.
HOMOGENEOUS = _operations("""
    Relu LeakyRelu PreluKernel Prelu Neg Dropout NativeDropout FusedDropout
    FeatureDropout MaxPool1D MaxPool2D MaxPool2DWithIndices MaxPool3DWithIndices
    MkldnnMaxPool2D AvgPool1D AvgPool2D AvgPool3D AdaptiveAvgPool1D AdaptiveAvgPool2D
    AdaptiveAvgPool3D AdaptiveMaxPool1D AdaptiveMaxPool2D FractionalMaxPool2D
    UpsampleNearest1D UpsampleNearest2D UpsampleNearest3D UpsampleNearestExact2D
    UpsampleLinear1D UpsampleBilinear2D UpsampleBilinear2DAa UpsampleBicubic2D
    UpsampleTrilinear3D PixelShuffle PixelUnshuffle Im2Col Col2Im ConstantPadNd
    ReflectionPad1D ReflectionPad2D ReplicationPad1D ReplicationPad2D ReplicationPad3D
    ChannelShuffle NativeChannelShuffle GridSampler2D GridSampler3D FftR2C FftC2R
    FftC2C Real Imag ViewAsReal ViewAsComplex
""")
# Sums, and choices among values: homogeneous if all their inputs have one degree.
SUMS = _operations("""
    Add Sub Rsub Cat Stack Where Maximum Minimum Fmax Fmin CopySlices Copy IndexPut
    IndexAdd IndexCopy Scatter ScatterAdd ScatterReduce SelectScatter SliceScatter
    MaskedScatter
""")
# Statistics that are never negative and scale as their input does.
SPREADS = _operations('Norm LinalgVectorNorm LinalgMatrixNorm Std StdMean')
# Products of all inputs: f(kx, y) = k · f(x, y), and so in y.
PRODUCTS = _operations('Mm Bmm Mv Dot Vdot Ger Outer Inner Kron')
# The first input plus the product of the other two.
SCALED_PRODUCTS = _operations('Addmm Addbmm Baddbmm Addmv Addr Addcmul')
# Norms over several channels at once.
NORMS_OF_GROUPS = _operations('NativeGroupNorm NativeLayerNorm FusedRmsNorm')
# What the names of convolutions begin with; the device and the shape add to them.
CONVOLUTIONS = (
    'Convolution',
    'SlowConv',
    'ThnnConv',
    'MkldnnConvolution',
    'CudnnConvolution',
    'MiopenConvolution',
    'ConvDepthwise',
)

# Functions of mmcv by name: the places of the inputs that are multiplied with each
# other, and the place of the bias. The other inputs (offsets, boxes) change the result
# in ways that are not homogeneous, so they must not depend on the parameter.
CUSTOM_PRODUCTS: dict[str, tuple[tuple[int, ...], int | None]] = {
    'ModulatedDeformConv2dFunction': ((0, 2, 3), 4),
    'DeformConv2dFunction': ((0, 2), None),
    'MaskedConv2dFunction': ((0, 2), 3),
    'RoIAlignFunction': ((0,), None),
    'RoIPoolFunction': ((0,), None),
    'RoIAlignRotatedFunction': ((0,), None),
    'DeformRoIPoolFunction': ((0,), None),
    'CARAFEFunction': ((0, 1), None),
    'CARAFENaiveFunction': ((0, 1), None),
    'BorderAlignFunction': ((0,), None),
    'TopPoolFunction': ((0,), None),
    'BottomPoolFunction': ((0,), None),
    'LeftPoolFunction': ((0,), None),
    'RightPoolFunction': ((0,), None),
    'MultiScaleDeformableAttnFunction': ((0, 4), None),
}


def operation_of(node: Node) -> str:
    """Name of a node's operation: 'Add' for the node 'AddBackward0'."""
    name = node.name().rsplit('::', 1)[-1]
    head, separator, _ = name.rpartition('Backward')
    return head if separator and head else name


def is_batch_norm_operation(operation: str) -> bool:
    """Whether an operation normalizes every channel by its own statistics."""
    return 'BatchNorm' in operation or 'InstanceNorm' in operation


def saved_attribute(node: Node, name: str) -> Any:
    """What a node keeps for its backward pass; None if it keeps nothing of that name.

    It is also None where the forward pass has overwritten the kept tensor in place.
    """
    try:
        return getattr(node, f'_saved_{name}', None)
    except RuntimeError:
        return None


def output_shape(node: Node, output: int = 0) -> Shape | None:
    """Shape of one of a node's outputs in the forward pass, None if it is unknown."""
    if not hasattr(node, '_input_metadata'):
        shapes = node.metadata.get(_SHAPES, ())
        return shapes[output] if output < len(shapes) else None
    metadata = node._input_metadata
    if not metadata or output >= len(metadata):
        return None
    try:
        return tuple(metadata[output].shape)
    except (RuntimeError, TypeError):
        return None


_SHAPES = 'smd_mmdet: shapes of the outputs'


def note_shapes(outputs: Sequence[Tensor]) -> None:
    """Let nodes of torch 2.1 tell :func:`output_shape` what newer ones do themselves.

    A gradient has the shape of what it belongs to: one backward pass shows all of
    them, and accumulates nothing. Where it fails, the shapes that it did not come to
    stay unknown.

    Args:
        outputs: What the graph leads to.
    """
    ends = [output for output in outputs if output.grad_fn is not None]
    if not ends or hasattr(ends[0].grad_fn, '_input_metadata'):
        return
    leaves, hooks = [], []
    for node in _nodes([output.grad_fn for output in ends]):
        if hasattr(node, 'variable'):
            leaves.append(node.variable)
            node.metadata[_SHAPES] = [tuple(node.variable.shape)]
        else:
            hooks.append(node.register_prehook(_note_shapes_of(node)))
    ones = [torch.ones_like(output) for output in ends]
    try:
        torch.autograd.grad(ends, leaves, ones, retain_graph=True, allow_unused=True)
    except Exception:  # whatever a foreign backward raises
        pass
    finally:
        for hook in hooks:
            hook.remove()


def _note_shapes_of(node: Node) -> Callable[[Sequence[Tensor | None]], None]:
    known = node.metadata

    def note(gradients: Sequence[Tensor | None]) -> None:
        known[_SHAPES] = [None if g is None else tuple(g.shape) for g in gradients]

    return note


def _nodes(roots: Sequence[Node]) -> Iterator[Node]:
    """All nodes that these come from, each once."""
    found = set(roots)
    stack = list(found)
    while stack:
        node = stack.pop()
        yield node
        for child, _ in node.next_functions:
            if child is not None and child not in found:
                found.add(child)
                stack.append(child)


def input_shapes(node: Node) -> list[Shape | None]:
    """Shape of each input of a node; None for constants, which the graph leaves out."""
    return [
        None if child is None else output_shape(child, output)
        for child, output in node.next_functions
    ]


def one_per_channel(shape: Shape | None, out_shape: Shape | None) -> bool:
    """Whether a tensor that is broadcast to ``out_shape`` has one number per channel.

    Channels are dimension 1 of ``out_shape``.
    """
    if shape is None or out_shape is None or len(out_shape) < 2:
        return False
    padded = (1,) * (len(out_shape) - len(shape)) + tuple(shape)
    return all(n == 1 for i, n in enumerate(padded) if i != 1)


def keeps_channels(shape: Shape | None, out_shape: Shape | None) -> bool:
    """Whether a view leaves channels alone, or splits each of them by image.

    Instance norm does the latter to be computed as a batch norm: (N, C) → (1, N·C).
    """
    if shape is None or out_shape is None or min(len(shape), len(out_shape)) < 2:
        return False
    return (
        shape[2:] == out_shape[2:]
        and math.prod(shape[:2]) == math.prod(out_shape[:2])
        and out_shape[1] % max(shape[1], 1) == 0
    )
