"""Turns closed windows into columns: a row for every window and layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import clipping
from .filters import FilterMeans
from .quantities import QUANTITIES
from .readers import Reader
from .weights import MeasuredWeights
from .windows import ClosedWindow

__all__ = ['COLUMNS', 'STATISTICS', 'columns_of']

STATISTICS = ('mean', 'var', 'min', 'max')
COLUMNS = (
    *('iter', 'count', 'layer', 'shape', 'lr', 'weight_decay', 'momentum', 'stage'),
    *(f'{quantity}_{name}' for quantity in QUANTITIES for name in STATISTICS),
    *('angular_update_eq', 'weight_norm_eq'),
    *clipping.COLUMNS,
)


def columns_of(
    windows: Sequence[ClosedWindow],
    weights: MeasuredWeights,
    reader: Reader,
    filters: FilterMeans | None = None,
) -> dict[str, np.ndarray]:
    """Turn windows into columns; waits for those whose values have not arrived.

    Args:
        windows: The windows, in order.
        weights: The layers that they measure.
        reader: What knows the equilibrium of the optimizer.
        filters: What the windows hold by filter, if anything.

    Returns:
        Column name to array, a row for each window and layer, in the order of
        :data:`COLUMNS`; then, by filter, those of :data:`.filters.COLUMNS`.

    Example:
        >>> import torch
        >>> from smd_mmdet.monitor.readers import SGDReader
        >>> weight = torch.nn.Parameter(torch.ones(2, 3))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> weights = MeasuredWeights(optimizer, {'conv': weight})
        >>> reader = SGDReader(optimizer, weights.params, weights.groups)
        >>> columns = columns_of([], weights, reader)
        >>> tuple(columns) == COLUMNS, len(columns['iter'])
        (True, 0)
    """
    layers = len(weights)
    # Statistics of every quantity, and the means of what is kept of clipping.
    moments = np.full((len(windows), 5, len(QUANTITIES), layers), np.nan)
    of_clipping = np.empty((len(clipping.COLUMNS), len(windows), layers))
    for i, window in enumerate(windows):
        known = [list(QUANTITIES).index(name) for name in window.quantities]
        moments[i][:, known] = window.moments.numpy()
        of_clipping[:, i] = window.clipping_means()
    settings = np.array([_mean_settings(window) for window in windows])
    lr, decay, momentum = settings.reshape(-1, 3).T
    shapes = np.empty(layers, dtype=object)
    shapes[:] = weights.shapes

    def per_window(values: list[Any]) -> np.ndarray:
        return np.repeat(np.array(values, dtype=np.int64), layers)

    def per_layer(values: Any) -> np.ndarray:
        return np.tile(np.array(values, dtype=object), len(windows))

    columns = {
        'iter': per_window([closed.window.last_iteration for closed in windows]),
        'count': moments[:, 0, 0].astype(np.int64).ravel(),  # of the weight norm
        'layer': per_layer(weights.names),
        'shape': np.tile(shapes, len(windows)),
        'lr': lr,
        'weight_decay': decay,
        'momentum': momentum,
        'stage': per_window([closed.stage.number for closed in windows]),
    }
    for i, quantity in enumerate(QUANTITIES):
        for j, name in enumerate(STATISTICS, start=1):
            columns[f'{quantity}_{name}'] = moments[:, j, i].ravel()
    angle, norm = reader.equilibrium(lr, decay, momentum, columns)
    columns.update(angular_update_eq=angle, weight_norm_eq=norm)
    columns |= clipping.columns_of(
        of_clipping.reshape(len(clipping.COLUMNS), -1),
        columns['count'],
        columns['unit_grad_sq_mean'],
    )
    if filters is not None:
        means = [closed.filter_means for closed in windows]
        columns |= filters.columns([one for one in means if one is not None])
    return columns


def _mean_settings(closed: ClosedWindow) -> np.ndarray:
    """Mean learning rate, weight decay and momentum; shape (layers, 3)."""
    window = closed.window
    if closed.stage.steady:  # a mean of equal numbers would differ in the last digit
        return window.settings.numpy()
    return (window.settings_sum / window.steps).numpy()
