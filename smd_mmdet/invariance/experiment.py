"""A copy of the model, in float64 and with negligible ε, to be measured on."""

import contextlib
import copy
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .operations import SPREADS, VIEWS, operation_of, saved_attribute
from .undisturbed import (
    is_batch_norm,
    kept_modules,
    make_observable,
    no_checkpointing,
    seed_all,
    to_train_mode,
)


@dataclasses.dataclass(frozen=True)
class Precision:
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


DOUBLE = Precision(torch.float64, 1e-16, 1e-6, 1e-4, 1e-7, 1e-10)
SINGLE = Precision(torch.float32, 1e-10, 1e-3, 3e-2, 1e-4, 1e-6)
# From here on the ε is worth a sentence: the equations' own error is some per cent.
NOTABLE_EPSILON = 1e-2
FACTORS = (0.25, 0.5, 2.0, 4.0)
# Two: a loss may return to its value by accident once.
ALONE = (0.25, 4.0)
# Up to this many parameters a forward pass for each costs next to nothing.
FEW = 4

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

    def __init__(self, precision: Precision, epsilon: float | None) -> None:
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
        operation = operation_of(node)
        if operation in SPREADS or operation in ('Var', 'VarMean'):
            return True
        if operation == 'Pow':
            exponent = saved_attribute(node, 'exponent')
            if isinstance(exponent, (int, float)) and exponent == 2:
                return True
        elif operation not in VIEWS and operation != 'Sqrt':
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
            if is_batch_norm(module) and isinstance(mean, Tensor):
                mean.add_(noise(mean, 0.1))


class Experiment:
    """Losses and gradients of a copy of a model, with all randomness fixed."""

    def __init__(self, model, loss_fn, names, seed: int, precision: Precision) -> None:
        self._loss_fn = loss_fn
        self._seed = seed
        self.precision = precision
        self.model = _copied(model)
        if precision.dtype == torch.float64:
            self.model.double()
        to_train_mode(self.model)
        make_observable(self.model)
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
            stack.enter_context(kept_modules(self.model))
            stack.enter_context(no_checkpointing())
            if double:
                stack.enter_context(_default_dtype(torch.float64))
                stack.enter_context(_single_precision_boxes())
            seed_all(self._seed)
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
