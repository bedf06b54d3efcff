"""Tables of how the weights of a model move: by stage, over time, and the noise."""

from collections.abc import Sequence
from itertools import pairwise

from smd_mmdet import checks

from ..markdown import table
from .cells import number, spread
from .comparison import compared_with
from .partings import noise_of
from .results import Results, over_time
from .spread import Spread

__all__ = ['noise_table', 'stage_table', 'time_table']

# Columns of the table of Δ_rms/Δ* over the run.
SPANS = 5


def stage_table(done: Sequence[Results]) -> str:
    """Δ, ‖w‖ and the transient law at the end of each stage."""
    rows = []
    for each in done:
        for stage in each.stage_numbers:
            reports = [report for _, report in each.stages(stage)]
            there = sum(r.state == checks.IN_EQUILIBRIUM for r in reports)
            rows.append(
                (
                    each.experiment.title,
                    stage,
                    f'{reports[0].first_iter:,}–{reports[0].last_iter:,}',
                    number(reports[0].lr),
                    number(each.angle_eq(stage)),
                    spread(Spread.of(r.angular_update_ratio for r in reports)),
                    spread(Spread.of(r.weight_norm_ratio for r in reports)),
                    spread(Spread.of(r.transient_ratio for r in reports)),
                    f'{there} of {len(reports)}',
                )
            )
    head = ('run', 'stage', 'iterations', 'lr', 'Δ*', 'Δ_rms/Δ*', '‖w‖/w*')
    return table((*head, 'transient law', 'layers in equilibrium'), rows)


def time_table(done: Sequence[Results]) -> str:
    """Δ_rms/Δ* in spans of iterations, of the experiments that are compared."""
    tables = []
    for each in done:
        other = compared_with(each, done)
        if other is None:
            continue
        last = min(r.run.last_iter for e in (each, other) for r in e.runs)
        edges = [round(last * i / SPANS) for i in range(SPANS + 1)]
        rows = [
            (e.experiment.title, *(spread(s) for s in over_time(e, edges)))
            for e in (other, each)
        ]
        spans = [f'{a + 1:,}–{b:,}' for a, b in pairwise(edges)]
        tables.append(table(('run', *spans), rows))
    return '\n\n'.join(tables)


def noise_table(done: Sequence[Results]) -> str:
    """How noisy the gradients of all layers and stages are."""
    rows = []
    for each in done:
        noises = [
            noise_of(result, layer, report.stage)
            for result in each.runs
            for layer, report in result.stages()
        ]
        if noises:
            columns = (Spread.of(column) for column in zip(*noises, strict=True))
            cosine, *rest = (spread(column) for column in columns)
            rows.append((each.experiment.title, *rest, cosine))
    windows = 'windows with h̃ < 0 once', 'windows with mean h̃ < 0'
    head = ('run', 'V/L²', *(f'share of {name}' for name in windows), 'cosine(w, g)')
    return table(head, rows)
