"""Which parameters of a model are scale-invariant, why, and a numeric proof.

A parameter w is scale-invariant if L(kw) = L(w) for every k > 0; only then do the
equations of :mod:`smd_mmdet.theory` describe it. Two independent answers are given:

* :func:`find_scale_invariant` observes one forward pass in train mode and walks its
  autograd graph from the parameters to the loss. For every tensor it keeps the
  degree d with which the tensor scales when one parameter is multiplied by k > 0
  (value → k^d · value). Convolutions add the degrees of input and weight,
  normalization sets them to 0, a sum of terms of different degree or an operation
  that is not homogeneous ends the parameter's case. What reaches the loss with
  degree 0 is invariant. The graph does not depend on the values in it, so dead
  activations or a batch without positives change nothing.
* :func:`verify_scale_invariance` scales the parameters of a float64 copy and
  compares losses and gradients, whatever the structure says.

Only torch is needed. Parameters, buffers, gradients, random generators and training
flags are left exactly as they were.
"""

import bisect
import collections
import contextlib
import copy
import dataclasses
import itertools
import math
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

__all__ = [
    'ScaleInvariance',
    'ScaleProof',
    'find_scale_invariant',
    'verify_scale_invariance',
]


@dataclasses.dataclass(frozen=True)
class ScaleInvariance:
    """What the structure of a model says about one parameter.

    Args:
        name: Dotted name of the parameter.
        invariant: Whether the loss does not depend on its scale.
        norm: Dotted name of the module that normalizes it. None if it is not
            invariant, or invariant by construction (weight standardization), or
            normalized by a function that belongs to no module.
        reason: One sentence.
    """

    name: str
    invariant: bool
    norm: str | None
    reason: str


# ---------------------------------------------------------------- undisturbed state


@contextlib.contextmanager
def kept_rng() -> Iterator[None]:
    """Restore the random generators of torch, CUDA, numpy and Python."""
    cpu, python = torch.get_rng_state(), random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    numpy = sys.modules.get('numpy')
    numpy_state = numpy.random.get_state() if numpy else None
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        random.setstate(python)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if numpy:
            numpy.random.set_state(numpy_state)


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    if 'numpy' in sys.modules:
        sys.modules['numpy'].random.seed(seed)


class _Contents:
    """Contents of a mutable container, to be put back into the same object."""

    def __init__(self, container) -> None:
        self.container = container
        self.copy = copy.copy(container)

    def restore(self) -> None:
        self.container.clear()
        if isinstance(self.container, (list, collections.deque)):
            self.container.extend(self.copy)
        else:
            self.container.update(self.copy)


@contextlib.contextmanager
def _kept_modules(model: nn.Module) -> Iterator[None]:
    """Restore every module's attributes, containers and buffer values.

    This covers BN statistics, training flags, ``with_cp``, hooks, a replaced
    ``forward``, and the counters that some losses and heads keep.
    """
    attributes = [(m, dict(m.__dict__)) for m in model.modules()]
    contents = [
        _Contents(value)
        for _, attribute in attributes
        for value in attribute.values()
        if isinstance(value, (list, dict, set, collections.deque))
    ]
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    flags = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    try:
        yield
    finally:
        for module, attribute in attributes:
            module.__dict__.clear()
            module.__dict__.update(attribute)
        for content in contents:
            content.restore()
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for parameter, requires_grad, grad in flags:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad


def _is_sync_bn(module: nn.Module) -> bool:
    return any(base.__name__ == 'SyncBatchNorm' for base in type(module).__mro__)


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) or _is_sync_bn(module)


def _is_norm(module: nn.Module) -> bool:
    if isinstance(module, (_NormBase, nn.GroupNorm, nn.LayerNorm)):
        return True
    return any(word in type(module).__name__.lower() for word in ('norm', 'bn'))


