"""What the commands print: verdicts, audits and comparisons as tables."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.text import Text

from smd_mmdet.checks import (
    CONTROLLED,
    IN_EQUILIBRIUM,
    Check,
    LayerReport,
    Report,
    StageReport,
)
from smd_mmdet.stages import stage_name

from .clipping import percent
from .compare import Comparison, Row, RunSummary
from .fitting import FittedTable, said
from .grouping import grouped, number, span, template, together
from .words import transient_law

__all__ = ['render_audit', 'render_comparison', 'render_report']

_COLOURS = {'holds': 'green', 'fails': 'red', 'undecided': 'yellow'}
# A terminal shows a screen or two; --verbose and --json tell the rest.
_MOST_ROWS = 20
_MOST_COMPARED = 12


# ------------------------------------------------------------------ smd check


def render_report(
    report: Report, verbose: bool = False, by_layer: bool = False
) -> RenderableType:
    """The verdicts on a run.

    Args:
        report: What :func:`smd_mmdet.checks.check` returns, or some of it.
        verbose: Whether to add what every check of every stage found.
        by_layer: Whether to show every check of every layer, instead of what the
            layers have in common.

    Returns:
        The verdict, the stages, how the checks went, and the layers that are not in
        equilibrium with the reason, for rich to print.
    """
    colour = 'red' if report.exit_code else 'green'
    parts: list[RenderableType] = [said(report.verdict, f'bold {colour}')]
    parts += [said(text, 'dim') for text in (report.context, report.caveat) if text]
    parts.append(_stage_table(report))
    if by_layer:
        return Group(*parts, *(_layer_table(layer) for layer in report.layers))
    if counts := _check_table(report):
        parts.append(counts)
    if away := _away_table(report, verbose):
        parts.append(away)
    if verbose:
        parts += [_reason_table(report, stage.stage) for stage in report.stages]
    return Group(*parts)


def _stage_table(report: Report) -> FittedTable:
    law = transient_law(report.theory)
    columns = {
        'iterations': [f'{s.first_iter:,}–{s.last_iter:,}' for s in report.stages],
        'lr': [stage.rate_text for stage in report.stages],
        'layers': [str(stage.layers) for stage in report.stages],
        'in equilibrium': [str(stage.in_equilibrium) for stage in report.stages],
        'median Δ/Δ*': [number(s.median_angular_update_ratio) for s in report.stages],
        'Δ*': [number(stage.median_angular_update_eq) for stage in report.stages],
        f'median {law}': [number(s.median_transient_ratio) for s in report.stages],
    }
    if any(stage.controlled for stage in report.stages):
        columns['Δ set'] = [str(stage.controlled) for stage in report.stages]
    if any(stage.wanted_pairs for stage in report.stages):
        columns['near wanted Δ'] = [_percent(s.wanted_share) for s in report.stages]
    if any(stage.clipped_share for stage in report.stages):
        columns['clipped'] = [_percent(stage.clipped_share) for stage in report.stages]
    table = FittedTable(
        'Stages', *('stage', *columns), drop=[f'median {law}', 'lr', 'Δ*']
    )
    for i, stage in enumerate(report.stages):
        name = stage_name(stage.stage, short=True)
        table.add_row(name, *(cells[i] for cells in columns.values()))
    return table


def _percent(share: float | None) -> str:
    return number(None) if share is None or share != share else percent(share)


def _check_table(report: Report) -> FittedTable | None:
    """How many layers came to each verdict of each check, in the last stage."""
    if not report.stages:
        return None
    last = report.stages[-1].stage
    counts = report.verdict_counts(last)
    if not counts:
        return None
    verdicts = ('holds', 'fails', 'undecided', 'not applicable')
    table = FittedTable(f'Checks of {stage_name(last)}: layers', 'check', *verdicts)
    for name, row in counts.items():
        cells = []
        for verdict in verdicts:
            colour = _COLOURS.get(verdict, 'dim') if row[verdict] else 'dim'
            cells.append(said(row[verdict], colour))
        table.add_row(name, *cells)
    return table


def _away_table(report: Report, verbose: bool) -> FittedTable | None:
    """Layers that are not in equilibrium at the end, the furthest first.

    A row stands for all layers of which the same is to be said, but for the figures.
    """
    away = [
        (layer, layer.stages[-1])
        for layer in report.layers
        if layer.stages and layer.stages[-1].state not in (IN_EQUILIBRIUM, CONTROLLED)
    ]
    if not away:
        return None
    away.sort(key=lambda row: _distance(row[1]), reverse=True)
    rows = grouped(away, lambda row: (row[1].state, template(_why(row[1]))))
    shown = rows if verbose else rows[:_MOST_ROWS]
    title = f'Not in equilibrium: {len(away)} of {len(report.layers)} layers'
    if len(shown) < len(rows):
        title += f', by the first {len(shown)} reasons (--verbose shows all)'
    law = transient_law(report.theory)
    table = FittedTable(
        title,
        *('layer', 'state', 'Δ/Δ*', '‖w‖/w*', law, 'why'),
        drop=[law, '‖w‖/w*'],
        caption='smd check --layer NAME shows all checks of one layer',
    )
    for row in shown:
        stages = [stage for _, stage in row]
        table.add_row(
            _named([layer.layer for layer, _ in row]),
            stages[0].state,
            span(stage.angular_update_ratio for stage in stages),
            span(stage.weight_norm_ratio for stage in stages),
            span(stage.transient_ratio for stage in stages),
            together([_why(stage) for stage in stages]),
        )
    return table


def _named(layers: Sequence[str]) -> str:
    more = len(layers) - 1
    return f'{layers[0]} and {more} more' if more else layers[0]


def _distance(stage: StageReport) -> float:
    """|Δ/Δ* − 1|, by which layers are sorted; 0 where Δ/Δ* is not known."""
    ratio = stage.angular_update_ratio
    return abs(ratio - 1) if ratio is not None and ratio == ratio else 0.0


def _why(stage: StageReport) -> str:
    return stage.note or _first_reason(stage.checks)


def _first_reason(checks: Iterable[Check]) -> str:
    """Why there is no equilibrium: what the check of the angle says, or else any."""
    wanted = [c for c in checks if c.name == 'angular_update'] or list(checks)
    return wanted[0].reason if wanted else ''


def _reason_table(report: Report, stage_number: int) -> FittedTable:
    """What each check found in one stage, in a row for all layers alike."""
    found = [
        (layer.layer, order, check)
        for layer in report.layers
        for stage in layer.stages
        if stage.stage == stage_number
        for order, check in enumerate(stage.checks)
    ]
    found.sort(key=lambda one: (one[1], one[2].verdict, _margin(one[2])))
    table = FittedTable(
        f'Reasons in {stage_name(stage_number)}',
        *('check', 'verdict', 'layer', 'value', 'margin', 'why'),
        drop=['margin', 'value'],
    )
    for row in grouped(found, lambda one: _kind(one[2])):
        checks = [check for _, _, check in row]
        table.add_row(
            checks[0].name,
            said(checks[0].verdict, _COLOURS.get(checks[0].verdict, 'dim')),
            _named([layer for layer, _, _ in row]),
            span(check.value for check in checks),
            span((check.margin for check in checks), 2),
            together([check.reason for check in checks]),
        )
    return table


def _kind(check: Check) -> tuple[str, str, str]:
    return check.name, check.verdict, template(check.reason)


def _margin(check: Check) -> float:
    """The distance to the bound; those that are not known come last."""
    known = check.margin is not None and check.margin == check.margin
    return check.margin if known else float('inf')  # type: ignore[return-value]


def _layer_table(layer: LayerReport) -> FittedTable:
    shape = ' × '.join(map(str, layer.shape))
    table = FittedTable(
        f'{layer.layer} ({shape})',
        *('stage', 'check', 'value', 'bound', 'margin', 'verdict', 'why'),
        drop=['margin', 'bound', 'value'],
    )
    for stage in layer.stages:
        for check in stage.checks:
            table.add_row(
                stage_name(stage.stage, short=True),
                check.name,
                number(check.value),
                number(check.bound),
                number(check.margin, 2),
                said(check.verdict, _COLOURS.get(check.verdict, 'dim')),
                check.reason,
            )
        table.add_section()
    return table


# ------------------------------------------------------------------ smd audit


def render_audit(audit: dict[str, Any]) -> RenderableType:
    """Which parameters of a model are scale-invariant, and why.

    Args:
        audit: What :func:`smd_mmdet.audit.audit` returns.

    Returns:
        The totals, what the user can do, and a line per parameter, for rich to print.
    """
    parts: list[RenderableType] = [said(_totals(audit['summary']), 'bold')]
    for name in audit['contradictions']:
        parts.append(said(f'! structure and proof differ: {name}', 'red'))
    parts += [said(line) for line in audit['advice']]
    parts.append(_parameter_table(audit['parameters']))
    return Group(*parts)


def _parameter_table(parameters: list[dict[str, Any]]) -> FittedTable:
    proved = bool(parameters) and 'proof' in parameters[0]
    cosine = ['cosine(w, g)'] if proved else []
    table = FittedTable(
        '', *('parameter', 'invariant', 'why', *cosine), lines=box.SIMPLE_HEAD
    )
    for parameter in parameters:
        row: list[str | Text] = [
            parameter['name'],
            said('yes', 'green') if parameter['invariant'] else 'no',
            parameter['reason'],
        ]
        table.add_row(*row, *([_cosine(parameter['proof'])] if proved else []))
    return table


def _cosine(proof: dict[str, Any] | None) -> str:
    if proof is None or proof['cosine'] is None:
        return '–'
    return f'{proof["cosine"]:.1e}'


def _totals(summary: dict[str, Any]) -> str:
    return (
        f'{summary["invariant_layers"]} of {summary["layers"]} layers are '
        f'scale-invariant ({summary["share_of_layers"]:.1%}), and '
        f'{summary["share_of_weights"]:.1%} of all {summary["weights"]:,} weights'
    )


# ------------------------------------------------------------------ smd compare


def render_comparison(comparison: Comparison) -> RenderableType:
    """Runs beside one another.

    Args:
        comparison: What :func:`~.compare.compare` returns.

    Returns:
        Verdicts, stages, scores, and the layers that differ most, for rich to print.
    """
    runs = comparison.runs
    parts: list[RenderableType] = [
        said(f'{run.name}: ', 'bold') + said(run.verdict) for run in runs
    ]
    for stage in comparison.stages:
        rates = dict.fromkeys(f'{lr:.3g}' for lr in stage.lr if lr is not None)
        title = f'{stage_name(stage.stage).capitalize()}, lr {" and ".join(rates)}'
        parts.append(_beside(title, runs, stage.rows))
    if comparison.scores:
        parts.append(_beside('Scores of the last validation', runs, comparison.scores))
    if comparison.layers:
        shown = comparison.layers[:_MOST_COMPARED]
        title = f'Δ/Δ* at the end: the {len(shown)} layers that differ most'
        parts.append(_beside(title, runs, shown))
    parts += [said(f'wrote {path}', 'dim') for path in comparison.files]
    return Group(*parts)


def _beside(title: str, runs: Sequence[RunSummary], rows: Sequence[Row]) -> FittedTable:
    """A column per run, and in it each number with its difference from the first."""
    table = FittedTable(title, '', *(run.name for run in runs), stacked=True)
    for row in rows:
        first, *others = zip(row.values, row.differences, strict=True)
        cells = [_value(first[0]), *(_difference(*each) for each in others)]
        table.add_row(row.what, *cells)
    return table


def _value(value: float | None) -> str:
    return '–' if value is None else f'{value:.3g}'


def _difference(value: float | None, difference: float | None) -> str:
    if value is None or difference is None:
        return _value(value)
    told = f'{difference:+.2g}' if f'{difference:.2g}' != '0' else '±0'
    return f'{_value(value)} ({told})'
