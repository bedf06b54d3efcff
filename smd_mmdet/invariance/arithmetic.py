"""Foreign code in double precision and with a negligible ε, without a change to it."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .operations import SPREADS, VIEWS, Node, operation_of, saved_attribute

__all__ = [
    'DOUBLE',
    'SINGLE',
    'Arithmetic',
    'Precision',
    'default_dtype',
    'single_precision_boxes',
]

# A function, its positional arguments and its keywords.
_Call = tuple[Callable, tuple, dict]


@dataclasses.dataclass(frozen=True)
class Precision:
    """Thresholds of a proof in one floating-point type.

    Factors are powers of two: they pass through products and norms without any
    rounding, so the loss of an invariant parameter does not change at all, but for
    the ε. What is tolerated is the trace of the ε that is left, and rounding.

    Args:
        dtype: The floating-point type.
        epsilon: Takes the place of the ε of every norm. It is small against output
            variances down to 1e-8.
        cosine: Largest cosine of (w, g) that may be the rounding of a backward pass.
        decisive: Cosine that rounding never reaches.
        loss: Largest relative change of the loss that may be the trace of the ε.
        gradient: Value of ‖g‖·‖w‖ / loss below which a gradient is only rounding.
    """

    dtype: torch.dtype
    epsilon: float
    cosine: float
    decisive: float
    loss: float
    gradient: float


DOUBLE = Precision(torch.float64, 1e-16, 1e-6, 1e-4, 1e-7, 1e-10)
SINGLE = Precision(torch.float32, 1e-10, 1e-3, 3e-2, 1e-4, 1e-6)

# Place of the ε among the arguments of functions that normalize.
_EPSILON_PLACES: dict[Callable, int] = {
    F.batch_norm: 7,
    F.instance_norm: 7,
    F.group_norm: 4,
    F.layer_norm: 4,
    F.normalize: 3,
    torch.batch_norm: 7,
    torch.instance_norm: 7,
    torch.group_norm: 4,
    torch.layer_norm: 4,
}
# Functions whose second argument may be an ε, added to a statistic or a bound of it.
_ADDITIONS = ('add', 'add_', '__add__', '__radd__', '__iadd__')
_LOWER_BOUNDS = ('clamp', 'clamp_min', 'clip', 'clamp_')


class Arithmetic(torch.overrides.TorchFunctionMode):
    """Runs foreign code in another precision and with another ε.

    Args:
        precision: The precision. If it is double, single-precision tensors and types
            are replaced as they come, since losses bring inputs and anchors of their
            own.
        epsilon: Takes the place of the ε of every normalization; None leaves it.
    """

    def __init__(self, precision: Precision, epsilon: float | None) -> None:
        super().__init__()
        self._double = precision.dtype == torch.float64
        self._epsilon = epsilon

    def __torch_function__(
        self,
        func: Callable,
        types: object,
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
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
    def _doubled(func: Callable, name: str, args: tuple, kwargs: dict) -> _Call:
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
        # The first argument is written to: what goes into a copy of it would be lost.
        target = args[0].dtype if args and isinstance(args[0], Tensor) else None
        dtype = torch.float32 if target == torch.float32 else torch.float64
        return func, (*args[:1], *_cast(args[1:], dtype)), _cast(kwargs, dtype)

    def _without_epsilon(
        self, func: Callable, name: str, args: tuple, kwargs: dict
    ) -> tuple[tuple, dict]:
        place = _EPSILON_PLACES.get(func)
        if place is not None:
            if 'eps' in kwargs or len(args) <= place:
                return args, {**kwargs, 'eps': self._epsilon}
            return (*args[:place], self._epsilon, *args[place + 1 :]), kwargs
        if name in _ADDITIONS + _LOWER_BOUNDS and len(args) > 1:
            value, bound = args[:2]
            small = isinstance(bound, float) and 0 < bound < 1e-2
            if small and isinstance(value, Tensor) and _is_spread(value):
                return (value, self._epsilon, *args[2:]), kwargs
        return args, kwargs


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Tensors and types of single precision, in whatever container, in another one."""
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
    node: Node = value.grad_fn
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
        elif operation == 'Mul':
            # Of z·z both sides come from the same place.
            return len(node.next_functions) == 2 and len(set(node.next_functions)) == 1
        elif operation not in VIEWS and operation != 'Sqrt':
            return False
        node = node.next_functions[0][0]
    return False


@contextlib.contextmanager
def single_precision_boxes() -> Iterator[None]:
    """Let mmcv's non-maximum suppression, if loaded, take boxes of double precision."""
    extension = sys.modules.get('mmcv._ext')
    names = [n for n in ('nms', 'softnms', 'nms_match') if hasattr(extension, n)]
    original = {name: getattr(extension, name) for name in names}

    def wrap(function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            # Without this, Arithmetic would make it double precision again.
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
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Create tensors in a floating-point type that is not torch's default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
