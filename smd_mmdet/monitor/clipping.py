"""By how much gradients were clipped before a step: what is kept of it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ['COLUMNS', 'as_scalar', 'clip_coefficient', 'clip_samples', 'columns_of']

# Columns of the records; NaN where it is not known whether gradients are clipped.
COLUMNS = ('clipped_share', 'clip_coefficient_mean')


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


def as_scalar(coefficient: Tensor | float) -> Tensor | float:
    """A coefficient as a block of steps takes it, without waiting for the device.

    Args:
        coefficient: A number, or a tensor of one element.

    Returns:
        A number, or a 0-d tensor on a device that is not the host.

    Raises:
        ValueError: If it is not one number.

    Example:
        >>> as_scalar(torch.tensor([0.5]))
        0.5
    """
    if not isinstance(coefficient, Tensor):
        return float(coefficient)
    if coefficient.numel() != 1:
        shape = tuple(coefficient.shape)
        raise ValueError(f'the clip coefficient must be one number, got shape {shape}')
    coefficient = coefficient.detach().reshape(())
    # What is on the host is read at once: to copy it to a GPU would wait for that.
    return float(coefficient) if coefficient.device.type == 'cpu' else coefficient


def clip_samples(coefficients: Tensor, layers: int) -> Tensor:
    """What is averaged over a window's steps, for every layer.

    Args:
        coefficients: Clip coefficient of each step, NaN where it is not known; shape
            (steps,), float64.
        layers: Number of layers, all of which a step's coefficient is that of.

    Returns:
        Tensor: 1 where a step is clipped and 0 where it is not, and the coefficient;
        shape (2, steps, layers).

    Example:
        >>> samples = clip_samples(torch.tensor([0.25, 1.0]).double(), layers=1)
        >>> samples[:, :, 0].tolist()
        [[1.0, 0.0], [0.25, 1.0]]
    """
    clipped = torch.where(
        coefficients.isnan(), torch.nan, (coefficients < 1).to(coefficients)
    )
    return torch.stack([clipped, coefficients]).unsqueeze(-1).expand(-1, -1, layers)


def columns_of(means: np.ndarray, count: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of windows, from the means of :func:`clip_samples` over them.

    Args:
        means: Shape (2, rows).
        count: Steps of each row; shape (rows,).

    Returns:
        Name of each of :data:`COLUMNS` to its values.

    Example:
        >>> means = np.array([[0.1, np.nan], [0.95, np.nan]])
        >>> columns = columns_of(means, np.array([10, 10]))
        >>> columns['clipped_share'].tolist()
        [0.1, nan]
    """
    share, coefficient = means
    # A mean has a rounding error; of steps that were counted there is a whole number.
    share = np.round(share * count) / np.maximum(count, 1)
    coefficient = np.where(share == 0, 1.0, coefficient)
    return dict(zip(COLUMNS, (share, coefficient), strict=True))
