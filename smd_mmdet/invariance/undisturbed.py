"""Whatever a pass through the model touches is put back."""

import collections
import contextlib
import copy
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

__all__ = [
    'is_batch_norm',
    'is_norm',
    'is_sync_bn',
    'kept_modules',
    'kept_rng',
    'make_observable',
    'no_checkpointing',
    'observable',
    'seed_all',
    'to_train_mode',
]


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


class _Contents:
    """Contents of a mutable container, to be put back into the same object."""

    def __init__(self, container: Any) -> None:
        self.container = container
        self.copy = copy.copy(container)

    def restore(self) -> None:
        self.container.clear()
        if isinstance(self.container, (list, collections.deque)):
            self.container.extend(self.copy)
        else:
            self.container.update(self.copy)


@contextlib.contextmanager
def kept_modules(model: nn.Module) -> Iterator[None]:
    """Restore every module's attributes, containers and buffer values at the end.

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


def make_observable(model: nn.Module) -> None:
    """Remove what hides the graph or needs other processes."""
    for module in model.modules():
        if getattr(module, 'with_cp', False) is True:
            vars(module)['with_cp'] = False
        if is_sync_bn(module):
            module.forward = _local_batch_norm(module)


@contextlib.contextmanager
def no_checkpointing() -> Iterator[None]:
    """Run checkpointed functions directly: a checkpoint is one opaque graph node."""
    import torch.utils.checkpoint as checkpointing

    def direct(function: Callable, *args: Any, **kwargs: Any) -> Any:
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
    vars(checkpointing)['checkpoint'] = direct
    try:
        yield
    finally:
        vars(checkpointing)['checkpoint'] = original


@contextlib.contextmanager
def observable(model: nn.Module) -> Iterator[None]:
    """Put a model into a state in which its graph shows, and restore it at the end."""
    with kept_rng(), kept_modules(model), no_checkpointing():
        to_train_mode(model)
        make_observable(model)
        yield
