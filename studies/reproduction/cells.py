"""Numbers, spreads and scores as cells of the page's tables."""

from collections.abc import Sequence

import numpy as np

from .results import Results
from .spread import Spread

__all__ = ['METRICS', 'metrics_of', 'number', 'per_cent_of', 'score', 'spread']

# The scores that the page shows, in its order; the logs hold many more.
METRICS = {
    'coco/bbox_mAP': 'box AP',
    'coco/segm_mAP': 'mask AP',
    'accuracy/top1': 'top-1 accuracy',
}
# Scores that are logged in per cent; the others are logged as shares of 1.
PERCENT = ('accuracy/top1',)


def number(value: float | None, digits: int = 3) -> str:
    """A number to three significant digits, or so many.

    Whole numbers from 1,000 on keep all their digits. What is not known (None or NaN)
    is '–', and what is infinite is '∞'.
    """
    if value is None or not np.isfinite(value):
        return '–' if value is None or np.isnan(value) else '∞'
    if value and not 1e-3 <= abs(value) < 1e5:
        return f'{value:.{digits - 1}e}'
    return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.{digits}g}'


def spread(found: Spread) -> str:
    """The median, and the range in brackets where there is more than one value."""
    if not found.number:
        return '–'
    text = number(found.median)
    if found.number > 1:
        text += f' ({number(found.low)} to {number(found.high)})'
    return text


def score(metric: str, values: Sequence[float]) -> str:
    """Mean ± standard deviation of a score over seeds, in per cent.

    Args:
        metric: Name of the score, as it is logged.
        values: The score of each seed.
    """
    shown = np.array(values) * per_cent_of(metric)
    if len(shown) == 1:
        return f'{shown[0]:.1f}'
    return f'{shown.mean():.1f} ± {shown.std(ddof=1):.1f}'


def per_cent_of(metric: str) -> float:
    """What a logged score is multiplied by to be in per cent."""
    return 1.0 if metric in PERCENT else 100.0


def metrics_of(results: Results) -> list[str]:
    """The scores among :data:`METRICS` that an experiment has."""
    found = results.scores()
    return [metric for metric in METRICS if metric in found]
