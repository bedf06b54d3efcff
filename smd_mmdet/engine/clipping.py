"""Where a run clips its gradients, and who is told by how much.

MMEngine's OptimWrapper clips in ``_clip_grad``, by the function ``clip_func``. That of
clipping by norm returns the norm that all gradients had, which tells the rest.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from mmengine.optim import OptimWrapper
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

from smd_mmdet.monitor.shards import is_flattened

__all__ = ['Listener', 'clipping_of', 'follow_clipping', 'unknown_clipping']

# Where a wrapper makes a step, and could clip before.
STEPS = ('_clip_grad', 'step', 'update_params')


class Listener(Protocol):
    """Who wants to know by how much gradients are clipped: a monitor."""

    unclipped: bool

    def note_clipping(
        self, total_norm: Tensor, max_norm: float, norm_type: float
    ) -> None:
        """Take what is known of the clipping of the step to come."""


class _Overheard:
    """A wrapper's ``clip_func`` that also tells by how much it clips.

    Args:
        clip_func: What clips, as ``torch.nn.utils.clip_grad_norm_`` does.
    """

    def __init__(self, clip_func: Callable[..., Any]) -> None:
        self.clip_func = clip_func
        self.listeners: list[Listener] = []

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> Any:
        total_norm = self.clip_func(params, *args, **kwargs)
        # A fault of ours must not end the step; what is not told is not known.
        with contextlib.suppress(Exception):
            max_norm = args[0] if args else kwargs['max_norm']
            norm_type = args[1] if len(args) > 1 else kwargs.get('norm_type', 2.0)
            for listener in self.listeners:
                listener.note_clipping(total_norm, max_norm, norm_type)
        return total_norm


def clipping_of(wrapper: OptimWrapper) -> dict[str, Any] | None:
    """How a run clips its gradients, as plain values for its records.

    Args:
        wrapper: The run's ``optim_wrapper``.

    Returns:
        None if it does not. Else ``type`` is 'norm' or 'value', with the arguments of
        torch's function; or 'unknown', with the ``reason``, where the wrapper may clip
        in a way of its own.
    """
    settings = wrapper.clip_grad_kwargs
    # One that steps in its own way, and is told to clip, has to call clip_func.
    own = _own(wrapper, *(['_clip_grad'] if settings else STEPS))
    if own is not None:
        reason = f'{type(wrapper).__name__} has its own {own}, which may clip gradients'
        return {'type': 'unknown', 'reason': reason}
    optimizer = wrapper.optimizer
    if optimizer.defaults.get('max_grad_norm'):  # LAMB's
        reason = f'{type(optimizer).__name__} clips gradients itself (max_grad_norm)'
        return {'type': 'unknown', 'reason': reason}
    if not settings:
        return None
    if any(map(is_flattened, _parameters(optimizer))):
        reason = 'each process clips its part of the gradients by the norm of that part'
        return {'type': 'unknown', 'reason': reason}
    clip_func = _original(wrapper)
    known = {clip_grad_norm_: 'norm', clip_grad_value_: 'value'}.get(clip_func)
    if known is None:
        name = getattr(clip_func, '__name__', type(clip_func).__name__)
        return {'type': 'unknown', 'reason': f'gradients are clipped by {name}'}
    return {'type': known, **{key: _plain(value) for key, value in settings.items()}}


def unknown_clipping(wrapper: OptimWrapper) -> str | None:
    """Why it is not known by how much the gradients of each step are multiplied.

    Args:
        wrapper: The run's ``optim_wrapper``.

    Returns:
        A few words; None if it is known, or nothing is clipped.
    """
    clipping = clipping_of(wrapper)
    if clipping is None:
        return None
    if clipping['type'] != 'norm':
        return clipping.get('reason', 'clip_grad.type=value')
    norm_type = clipping.get('norm_type', 2)
    return None if norm_type in (2, '2') else f'clip_grad.norm_type={norm_type}'


def follow_clipping(wrapper: OptimWrapper, listener: Listener) -> Callable[[], None]:
    """Tell a monitor of every step by how much its gradients are clipped.

    Of a run that does not clip it is told once, and of one that clips by value or in
    a way that is not known nothing.

    Args:
        wrapper: The run's ``optim_wrapper``.
        listener: The monitor.

    Returns:
        What ends it. The wrapper is as it was once nobody listens.
    """
    clipping = clipping_of(wrapper)
    listener.unclipped = clipping is None
    if clipping is None or clipping['type'] != 'norm':
        return lambda: None
    if not isinstance(wrapper.clip_func, _Overheard):
        wrapper.clip_func = _Overheard(wrapper.clip_func)
    overheard = wrapper.clip_func
    overheard.listeners.append(listener)

    def leave() -> None:
        with contextlib.suppress(ValueError):  # it has left already
            overheard.listeners.remove(listener)
        if not overheard.listeners and wrapper.clip_func is overheard:
            wrapper.clip_func = overheard.clip_func

    return leave


def _own(wrapper: OptimWrapper, *methods: str) -> str | None:
    """The first of these methods that the wrapper's class has not from MMEngine."""
    for method in methods:
        module = getattr(type(wrapper), method).__module__
        if module.partition('.')[0] != 'mmengine':
            return method
    return None


def _original(wrapper: OptimWrapper) -> Callable[..., Any]:
    """What clips, whoever listens."""
    clip_func = wrapper.clip_func
    return clip_func.clip_func if isinstance(clip_func, _Overheard) else clip_func


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    return (param for group in optimizer.param_groups for param in group['params'])


def _plain(value: Any) -> Any:
    """A setting as JSON holds it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, bool | int | float | str | None) else str(value)
