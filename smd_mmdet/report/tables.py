"""What the commands print: verdicts, plans, audits and comparisons as tables."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from smd_mmdet.checks import IN_EQUILIBRIUM, Check, LayerReport, Report, StageReport
from smd_mmdet.stages import stage_name

from .compare import Comparison, Row, RunSummary

__all__ = ['render_audit', 'render_comparison', 'render_plan', 'render_report']

_COLOURS = {'holds': 'green', 'fails': 'red', 'undecided': 'yellow'}
_TEXT_COLUMNS = ('layer', 'state', 'why', 'check', 'verdict', 'layers')
# A terminal shows a screen or two; --verbose and --json tell the rest.
_MOST_LAYERS = 20
_MOST_COMPARED = 12
_PLAN_CAPTION = (
    'Δ to within 10 %: iterations from the start of the stage (of the first: from '
    '3 w*) until Δ is within 10 % of Δ*; Corollary 3.1 bounds those to Δ* itself. '
    'rescaled: with the SMDRescaleHook of the config, else with its default settings'
)


# ------------------------------------------------------------------ smd check


def render_report(report: Report, verbose: bool = False) -> RenderableType:
    """The verdicts on a run.

    Args:
        report: What :func:`smd_mmdet.checks.check` returns.
        verbose: Whether to add every check of every layer and stage.

    Returns:
        The verdict, the stages, how the checks went, and the layers that are not in
        equilibrium with the reason, for rich to print.
    """
    colour = 'red' if report.exit_code else 'green'
    parts: list[RenderableType] = [Text(report.verdict, style=f'bold {colour}')]
    parts.append(_stage_table(report))
    if counts := _check_table(report):
        parts.append(counts)
    if away := _away_table(report, verbose):
        parts.append(away)
    if verbose:
        parts += [_layer_table(layer) for layer in report.layers]
    return Group(*parts)


def _stage_table(report: Report) -> Table:
    table = _table(
        'Stages',
        *('stage', 'iterations', 'lr', 'layers', 'in equilibrium'),
        *('median Δ/Δ*', 'median Δ/Δ*·(‖w‖/w*)²'),
    )
    for stage in report.stages:
        table.add_row(
            stage_name(stage.stage, short=True),
            f'{stage.first_iter:,}–{stage.last_iter:,}',
            stage.rate_text,
            str(stage.layers),
            str(stage.in_equilibrium),
            _number(stage.median_angular_update_ratio),
            _number(stage.median_transient_ratio),
        )
    return table


def _check_table(report: Report) -> Table | None:
    """How many layers came to each verdict of each check, in the last stage."""
    if not report.stages:
        return None
    last = report.stages[-1].stage
    counts = report.verdict_counts(last)
    if not counts:
        return None
    verdicts = ('holds', 'fails', 'undecided', 'not applicable')
    table = _table(f'Checks of {stage_name(last)}: layers', 'check', *verdicts)
    for name, row in counts.items():
        cells = []
        for verdict in verdicts:
            colour = _COLOURS.get(verdict, 'dim') if row[verdict] else 'dim'
            cells.append(f'[{colour}]{row[verdict]}[/]')
        table.add_row(name, *cells)
    return table


def _away_table(report: Report, verbose: bool) -> Table | None:
    """Layers of the last stage that are not in equilibrium, the furthest first."""
    rows = [
        (layer, layer.stages[-1])
        for layer in report.layers
        if layer.stages and layer.stages[-1].state != IN_EQUILIBRIUM
    ]
    if not rows:
        return None
    rows.sort(key=lambda row: _distance(row[1]), reverse=True)
    shown = rows if verbose else rows[:_MOST_LAYERS]
    title = f'Not in equilibrium: {len(rows)} of {len(report.layers)} layers'
    if len(shown) < len(rows):
        title += f', the furthest {len(shown)} (--verbose shows all)'
    table = _table(title, 'layer', 'state', 'Δ/Δ*', '‖w‖/w*', 'Δ/Δ*·(‖w‖/w*)²', 'why')
    for layer, stage in shown:
        table.add_row(
            escape(layer.layer),
            stage.state,
            *_ratios(stage),
            escape(stage.note or _first_reason(stage.checks)),
        )
    return table


def _distance(stage: StageReport) -> float:
    """|Δ/Δ* − 1|, by which layers are sorted; 0 where Δ/Δ* is not known."""
    ratio = stage.angular_update_ratio
    return abs(ratio - 1) if ratio is not None and ratio == ratio else 0.0


def _ratios(stage: StageReport) -> tuple[str, str, str]:
    return (
        _number(stage.angular_update_ratio),
        _number(stage.weight_norm_ratio),
        _number(stage.transient_ratio),
    )


def _first_reason(checks: Iterable[Check]) -> str:
    """Why there is no equilibrium: what the check of the angle says, or else any."""
    wanted = [c for c in checks if c.name == 'angular_update'] or list(checks)
    return wanted[0].reason if wanted else ''


def _layer_table(layer: LayerReport) -> Table:
    shape = ' × '.join(map(str, layer.shape))
    table = _table(
        f'{escape(layer.layer)} ({shape})',
        *('stage', 'check', 'value', 'bound', 'margin', 'verdict', 'why'),
    )
    for stage in layer.stages:
        for check in stage.checks:
            colour = _COLOURS.get(check.verdict, 'dim')
            table.add_row(
                stage_name(stage.stage, short=True),
                check.name,
                _number(check.value),
                _number(check.bound),
                _number(check.margin, 2),
                f'[{colour}]{check.verdict}[/]',
                escape(check.reason),
            )
        table.add_section()
    return table


# ------------------------------------------------------------------ smd plan


def render_plan(plan: dict[str, Any]) -> RenderableType:
    """What a schedule will do.

    Args:
        plan: What :func:`smd_mmdet.plan.plan` returns.

    Returns:
        The verdict, the assumptions, the stages, the warnings, and the layers where
        a run was measured, for rich to print.
    """
    colour = 'red' if plan['exit_code'] else 'green'
    parts: list[RenderableType] = [Text(plan['verdict'], style=f'bold {colour}')]
    parts += [Text(f'• {line}', style='dim') for line in plan['assumptions']]
    parts.append(_plan_table(plan))
    parts += [Text(f'! {line}', style='yellow') for line in plan['warnings']]
    if plan.get('layers'):
        parts.append(_plan_layers(plan))
    return Group(*parts)


def _plan_table(plan: dict[str, Any]) -> Table:
    table = _table(
        'Stages',
        *('stage', 'iterations', 'lr', 'Δ*', '1/e of ‖w‖⁴'),
        *('Δ to within 10 %', 'Δ/Δ*', 'rescaled'),
    )
    for stage in plan['stages']:
        lr = f'{stage["lr_start"]:.3g}'
        if stage['lr_end'] != stage['lr_start']:
            lr += f' → {stage["lr_end"]:.3g}'
        table.add_row(
            stage_name(stage['stage'], short=True),
            f'{stage["iterations"]:,}',
            lr,
            _number(stage['angular_update_eq']),
            _number(stage['relaxation_iterations']),
            _number(stage['iterations_to_equilibrium']),
            _course(stage['plain']),
            _course(stage['rescaled']),
        )
    table.caption_justify, table.caption = 'left', _PLAN_CAPTION
    return table


def _course(course: dict[str, Any] | None) -> str:
    """Δ/Δ* at the start and at the end of a stage."""
    if course is None:
        return '–'
    return f'{_number(course["start_ratio"])} → {_number(course["end_ratio"])}'


def _plan_layers(plan: dict[str, Any]) -> Table:
    names = [stage_name(stage['stage']) for stage in plan['stages']]
    table = _table(
        'Δ/Δ* by layer, from measured ‖w‖ and L', 'layer', '‖w‖', 'L', *names
    )
    for layer in plan['layers']:
        kind = 'rescaled' if plan.get('rescales') else 'plain'
        courses = [_course(stage[kind]) for stage in layer['stages']]
        table.add_row(
            escape(layer['layer']),
            _number(layer['weight_norm']),
            _number(layer['unit_grad_sq']),
            *courses,
        )
    return table


# ------------------------------------------------------------------ smd audit


def render_audit(audit: dict[str, Any]) -> RenderableType:
    """Which parameters of a model are scale-invariant, and why.

    Args:
        audit: What :func:`smd_mmdet.audit.audit` returns.

    Returns:
        A line per parameter, the totals, and what the user can do, for rich to print.
    """
    parts: list[RenderableType] = [_parameter_table(audit['parameters'])]
    parts.append(Text(_totals(audit['summary'])))
    for name in audit['contradictions']:
        parts.append(Text(f'! structure and proof differ: {name}', style='red'))
    parts += [Text(line) for line in audit['advice']]
    return Group(*parts)


def _parameter_table(parameters: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column('parameter', no_wrap=True)
    table.add_column('invariant')
    table.add_column('why', overflow='fold')
    proved = bool(parameters) and 'proof' in parameters[0]
    if proved:
        table.add_column('cosine(w, g)', justify='right', no_wrap=True)
    for parameter in parameters:
        row = [
            escape(parameter['name']),
            '[green]yes[/]' if parameter['invariant'] else 'no',
            escape(parameter['reason']),
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
        Text.assemble((f'{run.name}: ', 'bold'), run.verdict) for run in runs
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
    parts += [Text(f'wrote {path}', style='dim') for path in comparison.files]
    return Group(*parts)


def _beside(title: str, runs: Sequence[RunSummary], rows: Sequence[Row]) -> Table:
    """A column per run, and in it each number with its difference from the first."""
    table = _table(title)
    table.add_column('')
    for run in runs:
        table.add_column(escape(run.name), justify='right')
    for row in rows:
        first, *others = zip(row.values, row.differences, strict=True)
        cells = [_value(first[0]), *(_difference(*each) for each in others)]
        table.add_row(escape(row.what), *cells)
    return table


def _value(value: float | None) -> str:
    return '–' if value is None else f'{value:.3g}'


def _difference(value: float | None, difference: float | None) -> str:
    if value is None or difference is None:
        return _value(value)
    told = f'{difference:+.2g}' if f'{difference:.2g}' != '0' else '±0'
    return f'{_value(value)} ({told})'


# ------------------------------------------------------------------ common pieces


def _table(title: str, *columns: str) -> Table:
    """An empty table; columns of text are flush left, columns of numbers right."""
    table = Table(title=title, title_justify='left', title_style='bold')
    for column in columns:
        text = column in _TEXT_COLUMNS
        table.add_column(column, justify='left' if text else 'right')
    return table


def _number(value: float | None, digits: int = 3) -> str:
    if value is None or value != value:
        return '–'
    return f'{value:.{digits}g}' if abs(value) < 1e4 else f'{value:,.0f}'
