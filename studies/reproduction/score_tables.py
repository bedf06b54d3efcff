"""Tables of a model's scores, and of their differences seed by seed."""

from collections.abc import Sequence

import numpy as np

from ..markdown import table
from .cells import METRICS, metrics_of, number, per_cent_of, score
from .comparison import Paired, compared_with, paired
from .results import Results

__all__ = ['paired_table', 'score_table']


def score_table(done: Sequence[Results]) -> str:
    """Mean and standard deviation of every score over seeds, at each validation."""
    iterations = sorted(
        {
            i
            for each in done
            for metric in metrics_of(each)
            for i in each.scores()[metric]
        }
    )
    rows = []
    for each in done:
        scores = each.scores()
        for metric in metrics_of(each):
            values = scores[metric]
            most = max(len(v) for v in values.values())
            cells = [
                score(metric, values[i]) if i in values else '' for i in iterations
            ]
            rows.append((each.experiment.title, METRICS[metric], most, *cells))
    head = ('run', 'score', 'seeds', *(f'at {i:,}' for i in iterations))
    return table(head, rows)


def paired_table(done: Sequence[Results]) -> str:
    """What the scores of compared experiments differ by."""
    rows = []
    for each in done:
        other = compared_with(each, done)
        if other is not None:
            titles = f'{each.experiment.title} − {other.experiment.title}'
            rows += [
                (titles, *_difference(pair))
                for pair in paired(other, each)
                if pair.metric in METRICS
            ]
    head = ('runs', 'score', 'iteration', 'by seed', 'mean', '95 %', 'p', 'verdict')
    return table(head, rows)


def _difference(pair: Paired) -> tuple[str, ...]:
    per_cent = per_cent_of(pair.metric)
    low, high = (per_cent * bound for bound in pair.interval)
    known = np.isfinite(pair.p_value)
    return (
        METRICS[pair.metric],
        f'{pair.iteration:,}',
        ', '.join(f'{per_cent * d:+.1f}' for d in pair.differences),
        f'{per_cent * pair.mean:+.1f}',
        f'{low:+.1f} to {high:+.1f}' if known else '–',
        number(pair.p_value, 2),
        pair.verdict,
    )
