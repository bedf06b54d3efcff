"""What a schedule does to layers that were measured, in real units."""

import math
from typing import Any

import numpy as np

from smd_mmdet.records import Records, read_records

from .course import TOLERANCE, Course


def layers_ahead(course: Course, work_dir: str, assumptions: list[str]) -> list[dict]:
    """A forecast for every measured scale-invariant layer, in real units.

    Args:
        course: The schedule.
        work_dir: The run that was measured.
        assumptions: Gets a line on what of it is not used.

    Raises:
        RecordsError: If it has no records.
    """
    optimizer = course.optimizer
    records = read_records(work_dir)
    if not optimizer.comes_to_equilibrium:
        assumptions.append(
            f'the records of {work_dir} are not used: no way to an equilibrium is '
            f'known under {optimizer.name} with weight decay '
            f'{optimizer.weight_decay:g}'
        )
        return []
    measured = _measured(records)
    layers = [f for f in measured if all(optimizer.multipliers(f['layer']))]
    if len(layers) < len(measured):
        assumptions.append(
            f'{len(measured) - len(layers)} of {len(measured)} measured layers are '
            'left out: without rate or weight decay there is no equilibrium'
        )
    alike: dict[tuple[float, float], list[dict]] = {}
    for layer in layers:
        alike.setdefault(optimizer.multipliers(layer['layer']), []).append(layer)
    for multipliers, members in alike.items():
        _forecast_layers(course, members, *multipliers)
    return layers


def _measured(records: Records) -> list[dict]:
    """‖w‖ of the first window and L of the last third, per layer that has them."""
    records.require(('unit_h_mean', 'weight_norm_mean'))
    facts = records.metadata.get('layers') or {}
    layers = []
    for name, columns in records.by_layer():
        if (facts.get(name) or {}).get('invariant') is False:
            continue
        h, count = columns['unit_h_mean'], columns['count']
        late = np.arange(len(h)) >= len(h) * 2 // 3
        late &= (count > 0) & np.isfinite(h)
        norms = columns['weight_norm_mean'][count > 0]
        unit = float(np.average(h[late], weights=count[late])) if late.any() else 0.0
        if unit > 0 and len(norms):
            layers.append(
                {'layer': name, 'weight_norm': float(norms[0]), 'unit_grad_sq': unit}
            )
    return layers


def _forecast_layers(
    course: Course, layers: list[dict], rate: float, decay: float
) -> None:
    """Add the stages to layers with the same multipliers of rate and decay."""
    edges = [t for span in course.spans for t in (span.start, span.end - 1)]
    norms, ratios = {}, {}
    for kind in ('plain', 'rescaled'):
        norms[kind], ratios[kind] = course.ahead(
            kind,
            np.array([layer['weight_norm'] for layer in layers]),
            np.array([layer['unit_grad_sq'] for layer in layers]),
            at=np.array(edges),
            rate=rate,
            decay=decay,
        )
    angles = [
        math.sqrt(rate * decay) * course.angle(course.lr[t], course.momentum[t])
        for t in edges
    ]
    for column, layer in enumerate(layers):
        layer['stages'] = []
        for i, span in enumerate(course.spans):
            stage: dict[str, Any] = {'stage': span.stage.number}
            for kind in ('plain', 'rescaled'):
                start, end = ratios[kind][2 * i : 2 * i + 2, column].tolist()
                first, last = norms[kind][2 * i : 2 * i + 2, column].tolist()
                stage[kind] = {
                    'start_norm': first,
                    'end_norm': last,
                    'start_ratio': start,
                    'end_ratio': end,
                    'start': start * angles[2 * i],
                    'end': end * angles[2 * i + 1],
                }
            stage['reaches'] = abs(stage[course.kind]['end_ratio'] - 1) <= TOLERANCE
            layer['stages'].append(stage)
