"""Many values of one quantity, over layers and seeds, reduced to three numbers."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

__all__ = ['Spread']


@dataclass(frozen=True)
class Spread:
    """Median and range of a quantity over layers and seeds.

    Args:
        median: Median of the finite values; NaN where there is none.
        low: Lowest of them.
        high: Highest of them.
        number: How many finite values there are.
    """

    median: float
    low: float
    high: float
    number: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> 'Spread':
        """The spread of those values that are known and finite."""
        kept = [v for v in values if v is not None and np.isfinite(v)]
        if not kept:
            return cls(np.nan, np.nan, np.nan, 0)
        return cls(float(np.median(kept)), min(kept), max(kept), len(kept))
