"""Whatever a pass through the model touches is put back."""

import contextlib
import functools
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from .state import State

__all__ = [
    'TouchedWarning',
    'is_batch_norm',
    'is_norm',
    'is_sync_bn',
    'kept_data',
    'kept_modules',
    'kept_rng',
    'make_observable',
    'no_checkpointing',
    'not_compiled',
    'observable',
    'seed_all',
    'to_train_mode',
    'untouched',
]

# Data sets wrap data sets, and transforms hold transforms.
_DEPTH_OF_DATA = 8
# This many things that were changed are named in a warning.
_NAMED = 5


class TouchedWarning(UserWarning):
    """Something changed a model that is only to be looked at."""


@contextlib.contextmanager
def kept_rng() -> Iterator[None]:
    """Restore the random generators of torch, CUDA, numpy and Python at the end.

    Example:
        >>> torch.manual_seed(0).initial_seed()
        0
        >>> with kept_rng():
        ...     one = torch.randn(3)
        >>> torch.equal(torch.randn(3), one)
        True
    """
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


def seed_all(seed: int) -> None:
    """Seed the random generators of torch, numpy and Python."""
    torch.manual_seed(seed)
    random.seed(seed)
    if 'numpy' in sys.modules:
        sys.modules['numpy'].random.seed(seed)


@contextlib.contextmanager
def kept_modules(model: nn.Module) -> Iterator[None]:
    """Restore everything that hangs on a model at the end.

    This covers weights, BN statistics, gradients, training flags, ``with_cp``, hooks, a
    replaced ``forward``, the counters that some losses and heads keep, and what the
    functions in a model close over.
    """
    state = State(model)
    try:
        yield
    finally:
        state.restore()


@contextlib.contextmanager
def kept_data(data: object) -> Iterator[None]:
    """Restore what a data set and its transforms keep, and all random generators."""
    with kept_rng():
        state = State(data, _DEPTH_OF_DATA, values=False)
        try:
            yield
        finally:
            state.restore()


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Restore a model that nothing should change, and warn if something did."""
    state = State(model)
    try:
        yield
    finally:
        if changed := state.restore():
            listed = ', '.join(changed[:_NAMED])
            more = f' and {len(changed) - _NAMED} more' * (len(changed) > _NAMED)
            warnings.warn(
                'the proof of scale invariance runs on a copy of the model, but the '
                f'loss changed the model itself; put back: {listed}{more}',
                TouchedWarning,
                stacklevel=4,
            )


def is_sync_bn(module: nn.Module) -> bool:
    """Whether a module is a SyncBatchNorm, of torch or of MMCV."""
    return any(base.__name__ == 'SyncBatchNorm' for base in type(module).__mro__)


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm, synchronized or not."""
    return isinstance(module, _BatchNorm) or is_sync_bn(module)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalization, one of torch's or one that is named so."""
    if isinstance(module, (_NormBase, nn.GroupNorm, nn.LayerNorm)):
        return True
    return any(word in type(module).__name__.lower() for word in ('norm', 'bn'))


def _local_batch_norm(module: Any) -> Callable[[Tensor], Tensor]:
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


def to_train_mode(model: nn.Module) -> None:
    """Put a model into the mode that a training loop would put it in.

    ``train()`` lets the model re-freeze what ``norm_eval`` and ``frozen_stages``
    say. Modules that somebody put into eval mode under a training root stay there.
    """
    frozen = [m for m in model.modules() if not m.training] if model.training else []
    model.train()
    for module in frozen:
        module.training = False


def _is_wrapped_by_fairscale(module: nn.Module) -> bool:
    """Whether fairscale checkpoints a module: it has a checkpoint of its own."""
    forward = vars(module).get('forward')
    if not isinstance(forward, functools.partial):
        return False
    return getattr(forward.func, '__name__', '') == '_checkpointed_forward'


def make_observable(model: nn.Module) -> None:
    """Remove what hides the graph or needs other processes."""
    for module in model.modules():
        if getattr(module, 'with_cp', False) is True:
            vars(module)['with_cp'] = False
        if _is_wrapped_by_fairscale(module):
            del vars(module)['forward']
        if is_sync_bn(module):
            module.forward = _local_batch_norm(module)


def _reentrant(function: Callable, _: bool, *args: Any) -> Any:
    """What a reentrant checkpoint computes, with its graph.

    It trains nothing where none of its inputs needs a gradient.
    """
    reached = any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)
    with torch.set_grad_enabled(reached and torch.is_grad_enabled()):
        return function(*args)


def _not_reentrant(
    function: Callable, _: bool, context: Callable, *args: Any, **kwargs: Any
) -> Iterator[None]:
    """What surrounds the function in a checkpoint that is not reentrant."""
    forward, _recomputation = context()
    with forward:
        yield


@contextlib.contextmanager
def no_checkpointing() -> Iterator[None]:
    """Run checkpointed functions directly: a checkpoint is one opaque graph node."""
    import torch.utils.checkpoint as checkpointing

    # `checkpoint` may have been imported by name. What it calls is looked up later.
    places: tuple[tuple[Any, str, Any], ...] = (
        (checkpointing.CheckpointFunction, 'apply', staticmethod(_reentrant)),
        (checkpointing, '_checkpoint_without_reentrant_generator', _not_reentrant),
    )
    before = [vars(owner).get(name) for owner, name, _ in places]
    for owner, name, direct in places:
        setattr(owner, name, direct)
    try:
        yield
    finally:
        for (owner, name, _), value in zip(places, before, strict=True):
            if value is None:
                delattr(owner, name)  # it is inherited
            else:
                setattr(owner, name, value)


@contextlib.contextmanager
def not_compiled() -> Iterator[None]:
    """Run compiled modules as they are written: a compiled one is one opaque node."""
    set_stance = getattr(torch.compiler, 'set_stance', None)
    # Where its compiler was not imported, nothing has been compiled.
    if set_stance is None or 'torch._dynamo' not in sys.modules:
        yield
        return
    with set_stance('force_eager'):
        yield


@contextlib.contextmanager
def observable(model: nn.Module) -> Iterator[None]:
    """Put a model into a state in which its graph shows, and restore it at the end."""
    with kept_rng(), kept_modules(model), no_checkpointing(), not_compiled():
        to_train_mode(model)
        make_observable(model)
        yield
