"""Tables of what the checks say of a model, and of where theory parts from it."""

from collections.abc import Sequence

import numpy as np

from smd_mmdet import checks
from smd_mmdet.report.words import CHECKS, plural

from ..markdown import table
from .cells import number, spread
from .partings import Parting, distance, partings
from .results import Results, check_counts, grouped, kinds
from .spread import Spread

__all__ = [
    'VERDICTS',
    'assumption_table',
    'away_table',
    'check_table',
    'conclusion_table',
    'parting_table',
]

VERDICTS = (checks.HOLDS, checks.FAILS, checks.UNDECIDED, checks.NOT_APPLICABLE)
# A layer in one of these states is not what the theory is about, or not where it says.
APART = (
    checks.OFF,
    checks.LEFT_REGIME,
    checks.NOT_INVARIANT,
    checks.NO_GRADIENT,
    checks.DIVERGED,
)
# How many rows the table of partings has at most.
MOST_PARTINGS = 12
# What the number is that each assumption bounds.
MEASURED = {
    'small_step': 'λη',
    'bounded_noise': 'V/L²',
    'slow_drift': 'change of L per iteration',
    'lower_bound_strict': 'lowest h̃/L',
    'lower_bound_windowed': 'lowest mean of h̃/L over 200 iterations',
}


def check_table(done: Sequence[Results]) -> str:
    """How often each check came to each verdict, over layers, stages and seeds."""
    kind_of = kinds(
        [layer for e in done for r in e.runs for layer in r.run.report.layers]
    )
    counts = [check_counts(each) for each in done]
    rows = [
        (
            kind_of[name],
            CHECKS[name][0] if name in CHECKS else name,
            *(
                ' / '.join(str(count.get(name, {}).get(v, 0)) for v in VERDICTS)
                for count in counts
            ),
        )
        for name in kind_of
    ]
    head = ('', 'check', *(each.experiment.title for each in done))
    said = 'Layer stages in which it holds / fails / is undecided / does not apply.'
    return f'{said}\n\n{table(head, rows)}' if rows else ''


def conclusion_table(done: Sequence[Results]) -> str:
    """How often each conclusion came to each verdict, a row per model and data set.

    Args:
        done: Experiments with finished runs.
    """
    layers = [layer for e in done for r in e.runs for layer in r.run.report.layers]
    names = [name for name, kind in kinds(layers).items() if kind == 'conclusion']
    rows = []
    for group, members in grouped(done).items():
        counts = [check_counts(each) for each in members]
        cells = [
            ' / '.join(
                str(sum(count.get(name, {}).get(verdict, 0) for count in counts))
                for verdict in VERDICTS
            )
            for name in names
        ]
        rows.append((group, sum(len(each.runs) for each in members), *cells))
    return table(('model', 'runs', *(CHECKS[name][0] for name in names)), rows)


def assumption_table(done: Sequence[Results]) -> str:
    """The assumptions that fail, by stage: their bounds go with the learning rate."""
    rows = [
        (each.experiment.title, stage, *cells)
        for each in done
        for stage in each.stage_numbers
        for cells in _failing_assumptions(each, stage)
    ]
    head = ('run', 'stage', 'assumption', 'fails in layers', 'measured is', 'measured')
    return table((*head, 'its bound', 'measured over bound'), rows)


def _failing_assumptions(results: Results, stage: int) -> list[tuple[str, ...]]:
    reports = [report for _, report in results.stages(stage)]
    rows = []
    for name, measured in MEASURED.items():
        found = [check for r in reports for check in r.checks if check.name == name]
        failing = [check for check in found if check.verdict == checks.FAILS]
        if failing:
            rows.append(
                (
                    CHECKS[name][0],
                    f'{len(failing)} of {len(found)}',
                    measured,
                    spread(Spread.of(check.value for check in failing)),
                    _bounds(failing),
                    spread(Spread.of(_multiple(check) for check in failing)),
                )
            )
    return rows


def _bounds(failing: Sequence[checks.Check]) -> str:
    """The bounds of failing checks; infinite where none can be met."""
    values = [check.bound for check in failing if check.bound is not None]
    if values and not np.isfinite(values).any():
        return 'none can be met: λη is too large'
    return spread(Spread.of(values))


def _multiple(check: checks.Check) -> float | None:
    """What was measured over its bound."""
    if check.value is None or not check.bound:
        return None
    return check.value / check.bound


def away_table(done: Sequence[Results]) -> str:
    """Layers that are not in equilibrium, by state.

    Each row names the layer furthest from Δ*, and what the checks say of it.
    """
    rows = [
        (each.experiment.title, stage, *cells)
        for each in done
        for stage in each.stage_numbers
        for cells in _away(each, stage)
    ]
    head = ('run', 'stage', 'state', 'layers', 'Δ_rms/Δ*', 'transient law')
    return table((*head, 'the furthest of them'), rows)


def _away(results: Results, stage: int) -> list[tuple[str, ...]]:
    states: dict[str, list[tuple[str, checks.StageReport]]] = {}
    for name, report in results.stages(stage):
        if report.state != checks.IN_EQUILIBRIUM:
            states.setdefault(report.state, []).append((name, report))
    rows = []
    for state, found in states.items():
        name, furthest = max(found, key=lambda pair: distance(pair[1]))
        reports = [report for _, report in found]
        rows.append(
            (
                state,
                str(len(found)),
                spread(Spread.of(r.angular_update_ratio for r in reports)),
                spread(Spread.of(r.transient_ratio for r in reports)),
                f'{_code(name)}: {_why(furthest)}',
            )
        )
    return rows


def _code(layer: str) -> str:
    return f'`{layer.removesuffix(".weight")}`'


def _why(report: checks.StageReport) -> str:
    """What the checks say of a layer that is not in equilibrium."""
    reasons = (c.reason for c in report.checks if c.name == 'angular_update')
    return report.note or next(reasons, '')


def parting_table(done: Sequence[Results]) -> str:
    """The layers' stages in which theory and measurement part, the furthest first."""
    rows = [row for each in done for row in partings(each, APART)]
    if not rows:
        return (
            'Nowhere: no conclusion fails, and every layer has gradients and stays '
            'scale-invariant.'
        )
    seeds = {each.experiment.title: len(each.runs) for each in done}
    shown = sorted(rows, key=lambda row: -row.distance)[:MOST_PARTINGS]
    head = (
        *('run', 'layer', 'stage', 'seeds', 'Δ_rms/Δ*', '‖w‖/w*', 'transient law'),
        *('cosine', 'V/L²', 'windows with h̃ < 0 once', 'state', 'why'),
    )
    text = table(head, [_parting(row, seeds[row.experiment]) for row in shown])
    if len(shown) < len(rows):
        text += f'\n\nand {plural(len(rows) - len(shown), "layer stage")} nearer to 1.'
    return text


def _parting(row: Parting, seeds: int) -> tuple[str, ...]:
    worst = row.reports[0]
    failing = ', '.join(CHECKS[c.name][0].lower() for c in worst.failing)
    why = f'{failing} fails: {worst.failing[0].reason}' if failing else worst.note
    return (
        row.experiment,
        _code(row.layer),
        str(row.stage),
        f'{row.seeds} of {seeds}',
        spread(Spread.of(r.angular_update_ratio for r in row.reports)),
        spread(Spread.of(r.weight_norm_ratio for r in row.reports)),
        spread(Spread.of(r.transient_ratio for r in row.reports)),
        number(row.noise.cosine, 2),
        number(row.noise.variance, 2),
        '–' if np.isnan(row.noise.touched) else f'{row.noise.touched:.0%}',
        worst.state,
        why,
    )