def _local_batch_norm(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Forward of a SyncBatchNorm with this process's statistics only."""

    def forward(x: Tensor) -> Tensor:
        batch = module.training or module.running_mean is None
        return F.batch_norm(
            x,
            module.running_mean,
            module.running_var,
            module.weight,
            module.bias,
            training=batch,
            momentum=0.0,
            eps=module.eps,
        )

    return forward


def _to_train_mode(model: nn.Module) -> None:
    """Put a model into the mode that a training loop would put it in.

    ``train()`` lets the model re-freeze what ``norm_eval`` and ``frozen_stages``
    say. Modules that somebody put into eval mode under a training root stay there.
    """
    frozen = [m for m in model.modules() if not m.training] if model.training else []
    model.train()
    for module in frozen:
        module.training = False


def _make_observable(model: nn.Module) -> None:
    """Remove what hides the graph or needs other processes."""
    for module in model.modules():
        if getattr(module, 'with_cp', False) is True:
            module.with_cp = False
        if _is_sync_bn(module):
            module.forward = _local_batch_norm(module)


@contextlib.contextmanager
def _no_checkpointing() -> Iterator[None]:
    """Run checkpointed functions directly: a checkpoint is one opaque graph node."""
    import torch.utils.checkpoint as checkpointing

    def direct(function, *args, **kwargs):
        options = (
            'use_reentrant',
            'preserve_rng_state',
            'context_fn',
            'determinism_check',
            'debug',
            'early_stop',
        )
        for option in options:
            kwargs.pop(option, None)
        return function(*args, **kwargs)

    original = checkpointing.checkpoint
    checkpointing.checkpoint = direct
    try:
        yield
    finally:
        checkpointing.checkpoint = original


@contextlib.contextmanager
def _observable(model: nn.Module) -> Iterator[None]:
    with kept_rng(), _kept_modules(model), _no_checkpointing():
        _to_train_mode(model)
        _make_observable(model)
        yield


# ------------------------------------------------------- which module made which node


class _Owners:
    """Names the module during whose forward a graph node was made.

    Autograd numbers its nodes in the order of creation, so the innermost module
    call whose interval of numbers holds the node's made it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = {module: name for name, module in model.named_modules()}
        self._probe = torch.ones((), requires_grad=True)
        self._numbers: list[int] = [-1]
        self._modules: list[nn.Module] = [model]
        self._stack = [model]

    def _note(self) -> None:
        with torch.enable_grad():
            number = (self._probe * 1).grad_fn._sequence_nr()
        self._numbers.append(number)
        self._modules.append(self._stack[-1])

    def _enter(self, module: nn.Module, _) -> None:
        self._stack.append(module)
        self._note()

    def _leave(self, module: nn.Module, *_) -> None:
        # A forward that raised and was caught leaves its module on the stack.
        while len(self._stack) > 1 and self._stack.pop() is not module:
            pass
        self._note()

    def watch(self) -> None:
        for module in self._names:
            module.register_forward_pre_hook(self._enter, prepend=True)
            module.register_forward_hook(self._leave)

    def owner(self, node) -> nn.Module:
        place = bisect.bisect_right(self._numbers, node._sequence_nr()) - 1
        return self._modules[place]

    def name(self, node) -> str:
        return self._names[self.owner(node)] or 'the model itself'

    def norm_name(self, node) -> str | None:
        owner = self.owner(node)
        return self._names[owner] if _is_norm(owner) else None


# -------------------------------------------------------------- degrees of homogeneity


@dataclasses.dataclass(frozen=True)
class _PerChannel:
    """Degrees that differ between the channels, up to a constant in each channel.

    Batch statistics of each channel remove both; for anything else the value is
    not homogeneous, for ``cause``.
    """

    degrees: frozenset[float]
    cause: str


_Degree = float | _PerChannel
_Degrees = dict[int, _Degree]


@dataclasses.dataclass
class _Value:
    """Degrees of one node's value in each parameter, by id; 0 is left out.

    ``spread`` marks a non-negative statistic (norm, variance), to which an ε is
    added that does not count.
    """

    degrees: _Degrees
    spread: bool = False


_CONSTANT = _Value({})


def _operations(names: str) -> frozenset[str]:
    return frozenset(names.split())


# Value → value moved, copied, or picked: every property is kept.
_VIEWS = _operations("""
    Alias AsStrided Clone Contiguous Detach Diagonal Expand Flip Permute Reshape
    ReshapeAlias Roll Select Squeeze Swapaxes T ToCopy Transpose Unbind Unsqueeze
    UnsafeView View Identity Movedim Repeat Gather IndexSelect Index Slice Split
    SplitWithSizes UnsafeSplit Narrow Chunk Take TakeAlongDim MaskedSelect Triu Tril
    Unfold Lift Abs Cumsum Sum Mean Nansum Nanmean Max Min Amax Amin Aminmax Cummax
    Cummin Median Mode Sort Topk Kthvalue Trace
""")
# Homogeneous of degree 1 in their first input.
_HOMOGENEOUS = _operations("""
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
_SUMS = _operations("""
    Add Sub Rsub Cat Stack Where Maximum Minimum Fmax Fmin CopySlices Copy IndexPut
    IndexAdd IndexCopy Scatter ScatterAdd ScatterReduce SelectScatter SliceScatter
    MaskedScatter
""")
_SPREADS = _operations('Norm LinalgVectorNorm LinalgMatrixNorm Std StdMean')
_PRODUCTS = _operations('Mm Bmm Mv Dot Vdot Ger Outer Inner Kron')
_SCALED_PRODUCTS = _operations('Addmm Addbmm Baddbmm Addmv Addr Addcmul')
_CONVOLUTIONS = (
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
_CUSTOM_PRODUCTS: dict[str, tuple[tuple[int, ...], int | None]] = {
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


def _operation(node) -> str:
    """Name of a node's operation: 'AddBackward0' → 'Add'."""
    name = node.name().rsplit('::', 1)[-1]
    head, separator, _ = name.rpartition('Backward')
    return head if separator and head else name


def _saved(node, name: str):
    """A saved attribute of a node, None if it has none or it was overwritten."""
    try:
        return getattr(node, f'_saved_{name}', None)
    except RuntimeError:
        return None


def _shape(node, output: int = 0) -> tuple[int, ...] | None:
    """Shape of a node's output in the forward pass."""
    metadata = getattr(node, '_input_metadata', None)
    if not metadata or output >= len(metadata):
        return None
    try:
        return tuple(metadata[output].shape)
    except (RuntimeError, TypeError):
        return None


def _one_per_channel(shape, out_shape) -> bool:
    """Whether a tensor of this shape is one number per channel (dimension 1)."""
    if shape is None or out_shape is None or len(out_shape) < 2:
        return False
    padded = (1,) * (len(out_shape) - len(shape)) + tuple(shape)
    return all(n == 1 for i, n in enumerate(padded) if i != 1)


def _keeps_channels(shape, out_shape) -> bool:
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


class _Walk:
    """Abstract interpretation of one graph, from the parameters to the outputs."""

    def __init__(self, parameters: Iterable[nn.Parameter], owners: _Owners) -> None:
        self._parameters = {id(p) for p in parameters}
        self._owners = owners
        self._values: dict[object, _Value] = {}
        self.reached: set[int] = set()
        self.failed: dict[int, str] = {}
        # Insertion order is the order of the forward pass: the first one is named.
        self.norms: dict[int, dict[str, None]] = {}
        self.constructed: dict[int, str] = {}
        self.cancelled: dict[int, str] = {}

    def run(self, outputs: Sequence[Tensor]) -> None:
        for output in outputs:
            if output.grad_fn is None:
                self._end(output)
                continue
            for node in self._in_order(output.grad_fn):
                self._values[node] = self._value(node)
            for parameter, degree in self._values[output.grad_fn].degrees.items():
                self._end_case(parameter, degree)

    def _end(self, output: Tensor) -> None:
        if id(output) in self._parameters:
            self.reached.add(id(output))
            self._fail(id(output), 'it is an output itself')

    def _end_case(self, parameter: int, degree: _Degree) -> None:
        if isinstance(degree, _PerChannel):
            self._fail(parameter, degree.cause)
        else:
            self._fail(
                parameter,
                f'the output scales with it (degree {degree:g}): no normalization '
                'between them',
            )

    def _in_order(self, root) -> Iterator[object]:
        """Nodes not yet valued, every one after its inputs."""
        stack = [(root, iter(root.next_functions))]
        seen = {root}
        if root in self._values:
            return
        while stack:
            node, edges = stack[-1]
            for child, _ in edges:
                if child is None or child in seen or child in self._values:
                    continue
                seen.add(child)
                stack.append((child, iter(child.next_functions)))
                break
            else:
                stack.pop()
                yield node

    def _fail(self, parameter: int, reason: str) -> None:
        self.failed.setdefault(parameter, reason)

    def _mixed(self, values: Iterable[_Value], reason: str) -> _Value:
        for value in values:
            for parameter, degree in value.degrees.items():
                own = isinstance(degree, _PerChannel)
                self._fail(parameter, degree.cause if own else reason)
        return _CONSTANT

    def _place(self, node) -> str:
        return f'{_operation(node)} in {self._owners.name(node)}'

    def _value(self, node) -> _Value:
        operation = _operation(node)
        if operation == 'AccumulateGrad':
            parameter = id(node.variable)
            if parameter not in self._parameters:
                return _CONSTANT
            self.reached.add(parameter)
            return _Value({parameter: 1.0})
        inputs = [
            _CONSTANT if child is None else self._input(child, output)
            for child, output in node.next_functions
        ]
        if not any(value.degrees for value in inputs):
            return _CONSTANT
        value = self._rule(node, operation, inputs)
        self._note_division(node, inputs, value)
        return value

    def _input(self, child, output: int) -> _Value:
        """Value of an input without the parameters whose case has ended."""
        value = self._values[child]
        if output == 1 and _operation(child) == 'VarMean':
            value = _Value({p: degree / 2 for p, degree in value.degrees.items()})
        if value.degrees and not self.failed.keys().isdisjoint(value.degrees):
            degrees = {
                p: degree for p, degree in value.degrees.items() if p not in self.failed
            }
            return _Value(degrees, value.spread)
        return value

    def _note_division(self, node, inputs: list[_Value], value: _Value) -> None:
        """Remember what became invariant here by arithmetic, without a norm."""
        for one in inputs:
            for p in one.degrees:
                if p in value.degrees or p in self.failed or p in self.norms:
                    continue
                if p not in self.cancelled:
                    self.constructed.setdefault(p, self._place(node))

    # ------------------------------------------------------------------------- rules

    def _rule(self, node, operation: str, inputs: list[_Value]) -> _Value:
        if 'BatchNorm' in operation or 'InstanceNorm' in operation:
            return self._batch_norm(node, inputs)
        if operation in ('NativeGroupNorm', 'NativeLayerNorm', 'FusedRmsNorm'):
            return self._group_norm(node, operation, inputs)
        if operation.startswith(_CONVOLUTIONS):
            # (0,) stands for no bias; the edge alone cannot tell a frozen one.
            biased = math.prod(_saved(node, 'bias_sym_sizes_opt') or (0,)) > 0
            return self._product(node, inputs, (0, 1), 2, biased)
        if operation in _CUSTOM_PRODUCTS:
            factors, bias = _CUSTOM_PRODUCTS[operation]
            biased = bias is not None and bool(getattr(node, 'with_bias', True))
            return self._product(node, inputs, factors, bias, biased)
        if operation in _VIEWS or operation in _HOMOGENEOUS:
            return self._unary(node, operation, inputs)
        if operation in _SUMS:
            return self._sum(node, operation, inputs)
        rule = getattr(self, f'_rule_{operation.lower()}', None)
        if rule is not None:
            return rule(node, inputs)
        if operation in _SPREADS:
            return _Value(self._pure(node, inputs[:1]), spread=True)
        if operation in _PRODUCTS:
            return self._product(node, inputs, range(len(inputs)))
        if operation in _SCALED_PRODUCTS:
            return self._product(node, inputs, (1, 2), 0, biased=True)
        return self._mixed(inputs, f'{self._place(node)} is not homogeneous')

    def _pure(self, node, inputs: Iterable[_Value], times: float = 1.0) -> _Degrees:
        """Sum of the inputs' degrees; ends the case of those without a single one."""
        total: _Degrees = {}
        for value in inputs:
            for p, degree in value.degrees.items():
                if isinstance(degree, _PerChannel):
                    self._fail(p, degree.cause)
                    continue
                total[p] = total.get(p, 0.0) + degree * times
        return {p: d for p, d in total.items() if d != 0 and p not in self.failed}

    def _unary(self, node, operation: str, inputs: list[_Value]) -> _Value:
        value = inputs[0]
        self._mixed(inputs[1:], f'{self._place(node)} is not homogeneous')
        if any(isinstance(d, _PerChannel) for d in value.degrees.values()):
            if self._channels_stay(node, operation):
                return value
            return _Value(self._pure(node, [value]), value.spread)
        spread = value.spread and operation in _VIEWS
        return _Value(value.degrees, spread)

    def _channels_stay(self, node, operation: str) -> bool:
        if operation in (
            'Clone',
            'ToCopy',
            'Alias',
            'Slice',
            'Split',
            'Contiguous',
            'SplitWithSizes',
            'UnsafeSplit',
            'MaxPool2DWithIndices',
        ):
            return True
        if operation in ('View', 'UnsafeView', 'ReshapeAlias'):
            child, output = node.next_functions[0]
            return _keeps_channels(_shape(child, output), _shape(node))
        return False

    def _sum(self, node, operation: str, inputs: list[_Value]) -> _Value:
        if operation in ('Add', 'Sub') and (len(inputs) == 1 or self._is_eps(node)):
            value = inputs[0] if inputs[0].degrees else inputs[-1]
            if value.spread:
                return value
        if len(inputs) == 1:
            inputs = [*inputs, _CONSTANT]
        if operation == 'Cat' and _saved(node, 'dim') in (1, None):
            return self._cat_channels(node, inputs)
        shift = operation in ('Add', 'Sub') and any(
            child is not None and _one_per_channel(_shape(child, nr), _shape(node))
            for child, nr in node.next_functions
        )
        cause = f'{self._place(node)} joins it with terms of another degree'
        degrees: _Degrees = {}
        for p in {p for value in inputs for p in value.degrees}:
            found = [value.degrees.get(p, 0.0) for value in inputs]
            if any(isinstance(d, _PerChannel) for d in found):
                own = next(d for d in found if isinstance(d, _PerChannel))
                self._fail(p, own.cause)
            elif all(d == found[0] for d in found):
                degrees[p] = found[0]
            elif shift:
                degrees[p] = _PerChannel(frozenset(found), cause)
            else:
                self._fail(p, cause)
        return _Value(degrees, all(value.spread for value in inputs))

    @staticmethod
    def _is_eps(node) -> bool:
        return len(node.next_functions) == 2 and any(
            child is None for child, _ in node.next_functions
        )

    def _cat_channels(self, node, inputs: list[_Value]) -> _Value:
        cause = f'{self._place(node)} joins it with terms of another degree'
        degrees: _Degrees = {}
        for p in {p for value in inputs for p in value.degrees}:
            found = [value.degrees.get(p, 0.0) for value in inputs]
            if all(d == found[0] and isinstance(d, float) for d in found):
                degrees[p] = found[0]
                continue
            every = [
                d.degrees if isinstance(d, _PerChannel) else frozenset({d})
                for d in found
            ]
            causes = [d.cause for d in found if isinstance(d, _PerChannel)]
            degrees[p] = _PerChannel(
                frozenset().union(*every), causes[0] if causes else cause
            )
        return _Value(degrees)

    def _product(
        self,
        node,
        inputs: list[_Value],
        factors: Iterable[int],
        bias: int | None = None,
        biased: bool = False,
    ) -> _Value:
        factors = [i for i in factors if i < len(inputs)]
        others = [
            value for i, value in enumerate(inputs) if i not in factors and i != bias
        ]
        self._mixed(others, f'{self._place(node)} is not homogeneous in it')
        degrees = self._pure(node, [inputs[i] for i in factors])
        if not biased:
            spread = all(inputs[i] is inputs[0] or inputs[i].spread for i in factors)
            return _Value(degrees, spread and len(factors) == 2)
        added = inputs[bias].degrees if bias < len(inputs) else {}
        cause = f'a bias is added to it ({self._place(node)})'
        shifted: _Degrees = {}
        for p in degrees.keys() | added.keys():
            degree = degrees.get(p, 0.0)
            if degree == added.get(p, 0.0):
                shifted[p] = degree
            else:
                shifted[p] = _PerChannel(frozenset({degree}), cause)
        return _Value(shifted)

    def _batch_norm(self, node, inputs: list[_Value]) -> _Value:
        training = _saved(node, 'training')
        if training is False:
            self._mixed(inputs, f'{self._norm(node)} uses fixed statistics (eval mode)')
            return _CONSTANT
        for p, degree in inputs[0].degrees.items():
            degrees = degree.degrees if isinstance(degree, _PerChannel) else {degree}
            if any(d != 0 for d in degrees):
                self._normalized(p, node)
            else:
                self.cancelled.setdefault(p, self._norm(node))
        return self._affine(node, inputs[1:])

    def _group_norm(self, node, operation: str, inputs: list[_Value]) -> _Value:
        if operation == 'NativeGroupNorm' and node._saved_C == node._saved_group:
            return self._batch_norm(node, inputs)
        for p, degree in inputs[0].degrees.items():
            if isinstance(degree, _PerChannel):
                self._fail(
                    p,
                    f'{degree.cause}, and {self._norm(node)} normalizes several '
                    'channels together',
                )
            else:
                self._normalized(p, node)
        return self._affine(node, inputs[1:])

    def _affine(self, node, inputs: Sequence[_Value]) -> _Value:
        """Output of a norm: of degree 0, but for its own weight and bias."""
        cause = f'it is a weight or bias of {self._norm(node)}'
        degrees: _Degrees = {}
        for position, value in enumerate(inputs[:2]):
            for p, degree in value.degrees.items():
                if isinstance(degree, _PerChannel):
                    self._fail(p, degree.cause)
                else:
                    effect = 0.0 if position else degree
                    degrees[p] = _PerChannel(frozenset({effect}), cause)
        return _Value(degrees)

    def _norm(self, node) -> str:
        return self._owners.norm_name(node) or self._place(node)

    def _normalized(self, p: int, node) -> None:
        name = self._owners.norm_name(node)
        self.norms.setdefault(p, {})[name or f'\0{self._place(node)}'] = None

    def _rule_div(self, node, inputs: list[_Value]) -> _Value:
        numerator, denominator = (*inputs, _CONSTANT)[:2]
        inverse = _Value(self._pure(node, [denominator], -1.0))
        return _Value(self._pure(node, [numerator, inverse]), numerator.spread)

    def _rule_mul(self, node, inputs: list[_Value]) -> _Value:
        factor = _saved(node, 'other')
        constant = len(inputs) == 1 or node.next_functions[1][0] is None
        # A literal 0 (`pred.sum() * 0`, the usual way to keep a parameter in the
        # graph) has no effect; a tensor of zeros may be an accident of this batch.
        if constant and isinstance(factor, Tensor) and factor.dim() == 0:
            zero = not factor.is_complex() and float(factor) == 0
            if zero:
                for p in inputs[0].degrees:
                    self.cancelled.setdefault(p, f'a factor 0 ({self._place(node)})')
                return _CONSTANT
            return _Value(self._pure(node, inputs[:1]), inputs[0].spread)
        return self._product(node, inputs, range(len(inputs)))

    def _rule_pow(self, node, inputs: list[_Value]) -> _Value:
        exponent = _saved(node, 'exponent')
        if not isinstance(exponent, (int, float)) or len(inputs) > 1:
            return self._mixed(inputs, f'{self._place(node)} is not homogeneous')
        spread = inputs[0].spread or exponent % 2 == 0
        return _Value(self._pure(node, inputs, float(exponent)), spread)

    def _rule_sqrt(self, node, inputs: list[_Value]) -> _Value:
        return _Value(self._pure(node, inputs, 0.5), inputs[0].spread)

    def _rule_rsqrt(self, node, inputs: list[_Value]) -> _Value:
        return _Value(self._pure(node, inputs, -0.5), inputs[0].spread)

    def _rule_reciprocal(self, node, inputs: list[_Value]) -> _Value:
        return _Value(self._pure(node, inputs, -1.0), inputs[0].spread)

    def _rule_square(self, node, inputs: list[_Value]) -> _Value:
        return _Value(self._pure(node, inputs, 2.0), spread=True)

    def _rule_var(self, node, inputs: list[_Value]) -> _Value:
        return _Value(self._pure(node, inputs, 2.0), spread=True)

    def _rule_clampmin(self, node, inputs: list[_Value]) -> _Value:
        return self._clamp(node, inputs, _saved(node, 'min'), None)

    def _rule_clamp(self, node, inputs: list[_Value]) -> _Value:
        bounds = _saved(node, 'min'), _saved(node, 'max')
        return self._clamp(node, inputs, *bounds)

    def _clamp(self, node, inputs: list[_Value], low, high) -> _Value:
        # min=0 is a ReLU; any lower bound of a spread statistic is its ε.
        if high is None and (inputs[0].spread or low == 0):
            return _Value(self._pure(node, inputs[:1]), inputs[0].spread)
        return self._mixed(inputs, f'{self._place(node)} is not homogeneous')

    def _rule_varmean(self, node, inputs: list[_Value]) -> _Value:
        return _Value(self._pure(node, inputs, 2.0), spread=True)

    def _rule_weightnorminterface(self, node, inputs: list[_Value]) -> _Value:
        # g · v / ‖v‖: of degree 0 in v, 1 in g.
        self._pure(node, inputs[:1])
        return _Value(self._pure(node, inputs[1:]))


# --------------------------------------------------------------------------- entries


def _tensors(output) -> Iterator[Tensor]:
    """Tensors in nested containers and in objects that offer their items."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (list, tuple, set)):
        for value in output:
            yield from _tensors(value)
    elif hasattr(output, '__dict__') and not isinstance(output, (nn.Module, type)):
        for value in vars(output).values():
            if isinstance(value, (Tensor, Mapping, list, tuple)):
                yield from _tensors(value)


def _unique_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return dict(model.named_parameters())


def _entry(name: str, parameter: nn.Parameter, walk: _Walk) -> ScaleInvariance:
    key = id(parameter)

    def no(reason: str) -> ScaleInvariance:
        return ScaleInvariance(name, False, None, reason)

    if not parameter.requires_grad:
        return no('frozen: requires_grad=False')
    if key not in walk.reached:
        return no('not reached: no output of the forward pass depends on it')
    if key in walk.failed:
        return no(walk.failed[key])
    if key in walk.norms:
        return _normalized_entry(name, list(walk.norms[key]))
    if key in walk.constructed:
        place = walk.constructed[key]
        return ScaleInvariance(name, True, None, f'normalized by construction: {place}')
    if key in walk.cancelled:
        return no(f'without effect: {walk.cancelled[key]} removes it')
    return no('without effect on the output')


def _normalized_entry(name: str, norms: list[str]) -> ScaleInvariance:
    modules = [norm for norm in norms if not norm.startswith('\0')]
    named = [norm.removeprefix('\0') for norm in norms]
    reason = f'normalized by {named[0]}'
    if len(named) > 1:
        reason += f' and {len(named) - 1} more: {", ".join(named[1:4])}'
        reason += ', ...' if len(named) > 4 else ''
    return ScaleInvariance(name, True, modules[0] if modules else None, reason)


def find_scale_invariant(
    model: nn.Module, inputs: Sequence | None = None
) -> list[ScaleInvariance]:
    """Tell for every parameter whether the loss depends on its scale.

    One forward pass is run in train mode, as training would run it (``norm_eval``
    and frozen stages included), and its graph is read. Everything the pass touches
    is restored.

    Args:
        model: The model, without a DDP wrapper.
        inputs: Positional arguments of one forward pass; every tensor in what it
            returns counts as a loss. None: a detector of MMDetection gets small
            random images and its own losses, any other module is judged by the
            order of its children alone, and the reason says so.

    Returns:
        One entry per parameter, in the order of ``model.named_parameters()``;
        a shared parameter comes once.

    Raises:
        ValueError: If the forward pass returns nothing that needs a gradient.
    """
    if inputs is not None:
        return _observe(model, lambda: model(*inputs))
    if hasattr(model, 'data_preprocessor') and hasattr(model, 'loss'):
        from smd_mmdet.engine.sample_inputs import forward_detector

        notes: list[str] = []
        entries = _observe(model, lambda: forward_detector(model, notes))
        return [_with_notes(entry, notes) for entry in entries]
    with kept_rng(), _kept_modules(model):
        _to_train_mode(model)
        return _judge_structure(model)


def _with_notes(entry: ScaleInvariance, notes: list[str]) -> ScaleInvariance:
    if not notes:
        return entry
    return dataclasses.replace(entry, reason=f'{entry.reason} ({"; ".join(notes)})')


def _observe(model: nn.Module, forward: Callable) -> list[ScaleInvariance]:
    with _observable(model), torch.inference_mode(False), torch.enable_grad():
        owners = _Owners(model)
        owners.watch()
        outputs = [t for t in _tensors(forward()) if t.requires_grad]
        if not outputs and any(p.requires_grad for p in model.parameters()):
            raise ValueError(
                'the forward pass returned no tensor that needs a gradient'
            )
        parameters = _unique_parameters(model)
        walk = _Walk(parameters.values(), owners)
        walk.run(outputs)
        return [_entry(name, p, walk) for name, p in parameters.items()]


# -------------------------------------------------------------------- structure alone


def _judge_structure(model: nn.Module) -> list[ScaleInvariance]:
    found: dict[int, tuple[bool, str | None, str]] = {}
    names = {module: name for name, module in model.named_modules()}
    for parent in list(names):
        children = list(parent.children())
        for module, after in itertools.pairwise(children):
            weight = getattr(module, 'weight', None)
            if _is_linear_map(module) and _is_norm(after):
                verdict = _judge_pair(module, after, names[after])
                found.setdefault(id(weight), verdict)
    entries = []
    for name, parameter in _unique_parameters(model).items():
        default = (False, None, 'no norm follows it')
        invariant, norm, reason = found.get(id(parameter), default)
        if not parameter.requires_grad:
            invariant, norm, reason = False, None, 'frozen: requires_grad=False'
        reason += ' (judged by the order of modules alone: give inputs to observe)'
        entries.append(ScaleInvariance(name, invariant, norm, reason))
    return entries


def _is_linear_map(module: nn.Module) -> bool:
    convolution = nn.modules.conv._ConvNd
    return isinstance(module, (convolution, nn.Linear, nn.Bilinear))


def _judge_pair(module, norm, name: str) -> tuple[bool, str | None, str]:
    features = getattr(module, 'out_channels', getattr(module, 'out_features', None))
    width = getattr(norm, 'num_features', getattr(norm, 'num_channels', None))
    if width is not None and width != features:
        return False, None, f'{name}, which comes next, has another width'
    per_channel = isinstance(norm, _NormBase) or _is_sync_bn(norm)
    if isinstance(norm, nn.GroupNorm):
        per_channel = norm.num_groups == norm.num_channels
    fixed = _is_batch_norm(norm) and not norm.training and norm.running_mean is not None
    if fixed:
        return False, None, f'{name} uses fixed statistics (eval mode)'
    if module.bias is not None and not per_channel:
        return (
            False,
            None,
            f'its bias survives {name}, which normalizes several channels together',
        )
    return True, name, f'normalized by {name}'


# ------------------------------------------------------------------------------ proof


@dataclasses.dataclass(frozen=True)
class ScaleProof:
    """What numbers say about one parameter.

    Args:
        name: Dotted name of the parameter.
        verdict: True if the loss does not depend on its scale, False if it does,
            None if undecided.
        cosine: Cosine of (w, g) with the norms' ε taken out; Lemma 1 says 0. NaN
            without a gradient.
        loss_change: Relative change of the loss when only this parameter is scaled;
            None if it was scaled together with the others only.
        joint_change: Relative change of the loss when this and all others that
            passed (or the half, quarter, ... of them that did) are scaled by random
            factors; None if this one did not pass.
        epsilon_cosine: Cosine of (w, g) with ε as configured: how far the ε spoils
            the invariance.
        unit_gradient: ‖g‖·‖w‖ relative to the loss.
        reason: One sentence.
    """

    name: str
    verdict: bool | None
    cosine: float
    loss_change: float | None
    joint_change: float | None
    epsilon_cosine: float
    unit_gradient: float
    reason: str


@dataclasses.dataclass(frozen=True)
class _Precision:
    """Thresholds of a proof in one floating-point type.

    Factors are powers of two: they pass through products and norms without any
    rounding, so the loss of an invariant parameter does not change at all, but for
    the ε. What is tolerated is the trace of the ε that is left (``epsilon`` against
    output variances down to 1e-8) and, in ``cosine``, the rounding of the backward
    pass, which never gets to ``decisive``. ``gradient`` is where a gradient is
    nothing but rounding.
    """

    dtype: torch.dtype
    epsilon: float
    cosine: float
    decisive: float
    loss: float
    gradient: float


_DOUBLE = _Precision(torch.float64, 1e-16, 1e-6, 1e-4, 1e-7, 1e-10)
_SINGLE = _Precision(torch.float32, 1e-10, 1e-3, 3e-2, 1e-4, 1e-6)
# From here on the ε is worth a sentence: the equations' own error is some per cent.
_NOTABLE_EPSILON = 1e-2
_FACTORS = (0.25, 0.5, 2.0, 4.0)
# Two: a loss may return to its value by accident once.
_ALONE = (0.25, 4.0)
# Up to this many parameters a forward pass for each costs next to nothing.
_FEW = 4

_EPSILON_PLACES: dict[Callable, tuple[int, float]] = {
    F.batch_norm: (7, 1e-5),
    F.instance_norm: (7, 1e-5),
    F.group_norm: (4, 1e-5),
    F.layer_norm: (4, 1e-5),
    F.normalize: (3, 1e-12),
    torch.batch_norm: (7, 1e-5),
    torch.instance_norm: (7, 1e-5),
    torch.group_norm: (4, 1e-5),
    torch.layer_norm: (4, 1e-5),
}
_ADDITIONS = ('add', 'add_', '__add__', '__radd__', '__iadd__')
_LOWER_BOUNDS = ('clamp', 'clamp_min', 'clip', 'clamp_')


class _Arithmetic(torch.overrides.TorchFunctionMode):
    """Runs foreign code in another precision and with another ε.

    Args:
        precision: Where it is double, single-precision tensors and types are
            replaced as they come; losses bring inputs and anchors of their own.
        epsilon: Replaces the ε of every normalization; None leaves it.
    """

    def __init__(self, precision: _Precision, epsilon: float | None) -> None:
        super().__init__()
        self._double = precision.dtype == torch.float64
        self._epsilon = epsilon

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, '__name__', '')
        if name in ('__get__', '__set__'):
            return func(*args, **kwargs)
        if self._double:
            func, args, kwargs = self._doubled(func, name, args, kwargs)
        if self._epsilon is not None:
            args, kwargs = self._without_epsilon(func, name, args, kwargs)
        return func(*args, **kwargs)

    @staticmethod
    def _doubled(func, name: str, args, kwargs):
        if func is Tensor.float:
            return Tensor.double, args, kwargs
        dunder = name.startswith('__')
        in_place = (
            name == '__setitem__'
            or name.startswith('__i')
            or (name.endswith('_') and not dunder)
        )
        if not in_place:
            return func, _cast(args, torch.float64), _cast(kwargs, torch.float64)
        # The first argument is written to: a copy of it would be lost.
        target = args[0].dtype if args and isinstance(args[0], Tensor) else None
        dtype = torch.float32 if target == torch.float32 else torch.float64
        return func, (*args[:1], *_cast(args[1:], dtype)), _cast(kwargs, dtype)

    def _without_epsilon(self, func, name: str, args, kwargs):
        place = _EPSILON_PLACES.get(func)
        if place is not None:
            if 'eps' in kwargs or len(args) <= place[0]:
                return args, {**kwargs, 'eps': self._epsilon}
            return (*args[: place[0]], self._epsilon, *args[place[0] + 1 :]), kwargs
        if name in _ADDITIONS + _LOWER_BOUNDS and len(args) > 1:
            value, bound = args[:2]
            small = isinstance(bound, float) and 0 < bound < 1e-2
            if small and isinstance(value, Tensor) and _is_spread(value):
                return (value, self._epsilon, *args[2:]), kwargs
        return args, kwargs


def _cast(value, dtype: torch.dtype):
    if isinstance(value, Tensor):
        other = torch.float32 if dtype == torch.float64 else torch.float64
        return value.to(dtype) if value.dtype == other else value
    if value is torch.float32 and dtype == torch.float64:
        return dtype
    if type(value) in (list, tuple):
        return type(value)(_cast(item, dtype) for item in value)
    if type(value) is dict:
        return {key: _cast(item, dtype) for key, item in value.items()}
    return value


def _is_spread(value: Tensor) -> bool:
    """Whether a tensor is a norm or variance, as the graph of its making says."""
    node = value.grad_fn
    for _ in range(6):
        if node is None:
            return False
        operation = _operation(node)
        if operation in _SPREADS or operation in ('Var', 'VarMean'):
            return True
        if operation == 'Pow':
            exponent = _saved(node, 'exponent')
            if isinstance(exponent, (int, float)) and exponent == 2:
                return True
        elif operation not in _VIEWS and operation != 'Sqrt':
            return False
        node = node.next_functions[0][0]
    return False


@contextlib.contextmanager
def _single_precision_boxes() -> Iterator[None]:
    """Let mmcv's non-maximum suppression, if loaded, take boxes of double precision."""
    extension = sys.modules.get('mmcv._ext')
    names = [n for n in ('nms', 'softnms', 'nms_match') if hasattr(extension, n)]
    original = {name: getattr(extension, name) for name in names}

    def wrap(function):
        def call(*args, **kwargs):
            # Else the mode that replaces single precision would replace this, too.
            with torch._C.DisableTorchFunction():
                args = _cast(args, torch.float32)
                kwargs = _cast(kwargs, torch.float32)
                return function(*args, **kwargs)

        return call

    try:
        for name, function in original.items():
            setattr(extension, name, wrap(function))
        yield
    finally:
        for name, function in original.items():
            setattr(extension, name, function)


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy; tensors that torch refuses to copy are detached ones in it."""
    memo = {}
    for module in model.modules():
        for value in module.__dict__.values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
    replica = copy.deepcopy(model, memo)
    for parameter in replica.parameters():
        parameter.grad = None
    return replica


def _move_to_generic_point(model: nn.Module, seed: int) -> None:
    """Move parameters away from values that are special.

    A bias of 0 makes its convolution look invariant under a group norm, a norm
    weight of 0 hides the whole branch, and the invariance that is asked for is that
    of the function, not of one point.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor, scale: float) -> Tensor:
        drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        return (drawn * scale).to(tensor)

    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.numel() or not parameter.is_floating_point():
                continue
            value = parameter.flatten()[0]
            if not bool((parameter == value).all()):
                continue
            scale = 0.1 * abs(float(value)) or (0.1 if parameter.dim() < 2 else 0.01)
            parameter.add_(noise(parameter, scale))
        for module in model.modules():
            mean = getattr(module, 'running_mean', None)
            if _is_batch_norm(module) and isinstance(mean, Tensor):
                mean.add_(noise(mean, 0.1))


class _Experiment:
    """Losses and gradients of a copy of a model, with all randomness fixed."""

    def __init__(self, model, loss_fn, names, seed: int, precision: _Precision) -> None:
        self._loss_fn = loss_fn
        self._seed = seed
        self.precision = precision
        self.model = _copied(model)
        if precision.dtype == torch.float64:
            self.model.double()
        _to_train_mode(self.model)
        _make_observable(self.model)
        _move_to_generic_point(self.model, seed)
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        self.parameters = {name: parameters[name] for name in names}
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        self.epsilon: float | None = precision.epsilon

    @contextlib.contextmanager
    def _loss(self) -> Iterator[Tensor]:
        """The loss, with its graph alive; buffers are put back at the end."""
        double = self.precision.dtype == torch.float64
        with contextlib.ExitStack() as stack:
            stack.enter_context(_kept_modules(self.model))
            stack.enter_context(_no_checkpointing())
            if double:
                stack.enter_context(_default_dtype(torch.float64))
                stack.enter_context(_single_precision_boxes())
            _seed(self._seed)
            with _Arithmetic(self.precision, self.epsilon):
                loss = self._loss_fn(self.model)
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                raise ValueError('loss_fn must return one scalar tensor')
            yield loss.reshape(())

    def gradients(self) -> tuple[float, dict[str, Tensor]]:
        """The loss and the gradient of every parameter that has one."""
        parameters = list(self.parameters.values())
        with torch.enable_grad(), self._loss() as loss:
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
        names = zip(self.parameters, found, strict=True)
        return float(loss.detach()), {n: g for n, g in names if g is not None}

    def scaled_loss(self, factors: Mapping[str, float]) -> float:
        """Loss with some parameters multiplied; powers of two undo exactly."""
        self._multiply(factors)
        try:
            # With the graph: an ε is told from any other constant by it.
            with torch.enable_grad(), self._loss() as loss:
                return float(loss.detach())
        finally:
            self._multiply({name: 1 / factor for name, factor in factors.items()})

    def _multiply(self, factors: Mapping[str, float]) -> None:
        with torch.no_grad():
            for name, factor in factors.items():
                self.parameters[name].mul_(factor)


def verify_scale_invariance(
    model: nn.Module,
    loss_fn: Callable[[nn.Module], Tensor],
    names: Iterable[str],
    *,
    seed: int = 0,
    double: bool = True,
    alone: bool | None = None,
) -> dict[str, ScaleProof]:
    """Prove or refute by numbers that parameters are scale-invariant.

    Works on a copy of the model, moved slightly where parameters are constant
    (biases of 0, norm weights of 0 or 1), since those points are special. Two things
    are measured with the norms' ε made negligible: the cosine of (w, g), and the
    loss with the parameters multiplied by powers of two. The cosine with the true ε
    is given beside it.

    Args:
        model: The model, without a DDP wrapper; it is not touched.
        loss_fn: Takes a model, returns its scalar loss on fixed data. Random
            generators are seeded alike before every call, BN statistics restored
            after it.
        names: Names of parameters, candidates or any others.
        seed: Seed of the random generators, factors and displacement.
        double: Compute in float64, if the model can; else in float32, with the
            thresholds that this needs.
        alone: Scale every parameter alone too (two forward passes for each). False:
            only where the other figures leave a doubt. None: also where there are
            few, or a few have failed.

    Returns:
        One proof per name.

    Raises:
        ValueError: If a name is no parameter of the model, or ``loss_fn`` returns
            no scalar tensor.
    """
    names = list(dict.fromkeys(names))
    known = dict(model.named_parameters(remove_duplicate=False))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f'the model has no parameter {unknown[0]!r}')
    if not names:
        return {}
    with kept_rng(), torch.inference_mode(False):
        if double:
            try:
                experiment = _Experiment(model, loss_fn, names, seed, _DOUBLE)
                return _prove(experiment, seed, alone)
            except (RuntimeError, TypeError, NotImplementedError):
                # An operation without float64: the same in float32, or its error.
                pass
        experiment = _Experiment(model, loss_fn, names, seed, _SINGLE)
        return _prove(experiment, seed, alone)


@dataclasses.dataclass
class _Figures:
    cosine: float
    unit_gradient: float
    epsilon_cosine: float = math.nan
    loss_change: float | None = None
    joint_change: float | None = None
    by_epsilon: bool = False


def _prove(
    experiment: _Experiment, seed: int, alone: bool | None
) -> dict[str, ScaleProof]:
    loss, gradients = experiment.gradients()
    if not math.isfinite(loss):
        # Without ε a dead channel may divide 0 by 0.
        experiment.epsilon = None
        loss, gradients = experiment.gradients()
    figures = _measure(experiment, loss, gradients)
    del gradients
    if experiment.epsilon is not None:
        _note_traces_of_epsilon(experiment, figures, alone)
    if math.isfinite(loss):
        _scale(experiment, loss, figures, seed, alone)
    if experiment.epsilon is not None:
        experiment.epsilon = None
        true_loss, gradients = experiment.gradients()
        for name, figure in _measure(experiment, true_loss, gradients).items():
            figures[name].epsilon_cosine = figure.cosine
    return {
        name: _proof(name, figure, loss, experiment.precision)
        for name, figure in figures.items()
    }


def _measure(experiment, loss: float, gradients) -> dict[str, _Figures]:
    figures = {}
    for name, parameter in experiment.parameters.items():
        gradient = gradients.get(name)
        if gradient is None:
            figures[name] = _Figures(math.nan, 0.0)
            continue
        w, g = parameter.detach().double().flatten(), gradient.double().flatten()
        size = float(w.norm() * g.norm())
        cosine = float(w @ g) / size if size > 0 else math.nan
        figures[name] = _Figures(cosine, size / max(abs(loss), 1e-300))
    return figures


def _note_traces_of_epsilon(experiment, figures, alone: bool | None) -> None:
    """Tell gradients that exist by the ε alone: they shrink with it.

    A norm over two values, as on a map of one pixel and two images, gives ±1 whatever
    they are; only its ε lets a gradient through, and that has a cosine of its own.
    """
    precision = experiment.precision
    # Such a gradient is mostly faint: ε over the variance.
    faint = 1e3 * precision.loss if alone is False else math.inf
    doubtful = [
        n
        for n, f in figures.items()
        if abs(f.cosine) > precision.cosine and f.unit_gradient < faint
    ]
    if not doubtful:
        return
    usual = experiment.epsilon
    experiment.epsilon = usual / 100
    loss, gradients = experiment.gradients()
    smaller = _measure(experiment, loss, gradients)
    experiment.epsilon = usual
    for name in doubtful:
        if smaller[name].unit_gradient < figures[name].unit_gradient / 10:
            figures[name].by_epsilon = True


def _change(experiment, loss: float, factors: Mapping[str, float]) -> float:
    scaled = experiment.scaled_loss(factors)
    return abs(scaled - loss) / max(abs(loss), 1e-300)


def _tolerance(precision: _Precision, figure: _Figures) -> float:
    """Change of the loss that is allowed for one parameter scaled alone.

    A parameter with little influence must be measured by its own influence.
    """
    own = 1e-3 * figure.unit_gradient
    floor = 10 * torch.finfo(precision.dtype).eps
    return max(floor, min(precision.loss, own))


def _scale(experiment, loss: float, figures, seed: int, alone: bool | None) -> None:
    precision = experiment.precision
    decidable = {
        n: f
        for n, f in figures.items()
        if f.unit_gradient > precision.gradient and not f.by_epsilon
    }
    clean = [n for n, f in decidable.items() if abs(f.cosine) <= precision.cosine]
    # A large cosine is decisive; scaling only puts a second figure beside it.
    doubtful = [n for n in decidable if n not in clean]
    doubtful.sort(key=lambda n: abs(decidable[n].cosine))
    few = sum(abs(decidable[n].cosine) <= precision.decisive for n in doubtful)
    if alone or (alone is None and len(figures) <= _FEW):
        chosen = list(decidable)
    else:
        chosen = doubtful[: few if alone is False else max(_FEW, few)]
    for name in chosen:
        changes = [_change(experiment, loss, {name: factor}) for factor in _ALONE]
        decidable[name].loss_change = max(changes)
    choose = random.Random(seed)
    factors = {name: choose.choice(_FACTORS) for name in clean}
    _scale_jointly(experiment, loss, figures, factors)


def _scale_jointly(experiment, loss: float, figures, factors: dict) -> None:
    """Scale all together; by halves, where the loss moves, to single out who did it."""
    if not factors:
        return
    change = _change(experiment, loss, factors)
    names = list(factors)
    if change <= experiment.precision.loss:
        for name in names:
            figures[name].joint_change = change
    elif len(names) == 1:
        figures[names[0]].loss_change = change
    else:
        half = len(names) // 2
        for part in (names[:half], names[half:]):
            some = {name: factors[name] for name in part}
            _scale_jointly(experiment, loss, figures, some)


def _proof(name: str, figure: _Figures, loss: float, precision) -> ScaleProof:
    verdict, reason = _verdict(figure, loss, precision)
    epsilon = figure.epsilon_cosine
    if verdict and abs(epsilon) > _NOTABLE_EPSILON:
        reason += f'; the ε of its norm matters: cosine {epsilon:.1e} with it'
    if precision.dtype == torch.float32:
        reason += ' (in float32)'
    return ScaleProof(
        name,
        verdict,
        figure.cosine,
        figure.loss_change,
        figure.joint_change,
        epsilon,
        figure.unit_gradient,
        reason,
    )


def _verdict(figure: _Figures, loss: float, precision) -> tuple[bool | None, str]:
    if not math.isfinite(loss):
        return None, 'undecided: the loss is not finite'
    if not figure.unit_gradient > precision.gradient:
        return None, 'undecided: no gradient reaches it'
    if figure.by_epsilon:
        return None, 'undecided: what gradient reaches it comes from the ε of its norm'
    cosine = f'cosine {figure.cosine:.1e}'
    straight = abs(figure.cosine) <= precision.cosine
    if figure.loss_change is None:
        if not straight:
            return False, cosine
        if figure.joint_change is None:
            return None, f'undecided: {cosine}'
        share = f'{figure.joint_change:.1e}'
        return True, f'{cosine}, joint scaling changes the loss by {share} of it'
    text = f'{cosine}, scaling changes the loss by {figure.loss_change:.1e} of it'
    still = figure.loss_change <= _tolerance(precision, figure)
    if straight or not still:
        return straight and still, text
    # A cosine that is real moves the loss in proportion.
    expected = abs(figure.cosine) * figure.unit_gradient
    if figure.loss_change < 1e-3 * expected:
        return True, f'{text}; the cosine is rounding'
    if abs(figure.cosine) <= precision.decisive:
        return None, f'undecided: its gradient is little more than rounding ({text})'
    return False, text
