"""Verdicts and plans as tables for the terminal."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from smd_mmdet.checks import IN_EQUILIBRIUM, Check, LayerReport, Report, StageReport
from smd_mmdet.stages import stage_name

_COLOURS = {'holds': 'green', 'fails': 'red', 'undecided': 'yellow'}
# A terminal is not a file: the rest is told by --verbose and --json.
_MOST_LAYERS = 20
_PLAN_CAPTION = (
    'Δ to within 10 %: iterations from the start of the stage (of the first: from '
    '3 w*) until Δ is within 10 % of Δ*; Corollary 3.1 bounds those to Δ* itself. '
    'rescaled: with the SMDRescaleHook of the config, else with its default settings'
)


def render_report(report: Report, verbose: bool = False) -> RenderableType:
    """Overview, stages, and the layers that are not in equilibrium with why.

    Args:
        report: Of :func:`smd_mmdet.checks.check`.
        verbose: Add every check of every layer and stage.

    Returns:
        Something rich prints.
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


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify='left', title_style='bold')
    for column in columns:
        right = column not in ('layer', 'state', 'why', 'check', 'verdict', 'layers')
        table.add_column(column, justify='right' if right else 'left')
    return table


def _number(value: float | None, digits: int = 3) -> str:
    if value is None or value != value:
        return '–'
    return f'{value:.{digits}g}' if abs(value) < 1e4 else f'{value:,.0f}'


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
    """How often each check came to each verdict, in the last stage."""
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
    ratio = stage.angular_update_ratio
    return abs(ratio - 1) if ratio is not None and ratio == ratio else 0.0


def _ratios(stage: StageReport) -> tuple[str, str, str]:
    return (
        _number(stage.angular_update_ratio),
        _number(stage.weight_norm_ratio),
        _number(stage.transient_ratio),
    )


def _first_reason(checks: Iterable[Check]) -> str:
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


def render_plan(plan: dict) -> RenderableType:
    """The stages of a plan, its warnings, and its layers where measured.

    Args:
        plan: Of :func:`smd_mmdet.plan.plan`.

    Returns:
        Something rich prints.
    """
    colour = 'red' if plan['exit_code'] else 'green'
    parts: list[RenderableType] = [Text(plan['verdict'], style=f'bold {colour}')]
    parts += [Text(f'• {line}', style='dim') for line in plan['assumptions']]
    parts.append(_plan_table(plan))
    parts += [Text(f'! {line}', style='yellow') for line in plan['warnings']]
    if plan.get('layers'):
        parts.append(_plan_layers(plan))
    return Group(*parts)


def _plan_table(plan: dict) -> Table:
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


def _course(course: dict | None) -> str:
    if course is None:
        return '–'
    return f'{_number(course["start_ratio"])} → {_number(course["end_ratio"])}'


def _plan_layers(plan: dict) -> Table:
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
