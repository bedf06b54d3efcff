"""What a control of the angular update adds to the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ['ControlColumns']


class ControlColumns:
    """Keeps what is wanted and what was multiplied, until the records ask for it.

    Args:
        names: Names of the controlled weights.

    Attributes:
        wanted_by_records: Whether somebody asks.

    Example:
        >>> columns = ControlColumns(['a'])
        >>> for iteration in (1, 2):
        ...     columns.note_wanted(iteration, np.array([0.003]))
        >>> columns.note_factors(2, {'a': 0.5})
        >>> rows = dict(iter=np.array([2, 2]), layer=np.array(['a', 'b']))
        >>> for name, values in columns.of(rows).items():
        ...     print(name, values)
        angular_update_wanted [0.003   nan]
        control_factor [0.5 1. ]
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.wanted_by_records = False
        self._index = {name: i for i, name in enumerate(names)}
        self._wanted: list[tuple[int, np.ndarray]] = []
        self._factors: list[tuple[int, dict[str, float]]] = []

    def note_wanted(self, iteration: int, wanted: np.ndarray) -> None:
        """Keep the wanted Δ of the step that an iteration makes, or takes part in."""
        # Mostly it is what it was, and one array does for all.
        if self._wanted and np.array_equal(self._wanted[-1][1], wanted):
            wanted = self._wanted[-1][1]
        self._wanted.append((iteration, wanted))

    def note_factors(self, iteration: int, factors: Mapping[str, float]) -> None:
        """Keep what was multiplied before an iteration, by name of the weight."""
        if factors:
            self._factors.append((iteration, dict(factors)))

    def of(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The columns of some rows, and forget what they are made of.

        Args:
            rows: Rows of the records, window by window; the first window begins where
                the last one ended that was asked for.

        Returns:
            ``angular_update_wanted``, the root mean square over the window's steps, and
            ``control_factor``, the product of the factors that were applied in it.
        """
        ends, layers = rows['iter'], rows['layer']
        wanted, factor = np.full(len(ends), np.nan), np.ones(len(ends))
        where = np.array([self._index.get(name, -1) for name in layers])
        for end in np.unique(ends):
            chosen = np.flatnonzero((ends == end) & (where >= 0))
            inside = [values for t, values in self._wanted if t <= end]
            if inside:
                root = np.sqrt(np.mean(np.square(inside), axis=0))
                wanted[chosen] = root[where[chosen]]
            for t, factors in self._factors:
                if t <= end:
                    factor[chosen] *= [factors.get(layers[i], 1.0) for i in chosen]
            self._wanted = [one for one in self._wanted if one[0] > end]
            self._factors = [one for one in self._factors if one[0] > end]
        return {'angular_update_wanted': wanted, 'control_factor': factor}

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {
            'wanted': [(t, values.tolist()) for t, values in self._wanted],
            'factors': list(self._factors),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._wanted = [(t, np.array(values)) for t, values in state['wanted']]
        self._factors = [(t, dict(factors)) for t, factors in state['factors']]
