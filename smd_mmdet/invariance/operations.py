"""Degrees of homogeneity, and what each operation of autograd does to them."""

import dataclasses
import math

# Numbers of consecutive channels, and the degree they share.
Layout = tuple[tuple[int, float], ...]


@dataclasses.dataclass(frozen=True)
class PerChannel:
    """Degrees that differ between the channels, up to a constant in each channel.

    Batch statistics of each channel remove both; for anything else the value is
    not homogeneous, for ``cause``. ``layout`` tells which channels have which degree,
    where they have several and it is known.
    """

    degrees: frozenset[float]
    cause: str
    layout: Layout | None = None


Degree = float | PerChannel
Degrees = dict[int, Degree]


@dataclasses.dataclass
class Value:
    """Degrees of one node's value in each parameter, by id; 0 is left out.

    ``spread`` marks a non-negative statistic (norm, variance), to which an ε is
    added that does not count. ``leaf`` is the parameter that the value is, in
    whatever shape.
    """

    degrees: Degrees
    spread: bool = False
    leaf: int | None = None


CONSTANT = Value({})


def _operations(names: str) -> frozenset[str]:
    return frozenset(names.split())


# Value → value moved, copied, or picked: every property is kept.
VIEWS = _operations("""
    Alias AsStrided Clone Contiguous Detach Diagonal Expand Flip Permute Reshape
    ReshapeAlias Roll Select Squeeze Swapaxes T ToCopy Transpose Unbind Unsqueeze
    UnsafeView View Identity Movedim Repeat Gather IndexSelect Index Slice Split
    SplitWithSizes UnsafeSplit Narrow Chunk Take TakeAlongDim MaskedSelect Triu Tril
    Unfold Lift Abs Cumsum Sum Mean Nansum Nanmean Max Min Amax Amin Aminmax Cummax
    Cummin Median Mode Sort Topk Kthvalue Trace
""")
# Value → the same value in another shape or type.
RESHAPES = _operations("""
    Alias Clone Contiguous Expand Permute Reshape ReshapeAlias Squeeze T ToCopy
    Transpose UnsafeView Unsqueeze View
""")
# Homogeneous of degree 1 in their first input.
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
# Sums and choices: homogeneous only if all their inputs have one degree.
SUMS = _operations("""
    Add Sub Rsub Cat Stack Where Maximum Minimum Fmax Fmin CopySlices Copy IndexPut
    IndexAdd IndexCopy Scatter ScatterAdd ScatterReduce SelectScatter SliceScatter
    MaskedScatter
""")
SPREADS = _operations('Norm LinalgVectorNorm LinalgMatrixNorm Std StdMean')
PRODUCTS = _operations('Mm Bmm Mv Dot Vdot Ger Outer Inner Kron')
SCALED_PRODUCTS = _operations('Addmm Addbmm Baddbmm Addmv Addr Addcmul')
CONVOLUTIONS = (
    'Convolution',
    'SlowConv',
    'ThnnConv',
    'MkldnnConvolution',
    'CudnnConvolution',
    'MiopenConvolution',
    'ConvDepthwise',
)

# Functions of mmcv by name: the inputs whose degrees add up, and the one of the bias.
# Inputs of degree 0 are all that the others (offsets, boxes) may have.
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


def operation_of(node) -> str:
    """Name of a node's operation: 'AddBackward0' → 'Add'."""
    name = node.name().rsplit('::', 1)[-1]
    head, separator, _ = name.rpartition('Backward')
    return head if separator and head else name


def saved_attribute(node, name: str):
    """A saved attribute of a node, None if it has none or it was overwritten."""
    try:
        return getattr(node, f'_saved_{name}', None)
    except RuntimeError:
        return None


def output_shape(node, output: int = 0) -> tuple[int, ...] | None:
    """Shape of a node's output in the forward pass."""
    metadata = getattr(node, '_input_metadata', None)
    if not metadata or output >= len(metadata):
        return None
    try:
        return tuple(metadata[output].shape)
    except (RuntimeError, TypeError):
        return None


def one_per_channel(shape, out_shape) -> bool:
    """Whether a tensor of this shape is one number per channel (dimension 1)."""
    if shape is None or out_shape is None or len(out_shape) < 2:
        return False
    padded = (1,) * (len(out_shape) - len(shape)) + tuple(shape)
    return all(n == 1 for i, n in enumerate(padded) if i != 1)


def layout_of(degree: Degree, shape) -> Layout | None:
    """Which channels of a value of this shape have which degree, if it is known."""
    if isinstance(degree, PerChannel):
        if degree.layout is not None:
            return degree.layout
        if len(degree.degrees) > 1:
            return None
        (degree,) = degree.degrees
    return ((shape[1], degree),) if shape is not None and len(shape) > 1 else None


def keeps_channels(shape, out_shape) -> bool:
    """Whether a view leaves channels alone, or splits them by image.

    The second is how instance norm becomes a batch norm: (N, C) → (1, N·C).
    """
    if shape is None or out_shape is None or min(len(shape), len(out_shape)) < 2:
        return False
    return (
        shape[2:] == out_shape[2:]
        and math.prod(shape[:2]) == math.prod(out_shape[:2])
        and out_shape[1] % max(shape[1], 1) == 0
    )
