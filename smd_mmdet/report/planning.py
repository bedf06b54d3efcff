"""What `smd plan` prints."""

from collections.abc import Callable
from typing import Any

from rich.console import Group, RenderableType

from smd_mmdet._text import about, scientific
from smd_mmdet.stages import WARMUP, stage_name

from .fitting import FittedTable, said
from .grouping import number

__all__ = ['render_plan']

UNKNOWN = '–'
_CAPTIONS = {
    'Δ': 'Δ in rad an iteration.',
    'within 10 %': (
        'within 10 %: iterations from the start of the stage (of the first: from the '
        'usual norm) until Δ is within 10 % of Δ*.'
    ),
    'always clipped': (
        'always clipped: Δ/Δ* if the gradient is clipped at every step; the other '
        'figures are without clipping.'
    ),
}
_CONTROLLED = {
    'Δ wanted': 'Δ wanted in rad a step.',
    'factor': (
        'factor: what norms are multiplied by where the stage begins, of the first '
        'from the usual start, and in how many controls.'
    ),
}
# What is left out first where there is no room.
_DROPPED = ('1/e', 'lr', 'climb', 'Δ*', 'within 10 %')
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
    shown = _shown(plan['stages'])
    if any(stage['control'] for stage in plan['stages']):
        return _controlled_table(shown)
    own = 'rescaled' if plan['rescales'] else 'plain'
    columns = {
        'iterations': [_iterations(a, b) for a, b in shown],
        'lr': [_pair(f'{a["lr_start"]:.3g}', f'{b["lr_end"]:.3g}') for a, b in shown],
        'Δ*': [
            _pair(_angle(a['angular_update_eq']), _angle(b['angular_update_eq_end']))
            for a, b in shown
        ],
        'Δ/Δ*': [_course(a[own], b[own], '_ratio', number) for a, b in shown],
        'always clipped': [
            _course(a['always_clipped'], b['always_clipped'], '_ratio', number)
            for a, b in shown
        ],
        'Δ': [_course(a[own], b[own], '', _angle) for a, b in shown],
        'climb': [_climb(a[own], b[own]) for a, b in shown],
        'within 10 %': [
            _count(a['iterations_to_equilibrium'] if a is b else None) for a, b in shown
        ],
        '1/e': [_count(a['relaxation_iterations']) for a, _ in shown],
    }
    columns = {
        name: cells for name, cells in columns.items() if set(cells) != {UNKNOWN}
    }
    caption = ' '.join(said for name, said in _CAPTIONS.items() if name in columns)
    table = FittedTable(
        'Stages',
        *('stage', *columns),
        drop=[name for name in _DROPPED if name in columns],
        caption=caption,
    )
    for i, (first, last) in enumerate(shown):
        table.add_row(_name(first, last), *(cells[i] for cells in columns.values()))
    return table


def _controlled_table(shown: list[tuple[dict, dict]]) -> FittedTable:
    """The stages of a schedule whose angular update is set."""
    table = FittedTable(
        'Stages',
        *('stage', 'iterations', 'lr', 'Δ*', 'Δ wanted', 'Δ/Δ*', 'factor'),
        drop=['lr', 'Δ/Δ*', 'Δ*'],
        caption=' '.join(_CONTROLLED.values()),
    )
    for a, b in shown:
        first, last = a['control'], b['control']
        table.add_row(
            _name(a, b),
            _iterations(a, b),
            _pair(f'{a["lr_start"]:.3g}', f'{b["lr_end"]:.3g}'),
            _pair(_angle(a['angular_update_eq']), _angle(b['angular_update_eq_end'])),
            _course(first, last, '', _angle),
            _ratios(first, last),
            _factor(first),
        )
    return table


def _ratios(first: dict[str, Any] | None, last: dict[str, Any] | None) -> str:
    if not first or not last or None in (first['start_ratio'], last['end_ratio']):
        return UNKNOWN
    return _pair(number(first['start_ratio']), number(last['end_ratio']))


def _factor(control: dict[str, Any] | None) -> str:
    if control is None or control['factor'] is None:
        return UNKNOWN
    times = f' in {control["controls"]}' if control['controls'] > 1 else ''
    return f'× {control["factor"]:.3g}{times}'


def _shown(stages: list[dict[str, Any]]) -> list[tuple[dict, dict]]:
    """The first and the last stage of every row: those of stairs share one."""
    rows: list[tuple[dict, dict]] = []
    for stage in stages:
        run = stage['stairs']
        if run is not None and rows and rows[-1][0]['stairs'] == run:
            rows[-1] = rows[-1][0], stage
        else:
            rows.append((stage, stage))
    return rows


def _name(first: dict[str, Any], last: dict[str, Any]) -> str:
    name = stage_name(first['stage'], short=True)
    return name if first is last else f'{name}–{last["stage"]}'


def _iterations(first: dict[str, Any], last: dict[str, Any]) -> str:
    return f'{last["last_iter"] - first["first_iter"] + 1:,}'


def _outcome_table(plan: dict[str, Any]) -> FittedTable:
    """Δ at the end of each stage, if something were otherwise."""
    stages = [
        (first, last)
        for first, last in _shown(plan['stages'])
        if first['stage'] != WARMUP
    ]
    shown = {
        key: head
        for key, head in _OUTCOMES.items()
        if any((last['outcomes'] or {}).get(key) for _, last in stages)
    }
    table = FittedTable(
        'Δ at the end of each stage',
        *('stage', *shown.values()),
        caption=f'usual start: {plan["usual_start"]}. The others start at equilibrium; '
        'rescaling: SMDRescaleHook at every change of the rate',
    )
    for first, last in stages:
        found = last['outcomes'] or {}
        cells = [_angle(found.get(key)) for key in shown]
        if last['suggested_decay'] is not None:
            cells[-1] += f' (λ {last["suggested_decay"]:.2g})'
        table.add_row(_name(first, last), *cells)
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
        courses = [
            _course(stage[kind], stage[kind], '_ratio', number)
            for stage in layer['stages']
        ]
        table.add_row(
            layer['layer'],
            number(layer['weight_norm']),
            number(layer['unit_grad_sq']),
            *courses,
        )
    return table


def _course(
    first: dict[str, Any] | None,
    last: dict[str, Any] | None,
    key: str,
    told: Callable[[float], str],
) -> str:
    """A figure at the start and at the end of a stage, or of several."""
    if first is None or last is None:
        return UNKNOWN
    return _pair(told(first[f'start{key}']), told(last[f'end{key}']))


def _climb(first: dict[str, Any] | None, last: dict[str, Any] | None) -> str:
    if first is None or last is None or not first['start'] > 0:
        return UNKNOWN
    return f'{last["end"] / first["start"]:.2g}'


def _pair(first: str, last: str) -> str:
    return first if first == last else f'{first} → {last}'


def _count(iterations: float | None) -> str:
    return UNKNOWN if iterations is None else about(iterations)


def _angle(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return scientific(value) if value else '0'
