"""Numbers and tables in Markdown."""

from collections.abc import Iterable, Sequence

import numpy as np

from .results import Results, Spread

# Headline scores, in the order they are shown.
METRICS = {
    'coco/bbox_mAP': 'box AP',
    'coco/segm_mAP': 'mask AP',
    'accuracy/top1': 'top-1 accuracy',
}
# Those that are percentages; the others are shares of 1.
PERCENT = ('accuracy/top1',)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; '' for no rows."""
    lines = [list(row) for row in rows]
    if not lines:
        return ''
    ruled = [list(head), ['---'] * len(head), *lines]
    return '\n'.join(f'| {" | ".join(_cell(c) for c in row)} |' for row in ruled)


def _cell(text: str) -> str:
    return ' '.join(str(text).replace('|', '\\|').split())


def number(value: float | None, digits: int = 3) -> str:
    """Three digits that count; '–' for nothing."""
    if value is None or not np.isfinite(value):
        return '–' if value is None or np.isnan(value) else '∞'
    if value and not 1e-3 <= abs(value) < 1e5:
        return f'{value:.{digits - 1}e}'
    return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.{digits}g}'


def spread(found: Spread) -> str:
    """Median and range."""
    if not found.number:
        return '–'
    text = number(found.median)
    if found.number > 1:
        text += f' ({number(found.low)} to {number(found.high)})'
    return text


def score(metric: str, values: Sequence[float]) -> str:
    """Mean ± standard deviation, in per cent."""
    shown = np.array(values) * per_cent_of(metric)
    if len(shown) == 1:
        return f'{shown[0]:.1f}'
    return f'{shown.mean():.1f} ± {shown.std(ddof=1):.1f}'


def per_cent_of(metric: str) -> float:
    return 1.0 if metric in PERCENT else 100.0


def metrics_of(results: Results) -> list[str]:
    found = results.scores()
    return [metric for metric in METRICS if metric in found]
