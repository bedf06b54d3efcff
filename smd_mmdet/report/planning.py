"""What `smd plan` prints."""

from typing import Any

from rich.console import Group, RenderableType

from smd_mmdet._text import scientific
from smd_mmdet.stages import WARMUP, stage_name

from .fitting import FittedTable, said
from .grouping import number

__all__ = ['render_plan']

_CAPTION = (
    'Δ in rad an iteration. within 10 %: iterations from the start of the stage (of '
    'the first: from the usual norm) until Δ is within 10 % of Δ*'
)
_ALWAYS_CLIPPED = '; always clipped: if the gradient is clipped at every step'
_OUTCOMES = {
    'usual_start': 'usual start',
    'equilibrium_start': 'start at equilibrium',
    'rescaling': 'rescaling',
    'suggested_decay': 'more decay',
}


def render_plan(plan: dict[str, Any]) -> RenderableType:
    """What a schedule will do.

    Args:
        plan: What :func:`smd_mmdet.plan.plan` returns.

    Returns:
        The verdict, the warnings and notes, the stages, how Δ would end otherwise, the
        layers where a run was measured, and the assumptions, for rich to print.
    """
    colour = 'red' if plan['exit_code'] else 'green'
    parts: list[RenderableType] = [said(plan['verdict'], f'bold {colour}')]
    parts += [said(f'! {line}', 'yellow') for line in plan['warnings']]
    parts += [said(f'• {line}') for line in plan['notes']]
    parts.append(_stage_table(plan))
    if any(stage['outcomes'] for stage in plan['stages']):
        parts.append(_outcome_table(plan))
    if plan['layers']:
        parts.append(_layer_table(plan))
    parts += [said(f'• {line}', 'dim') for line in plan['assumptions']]
    return Group(*parts)


def _stage_table(plan: dict[str, Any]) -> FittedTable:
    clipped = any(stage['always_clipped'] for stage in plan['stages'])
    kind = 'rescaled' if plan['rescales'] else 'plain'
    always = ['always clipped'] if clipped else []
    table = FittedTable(
        'Stages',
        *('stage', 'iterations', 'lr', 'Δ*', 'Δ/Δ*', *always, 'Δ', 'climb'),
        *('within 10 %', '1/e'),
        drop=['1/e', 'lr', 'climb', 'Δ*', 'within 10 %'],
        caption=_CAPTION + _ALWAYS_CLIPPED * clipped,
    )
    for stage in plan['stages']:
        own = stage[kind]
        limit = [_span(stage['always_clipped'], 'ratio')] if clipped else []
        table.add_row(
            stage_name(stage['stage'], short=True),
            f'{stage["iterations"]:,}',
            _pair(f'{stage["lr_start"]:.3g}', f'{stage["lr_end"]:.3g}'),
            _pair(
                _angle(stage['angular_update_eq']),
                _angle(stage['angular_update_eq_end']),
            ),
            _span(own, 'ratio'),
            *limit,
            '–' if own is None else _pair(_angle(own['start']), _angle(own['end'])),
            '–' if own is None else f'{own["climb"]:.2g}',
            _count(stage['iterations_to_equilibrium']),
            _count(stage['relaxation_iterations']),
        )
    return table


def _outcome_table(plan: dict[str, Any]) -> FittedTable:
    """Δ at the end of each stage, if something were otherwise."""
    stages = [stage for stage in plan['stages'] if stage['stage'] != WARMUP]
    outcomes = [stage['outcomes'] or {} for stage in stages]
    shown = {
        key: head
        for key, head in _OUTCOMES.items()
        if any(found.get(key) for found in outcomes)
    }
    table = FittedTable(
        'Δ at the end of each stage',
        *('stage', *shown.values()),
        caption=f'usual start: {plan["usual_start"]}. The others start at equilibrium; '
        'rescaling: SMDRescaleHook at every change of the rate',
    )
    for stage in stages:
        found = stage['outcomes'] or {}
        cells = [_angle(found.get(key)) for key in shown]
        if stage['suggested_decay'] is not None:
            cells[-1] += f' (λ {stage["suggested_decay"]:.2g})'
        table.add_row(stage_name(stage['stage'], short=True), *cells)
    return table


def _layer_table(plan: dict[str, Any]) -> FittedTable:
    names = [stage_name(stage['stage']) for stage in plan['stages']]
    table = FittedTable(
        'Δ/Δ* by layer, from measured ‖w‖ and L',
        *('layer', '‖w‖', 'L', *names),
        stacked=True,
    )
    for layer in plan['layers']:
        kind = 'rescaled' if plan['rescales'] else 'plain'
        courses = [_span(stage[kind], 'ratio') for stage in layer['stages']]
        table.add_row(
            layer['layer'],
            number(layer['weight_norm']),
            number(layer['unit_grad_sq']),
            *courses,
        )
    return table


def _span(ends: dict[str, Any] | None, key: str) -> str:
    """A figure at the start and at the end of a stage."""
    if ends is None:
        return '–'
    return _pair(*(number(ends[f'{end}_{key}']) for end in ('start', 'end')))


def _pair(first: str, last: str) -> str:
    return first if first == last else f'{first} → {last}'


def _count(iterations: float | None) -> str:
    return '–' if iterations is None else f'{iterations:,.0f}'


def _angle(value: float | None) -> str:
    if value is None:
        return '–'
    return scientific(value) if value else '0'
