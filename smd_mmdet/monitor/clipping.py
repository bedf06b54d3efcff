"""By how much gradients were clipped before a step: what is kept of it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .shards import whole_of

__all__ = [
    'COLUMNS',
    'UNCLIPPED',
    'UNKNOWN',
    'Clipped',
    'clip_coefficient',
    'clip_samples',
    'columns_of',
    'note',
]

# Columns of the records; NaN where it is not known whether gradients are clipped.
COLUMNS = ('clipped_share', 'clip_coefficient_mean', 'clipping_power')
# Of a step: the clip coefficient, and the norm that all gradients have after it.
Clipped = tuple[Tensor | float, Tensor | float]
# Of a step of which nothing is told, where gradients may be clipped, or are not.
UNKNOWN: Clipped = (math.nan, math.nan)
UNCLIPPED: Clipped = (1.0, 1.0)


def clip_coefficient(
    total_norm: Tensor | float, max_norm: Tensor | float
) -> Tensor | float:
    """What a step's gradients were multiplied by when their norm was clipped.

    As ``torch.nn.utils.clip_grad_norm_`` has it, min(1, max_norm / (norm + 1e-6)).

    Args:
        total_norm: Norm of all gradients before they were clipped, which that
            function returns.
        max_norm: The largest norm that they may have.

    Returns:
        The coefficient; on the device, if the norm is a tensor there.

    Example:
        >>> clip_coefficient(torch.tensor(4.0), max_norm=1.0)
        tensor(0.2500)
        >>> clip_coefficient(0.5, max_norm=1.0)
        1.0
    """
    coefficient = max_norm / (total_norm + 1e-6)
    if isinstance(coefficient, Tensor):
        return coefficient.clamp(max=1.0)
    return min(1.0, float(coefficient))


def note(
    total_norm: Tensor | float, max_norm: Tensor | float, norm_type: float = 2.0
) -> Clipped:
    """What is kept of the clipping of a step, without waiting for the device.

    Args:
        total_norm: Norm of all gradients before they were clipped: a number, or a
            tensor of one element. For a DTensor whose sum is not taken yet all ranks
            have to call this.
        max_norm: The largest norm that they may have.
        norm_type: Which norm that is.

    Returns:
        Coefficient and norm after it, NaN where that is another norm than the
        Euclidean one; 0-d tensors where the norm is on a device other than the host.

    Raises:
        ValueError: If the norm is not one number.

    Example:
        >>> note(torch.tensor([4.0]), max_norm=1.0)
        (0.2499999375..., 0.99999975...)
    """
    if isinstance(total_norm, Tensor):
        # Of sharded gradients it may be a sum that is not taken yet.
        total_norm = whole_of(total_norm)
        if total_norm.numel() != 1:
            shape = tuple(total_norm.shape)
            raise ValueError(f'total_norm must be one number, got shape {shape}')
        total_norm = total_norm.detach().reshape(())
        # What is on the host is read at once: to copy it to a GPU would wait for that.
        if total_norm.device.type == 'cpu':
            total_norm = float(total_norm)
    coefficient = clip_coefficient(total_norm, max_norm)
    known = norm_type in (2, '2')
    return coefficient, coefficient * total_norm if known else math.nan


def clip_samples(
    clipped: Tensor, grad_sq: Tensor, unit_grad_sq: Tensor, valid: Tensor
) -> Tensor:
    """What is averaged over a window's steps, for every layer.

    A clipped gradient does not grow as the weights shrink: its coefficient shrinks with
    them. With the share f of the measured weights in the squared norm of all gradients,
    d ln(coefficient²)/d ln‖w‖ = 2f if all their norms change together, and 0 where the
    step is not clipped. Each step adds to L̂ by its own ‖g̃‖².

    Args:
        clipped: Coefficient and applied norm of each step, NaN where they are not
            known; shape (steps, 2), float64.
        grad_sq: ‖g‖² as it is applied; shape (steps, layers).
        unit_grad_sq: ‖g̃‖² of it, of the same shape.
        valid: Whether a layer takes the step, of the same shape.

    Returns:
        Tensor: 1 where a step is clipped and 0 where it is not; the coefficient; and
        2f‖g̃‖² where it is clipped. Shape (3, steps, layers).

    Example:
        Two layers with half of the squared norm, in a step that is clipped:

        >>> clipped = torch.tensor([[0.25, 4.0]]).double()
        >>> squares = torch.tensor([[2.0, 6.0]]).double()
        >>> valid = torch.tensor([[True, True]])
        >>> clip_samples(clipped, squares, squares, valid).flatten(1).tolist()
        [[1.0, 1.0], [0.25, 0.25], [2.0, 6.0]]
    """
    coefficient, applied = clipped.unsqueeze(-1).unbind(1)
    active = coefficient < 1
    measured = torch.where(valid, grad_sq, 0.0).sum(1, keepdim=True)
    power = torch.where(active, 2 * measured / applied.square(), 0.0)
    is_clipped = active.to(coefficient)
    unknown = coefficient.isnan()
    return torch.stack(
        [
            is_clipped.masked_fill(unknown, torch.nan).expand_as(grad_sq),
            coefficient.expand_as(grad_sq),
            power.masked_fill(unknown, torch.nan) * unit_grad_sq,
        ]
    )


def columns_of(
    means: np.ndarray, count: np.ndarray, unit_grad_sq: np.ndarray
) -> dict[str, np.ndarray]:
    """The columns of windows, from the means of :func:`clip_samples` over them.

    Args:
        means: Shape (3, rows).
        count: Steps of each row; shape (rows,).
        unit_grad_sq: Mean ‖g̃‖² of each row; shape (rows,).

    Returns:
        Name of each of :data:`COLUMNS` to its values.

    Example:
        >>> means = np.array([[0.1, np.nan], [0.95, np.nan], [0.5, np.nan]])
        >>> columns = columns_of(means, np.array([10, 10]), np.array([2.0, 2.0]))
        >>> for name, values in columns.items():
        ...     print(name, values)
        clipped_share [0.1 nan]
        clip_coefficient_mean [0.95  nan]
        clipping_power [0.25  nan]
    """
    share, coefficient, weighted = means
    # A mean has a rounding error; of steps that were counted there is a whole number.
    share = np.round(share * count) / np.maximum(count, 1)
    coefficient = np.where(share == 0, 1.0, coefficient)
    with np.errstate(invalid='ignore', divide='ignore'):
        power = np.where(share == 0, 0.0, weighted / unit_grad_sq)
    # Without a gradient nothing grows.
    power = np.where((unit_grad_sq == 0) & (share > 0), 0.0, power)
    return dict(zip(COLUMNS, (share, coefficient, power), strict=True))
