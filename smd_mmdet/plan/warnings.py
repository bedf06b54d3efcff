"""What a plan says in words: warnings with their remedy, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from smd_mmdet.config.optimizer import Optimizer
from smd_mmdet.stages import WARMUP

from .measured import LayerPlan
from .rescaling import Rescaling
from .stages import TOLERANCE, TYPICAL_START, Ends, StagePlan

__all__ = ['verdict', 'warnings', 'with_warnings']

_RESCALING = {
    'none': 'without rescaling',
    'steps': 'with rescaling at steps of the rate only',
    'all': 'even with rescaling at every change of the rate',
}
_FROZEN_NORMS = (
    "the backbone's norms are frozen: the plan holds only with norm_eval=False, "
    'frozen_stages=-1 (smd audit tells)'
)


def with_warnings(stages: Sequence[StagePlan], rescaling: Rescaling) -> list[StagePlan]:
    """The stages of a plan, each with its warning if it needs one.

    Args:
        stages: The stages, with their forecasts.
        rescaling: Where weights are rescaled.

    Returns:
        The same stages.
    """
    after = [stage.stage for stage in stages if stage.stage != WARMUP]
    return [
        replace(stage, warning=_warning(stage, stage.stage == after[0], rescaling))
        if stage.stage != WARMUP
        else stage
        for stage in stages
    ]


def warnings(
    optimizer: Optimizer,
    norms_frozen: bool,
    stages: Sequence[StagePlan],
    layers: Sequence[LayerPlan],
    kind: str,
) -> list[str]:
    """What stands in the way of equilibrium, and the remedy.

    Args:
        optimizer: The optimizer.
        norms_frozen: Whether the config freezes normalization layers.
        stages: The stages, with their warnings.
        layers: The layers that were measured.
        kind: Which of the two forecasts is the config's own.

    Returns:
        A sentence each.
    """
    if optimizer.theory == 'none':
        return [f'no equilibrium is derived for {optimizer.name}: nothing to forecast']
    if not optimizer.weight_decay > 0:
        return ['weight_decay is 0: without decay there is no equilibrium']
    return [
        *([_FROZEN_NORMS] if norms_frozen else []),
        *(stage.warning for stage in stages if stage.warning),
        *_of_layers(layers, kind),
    ]


def verdict(
    stages: Sequence[StagePlan], optimizer: Optimizer, rescaling: Rescaling
) -> str:
    """The plan in one sentence.

    Args:
        stages: The stages, with their forecasts.
        optimizer: The optimizer.
        rescaling: Where weights are rescaled.

    Returns:
        How many stages come to equilibrium, and whether the first does from where
        layers usually start; or why that is not known.
    """
    if optimizer.known is None:
        return f'no theory for {optimizer.name}'
    if optimizer.known.drive != 'unit_h':
        return f'{optimizer.known.title}: Δ* is known, the way there is not'
    if not optimizer.weight_decay > 0:
        return 'no weight decay, no equilibrium'
    judged = [stage for stage in stages if stage.reaches is not None]
    unreached = [str(stage.stage) for stage in judged if not stage.reaches]
    if unreached:
        said = (
            f'{len(unreached)} of {len(judged)} stages cannot reach equilibrium '
            f'{_RESCALING[rescaling.changes]}: stage {", ".join(unreached)}'
        )
    else:
        said = f'{len(judged)} of {len(judged)} stages are long enough for equilibrium'
    # A stage that comes to equilibrium is warned of only if it is the first one, and
    # layers usually begin too far away.
    if late := [stage for stage in judged if stage.reaches and stage.warning]:
        said += (
            f'; stage {late[0].stage} is too short for layers that start at '
            f'{TYPICAL_START:g} times its norm, as is usual'
        )
    return said


def _of_layers(layers: Sequence[LayerPlan], kind: str) -> list[str]:
    """The stages at whose end measured layers are not in equilibrium."""
    found = []
    for number in sorted({s.stage for layer in layers for s in layer.stages}):
        if number == WARMUP:
            continue
        ends = [s for layer in layers for s in layer.stages if s.stage == number]
        late = sum(not s.reaches for s in ends)
        if late:
            own = [s.plain if kind == 'plain' else s.rescaled for s in ends]
            lowest = min(end.end_ratio for end in own)
            found.append(
                f'measured: {late} of {len(ends)} layers will not be in equilibrium at '
                f'the end of stage {number} (lowest Δ/Δ* {lowest:.2f})'
            )
    return found


def _warning(stage: StagePlan, first: bool, rescaling: Rescaling) -> str | None:
    """The warning of a stage; ``first`` if no stage but the warm-up is before it."""
    own = stage.forecast(rescaling.kind)
    if own is None:
        return None
    if not stage.steady:
        return None if stage.reaches else _too_fast(stage, own, rescaling)
    if stage.iterations_to_equilibrium is None:
        return f'stage {stage.stage} has a learning rate of 0: nothing moves'
    if first:
        return _short_start(stage)
    return None if stage.reaches else _too_short(stage, own, rescaling)


def _too_fast(stage: StagePlan, own: Ends, rescaling: Rescaling) -> str:
    return (
        f'stage {stage.stage} moves the learning rate from {stage.lr_start:.3g} to '
        f'{stage.lr_end:.3g} faster than norms can follow: Δ will be {_span(own)} of '
        f'its equilibrium; {_remedy(stage, rescaling.changes)}'
    )


def _short_start(stage: StagePlan) -> str | None:
    """The forecast of the first stage begins at equilibrium; real layers do not."""
    if stage.reachable_from is None or stage.reachable_from >= TYPICAL_START:
        return None
    return (
        f'stage {stage.stage} lasts {stage.iterations:,} iterations: layers come to '
        f'equilibrium if they start within {stage.reachable_from:.2g} times its norm; '
        f'from {TYPICAL_START:g} times, usual under default initialization, it takes '
        f'{stage.iterations_to_equilibrium:,.0f}; start at equilibrium, or raise '
        'weight decay'
    )


def _too_short(stage: StagePlan, own: Ends, rescaling: Rescaling) -> str:
    needed = stage.iterations_to_equilibrium or 0.0
    itself = ''
    if (bound := stage.corollary_iterations or 0) > needed:
        itself = f', to equilibrium itself after {bound:,} at least (Corollary 3.1)'
    return (
        f'stage {stage.stage} lasts {stage.iterations:,} iterations; Δ comes to within '
        f'{TOLERANCE:.0%} of its equilibrium after {needed:,.0f}{itself}: Δ will be '
        f'{_span(own)} of its equilibrium; {_remedy(stage, rescaling.changes)}'
    )


def _span(own: Ends) -> str:
    return f'{own.start_ratio:.2f} → {own.end_ratio:.2f}'


def _remedy(stage: StagePlan, changes: str) -> str:
    """What would bring a stage to equilibrium, given the changes followed already."""
    if changes == 'all':
        return 'raise weight decay'
    followed = stage.rescaled
    helps = followed is not None and abs(followed.end_ratio - 1) <= TOLERANCE
    if changes == 'none' and helps:
        return 'rescale, or raise weight decay'
    return (
        'rescale at every change of the rate (SMDRescaleHook, continuous=True), or '
        'raise weight decay'
    )
