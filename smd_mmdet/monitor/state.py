"""The window under way as tensors and plain values, for a checkpoint."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .filters import FilterMeans
from .moments import WindowMoments
from .windows import Block, Window

__all__ = ['fits', 'load_window', 'save_window']


def save_window(
    window: Window, block: Block, moments: WindowMoments, filters: FilterMeans | None
) -> dict[str, Any]:
    """Copy what is measured of the window under way to the host.

    Args:
        window: The window.
        block: Its steps that wait to be reduced.
        moments: What its other steps are reduced to.
        filters: What it holds by filter, if anything.

    Returns:
        Copies that no later step changes.

    Example:
        >>> import torch
        >>> cpu = torch.device('cpu')
        >>> parts = Block(4, 1, 7, cpu), WindowMoments(['grad_norm'], 1, cpu), None
        >>> window = Window(8, layers=1, stage=None)
        >>> saved = save_window(window, *parts)
        >>> other = Window(1, layers=1, stage=None)
        >>> load_window(saved, other, *parts)
        >>> other.first_iteration
        8
    """
    return {
        'first_iteration': window.first_iteration,
        'last_iteration': window.last_iteration,
        'steps': window.steps,
        'settings_sum': window.settings_sum.clone(),
        'settings': window.settings.clone(),
        'moments': moments.saved(),
        'iterations': list(block.iterations),
        'block': _copies(block.tensors()),
        'filters': None if filters is None else _copies(filters.tensors()),
    }


def load_window(
    saved: dict[str, Any],
    window: Window,
    block: Block,
    moments: WindowMoments,
    filters: FilterMeans | None,
) -> None:
    """Continue the window that :func:`save_window` has saved.

    Args:
        saved: What :func:`save_window` returned.
        window: A new window; like the other three, of the same layers and size.
        block: Takes the steps that wait to be reduced.
        moments: Takes what the other steps are reduced to.
        filters: Takes what is measured by filter, if anything.
    """
    window.first_iteration = saved['first_iteration']
    names = ('settings_sum', 'settings', 'steps', 'last_iteration')
    window.load(**{name: saved[name] for name in names})
    moments.load(saved['moments'])
    block.load(saved['iterations'], saved['block'])
    if filters is not None:
        filters.load(saved['filters'])


def fits(saved: dict[str, Any], block: Block, moments: WindowMoments) -> bool:
    """Whether a saved window holds the values that are measured now.

    Args:
        saved: What :func:`save_window` returned, perhaps of an earlier version.
        block: What would take its steps.
        moments: What would take its moments.

    Returns:
        Whether names and shapes are the same.
    """
    tensors = block.tensors()
    return (
        moments.fit(saved['moments'])
        and saved['block'].keys() == tensors.keys()
        and all(saved['block'][n].shape[1:] == t.shape[1:] for n, t in tensors.items())
    )


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu().clone() for name, tensor in tensors.items()}
