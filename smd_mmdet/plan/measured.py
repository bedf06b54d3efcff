"""What a measured run adds to a plan: a forecast for each of its layers, in real units.

A run of some hundred iterations tells ‖w‖ and the drive of every layer (L under SGD, U
under AdamW), and with them the forecast begins where the layer really is. Where the
gradient is clipped it tells how often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from smd_mmdet.config.optimizer import Optimizer
from smd_mmdet.records import Records, RecordsError

from .course import KINDS, Course
from .stages import ALWAYS, TOLERANCE, StagePlan

__all__ = [
    'READ',
    'LayerEnds',
    'LayerPlan',
    'LayerStage',
    'Measured',
    'measured_clipping',
    'plan_layers',
]

# The columns that are read of a measured run, as far as its records have them.
READ = (
    *('shape', 'weight_norm_mean', 'unit_grad_sq_mean'),
    *('unit_h_mean', 'update_sq_mean', 'clipping_power', 'clipped_share'),
)
# What tells the power of clipping: it itself, or else the share of clipped steps.
_CLIPPING = ('clipping_power', 'clipped_share')


@dataclass(frozen=True)
class LayerEnds:
    """How a layer goes through a stage.

    Args:
        start_norm: ‖w‖ at the first step.
        end_norm: ‖w‖ at the last step.
        start_ratio: Δ/Δ* at the first step.
        end_ratio: Δ/Δ* at the last step.
        start: Δ at the first step, in rad/step.
        end: Δ at the last step, in rad/step.
    """

    start_norm: float
    end_norm: float
    start_ratio: float
    end_ratio: float
    start: float
    end: float


@dataclass(frozen=True)
class LayerStage:
    """What a stage leads to in a layer.

    Args:
        stage: Number of the stage; −1 for the warm-up.
        plain: The forecast without rescaling.
        rescaled: The forecast with SMDRescaleHook.
        reaches: Whether the layer is in equilibrium at the end of the stage, by the
            config's own forecast; None if the rate anneals, or the law is too rough
            for a verdict.
    """

    stage: int
    plain: LayerEnds
    rescaled: LayerEnds
    reaches: bool | None


@dataclass(frozen=True)
class LayerPlan:
    """A layer that was measured, and what the schedule does to it.

    Args:
        layer: Name of the parameter.
        weight_norm: Its ‖w‖ in the first window.
        unit_grad_sq: Its L, or U under AdamW and its kin, from the last third of the
            windows.
        stages: What every stage leads to.
    """

    layer: str
    weight_norm: float
    unit_grad_sq: float
    stages: list[LayerStage]


@dataclass(frozen=True)
class Measured:
    """What a measured run adds to a plan.

    Args:
        layers: The layers.
        assumptions: What of the run is not used, a sentence each.
    """

    layers: list[LayerPlan]
    assumptions: list[str]


@dataclass(frozen=True)
class _Layer:
    """A layer as it was measured.

    Args:
        name: Name of the parameter.
        shape: Its shape.
        norm: Its ‖w‖ in the first window.
        drive: What makes its norm grow, at that norm.
        grad: Its ‖g̃‖²; NaN if it is not known.
        power: The p of :func:`.theory.clipping_power`; None if it is not known.
    """

    name: str
    shape: tuple[int, ...]
    norm: float
    drive: float
    grad: float
    power: float | None


def measured_clipping(records: Records, optimizer: Optimizer) -> float | None:
    """How clipping changes the law in a run, by the last third of its windows.

    Args:
        records: The run's records.
        optimizer: That of the config.

    Returns:
        The p of :func:`.theory.clipping_power`, of the median layer; None where the
        records do not tell, or the run was clipped to another norm.
    """
    if _clipped_otherwise(records, optimizer):
        return None
    found = [_power(columns) for _, columns in records.by_layer(('count', *_CLIPPING))]
    known = [power for power in found if power is not None]
    return float(np.median(known)) if known else None


def _power(columns: Mapping[str, np.ndarray]) -> float | None:
    """The p of a layer, or twice the share of clipped steps if there is no more."""
    for column, factor in zip(_CLIPPING, (1.0, 2.0), strict=True):
        found = _late_mean(columns, columns.get(column))
        if found is not None:
            return min(max(factor * found, 0.0), ALWAYS)
    return None


def plan_layers(
    course: Course, records: Records, work_dir: str, stages: Sequence[StagePlan] = ()
) -> Measured:
    """Forecast every scale-invariant layer that a run measured.

    Args:
        course: The schedule, the optimizer, and where weights are rescaled.
        records: The run's records.
        work_dir: Folder of the run, for messages.
        stages: The stages of the plan, of which some are not judged.

    Returns:
        The layers in the order of the records, and what is not used.

    Raises:
        RecordsError: If the records lack what is needed.
    """
    optimizer = course.optimizer
    if not optimizer.comes_to_equilibrium:
        unused = (
            f'the records of {work_dir} are not used: no way to an equilibrium is '
            f'known under {optimizer.name} with weight decay '
            f'{optimizer.weight_decay:g}'
        )
        return Measured([], [unused])
    drive = f'{course.law.drive}_mean'
    # Version 0.1 recorded nothing of AdamW's updates. All records have h̃.
    old = drive != 'unit_h_mean' and drive not in records.table.column_names
    if old:
        unused = (
            f'the records of {work_dir} are not used: they lack {drive}, which makes '
            f'norms grow under {optimizer.name}'
        )
        return Measured([], [unused])
    if share := _clipped_here_only(records, course):
        unused = (
            f'the records of {work_dir} are not used: {share:.0%} of its steps were '
            'clipped and the config clips none, so that its norms grow otherwise'
        )
        return Measured([], [unused])
    measured = _measured(records, drive, optimizer.clips)
    said = []
    if other := _clipped_otherwise(records, optimizer):
        said.append(other)
        measured = [replace(layer, power=None) for layer in measured]
    layers = [
        layer
        for layer in measured
        if all(optimizer.multipliers(layer.name, layer.shape))
    ]
    if not measured:
        said.append(
            f'the records of {work_dir} are not used: no scale-invariant layer has '
            f'a positive mean of {drive.removesuffix("_mean")}'
        )
    if len(layers) < len(measured):
        said.append(
            f'{len(measured) - len(layers)} of {len(measured)} measured layers are '
            'left out: without rate or weight decay there is no equilibrium, and '
            'settings of their own are not planned'
        )
    if optimizer.clips and any(layer.power is None for layer in layers):
        said.append(
            'the records do not tell how often the gradient was clipped: layers are '
            'forecast as if it never were'
        )
    planned: dict[str, LayerPlan] = {}
    for (rate, decay, power), members in _alike(course, layers).items():
        own = replace(course, clipping_power=power)
        for plan in _forecast(own, members, stages, rate, decay):
            planned[plan.layer] = plan
    return Measured([planned[layer.name] for layer in layers], said)


def _clipped_here_only(records: Records, course: Course) -> float:
    """The share of clipped steps of a run, if the config clips none and it matters."""
    if course.optimizer.clips or not course.law.clips:
        return 0.0
    found = [
        _late_mean(columns, columns.get('clipped_share'))
        for _, columns in records.by_layer(('count', 'clipped_share'))
    ]
    return max((share for share in found if share is not None), default=0.0)


def _clipped_otherwise(records: Records, optimizer: Optimizer) -> str | None:
    """What is to be said of a run that was clipped to another norm than the config."""
    if not optimizer.clips or 'clipping' not in records.metadata:
        return None
    limit = (records.metadata['clipping'] or {}).get('max_norm')
    if limit == optimizer.max_norm:
        return None
    was = 'did not clip' if limit is None else f'clipped to {limit:g}'
    return (
        f'the measured run {was}, and the config clips to '
        f'{optimizer.max_norm:g}: how much that clips is not known'
    )


def _measured(records: Records, drive: str, clips: bool) -> list[_Layer]:
    """The scale-invariant layers of which ‖w‖ and the drive are known."""
    records.require((drive, 'weight_norm_mean'))
    facts = records.metadata.get('layers') or {}
    if not isinstance(facts, Mapping):
        raise RecordsError(f'metadata: layers must be a dict, got {facts!r:.80}')
    shapes = records.shapes()
    layers = []
    for name, columns in records.by_layer():
        fact = facts.get(name)
        if isinstance(fact, Mapping) and fact.get('invariant') is False:
            continue
        norms = columns['weight_norm_mean'][columns['count'] > 0]
        driven = _late_mean(columns, columns[drive])
        grad = _late_mean(columns, columns.get('unit_grad_sq_mean'))
        if driven is None or not driven > 0 or not len(norms):
            continue
        power = _power(columns) if clips else 0.0
        # Where the gradient is clipped the drive goes with the norm.
        late = _late_mean(columns, columns['weight_norm_mean']) or norms[0]
        driven *= (norms[0] / late) ** (power or 0.0)
        layers.append(
            _Layer(
                name,
                shapes.get(name, ()),
                float(norms[0]),
                driven,
                np.nan if grad is None else grad,
                power,
            )
        )
    return layers


def _late_mean(
    columns: Mapping[str, np.ndarray], values: np.ndarray | None
) -> float | None:
    """The mean over the last third of the windows; None where nothing is known."""
    if values is None:
        return None
    count = columns['count']
    late = np.arange(len(count)) >= len(count) * 2 // 3
    late &= (count > 0) & np.isfinite(values)
    return float(np.average(values[late], weights=count[late])) if late.any() else None


def _alike(
    course: Course, layers: Sequence[_Layer]
) -> dict[tuple[float, float, float], list[_Layer]]:
    """The layers by the multipliers of their rate and decay, and by p in tenths.

    Those of one kind are forecast together.
    """
    alike: dict[tuple[float, float, float], list[_Layer]] = {}
    for layer in layers:
        power = round(layer.power or 0.0, 1)
        rate, decay = course.optimizer.multipliers(layer.name, layer.shape)
        alike.setdefault((rate, decay, power), []).append(layer)
    return alike


def _forecast(
    course: Course,
    layers: Sequence[_Layer],
    stages: Sequence[StagePlan],
    rate: float,
    decay: float,
) -> list[LayerPlan]:
    """Forecast layers that have the same multipliers of rate and decay."""
    edges = np.array([t for s in course.spans for t in (s.start, s.end - 1)])
    angles = _angles(course, layers, edges, rate, decay)
    ends = {}
    for kind in KINDS:
        norms, ratios = course.ahead(
            kind,
            np.array([layer.norm for layer in layers]),
            np.array([layer.drive for layer in layers]),
            at=edges,
            rate=rate,
            decay=decay,
        )
        ends[kind] = [
            _ends(norms[:, column], ratios[:, column], angles[:, column])
            for column in range(len(layers))
        ]
    numbers = [span.stage.number for span in course.spans]
    unjudged = {stage.stage for stage in stages if stage.anneals}
    found = []
    for layer, plain, rescaled in zip(
        layers, ends['plain'], ends['rescaled'], strict=True
    ):
        own = plain if course.kind == 'plain' else rescaled
        found.append(
            LayerPlan(
                layer.name,
                layer.norm,
                layer.drive,
                [
                    LayerStage(
                        number,
                        plain[i],
                        rescaled[i],
                        _reaches(course, own[i], number in unjudged),
                    )
                    for i, number in enumerate(numbers)
                ],
            )
        )
    return found


def _angles(
    course: Course,
    layers: Sequence[_Layer],
    edges: np.ndarray,
    rate: float,
    decay: float,
) -> np.ndarray:
    """Δ* of each layer at some steps, shape (steps, layers).

    Under Nesterov momentum it depends on how far gradients are correlated, which the
    layer's own ‖g̃‖² and drive tell.
    """
    known = course.law.angular_update_sq(
        course.schedule.rate(rate)[edges][:, None],
        course.optimizer.weight_decay * decay,
        course.schedule.momentum[edges][:, None],
        np.array([layer.grad for layer in layers]),
        np.array([layer.drive for layer in layers]),
    )
    return np.broadcast_to(np.sqrt(known), (len(edges), len(layers)))


def _ends(norms: np.ndarray, ratios: np.ndarray, angles: np.ndarray) -> list[LayerEnds]:
    """How one layer goes through the stages.

    Args:
        norms: ‖w‖ at the first and the last step of every stage, shape (2 · stages,).
        ratios: Δ/Δ* at these steps.
        angles: Δ* at these steps.
    """
    moves = ratios * angles
    return [
        LayerEnds(*map(float, (*norms[pair], *ratios[pair], *moves[pair])))
        for pair in (slice(i, i + 2) for i in range(0, len(norms), 2))
    ]


def _reaches(course: Course, own: LayerEnds, unjudged: bool) -> bool | None:
    reaches = abs(own.end_ratio - 1) <= TOLERANCE
    if course.law.indicative or (unjudged and not reaches):
        return None
    return reaches
