"""What a plan says in words: warnings with their remedy, and the verdict."""

from mmengine.config import Config

from smd_mmdet.config.optimizer import Optimizer
from smd_mmdet.config.settings import number, section
from smd_mmdet.stages import WARMUP

from .course import TOLERANCE, TYPICAL_START
from .rescaling import Rescaling

_RESCALING = {
    'none': 'without rescaling',
    'steps': 'with rescaling at steps of the rate only',
    'all': 'even with rescaling at every change of the rate',
}


def warnings(
    config: Config,
    stages: list[dict],
    layers: list[dict],
    optimizer: Optimizer,
    rescaling: Rescaling,
) -> list[str]:
    """What stands in the way of equilibrium, and the remedy.

    Args:
        config: The config that is planned.
        stages: Of the plan; those with a warning of their own get it.
        layers: Of the plan, if any were measured.
        optimizer: The config's.
        rescaling: What the config's hooks do.
    """
    if optimizer.theory == 'none':
        return [f'no equilibrium is derived for {optimizer.name}: nothing to forecast']
    if not optimizer.weight_decay > 0:
        return ['weight_decay is 0: without decay there is no equilibrium']
    found = _frozen_norms(config)
    after = [stage for stage in stages if stage['stage'] != WARMUP]
    for stage in after:
        if text := _warning(stage, stage is after[0], rescaling):
            stage['warning'] = text
            found.append(text)
    for stage in sorted({s['stage'] for layer in layers for s in layer['stages']}):
        if stage == WARMUP:
            continue
        ends = [s for layer in layers for s in layer['stages'] if s['stage'] == stage]
        late = sum(not s['reaches'] for s in ends)
        if late:
            lowest = min(s[rescaling.kind]['end_ratio'] for s in ends)
            found.append(
                f'measured: {late} of {len(ends)} layers will not be in equilibrium at '
                f'the end of stage {stage} (lowest Δ/Δ* {lowest:.2f})'
            )
    return found


def _frozen_norms(config: Config) -> list[str]:
    """Frozen norms, where a config says so; `smd audit` looks at the model itself."""
    backbone = section(section(config, 'model'), 'model.backbone')
    frozen = number(backbone.get('frozen_stages', -1), 'frozen_stages', -1) >= 0
    if not frozen and not backbone.get('norm_eval', False):
        return []
    return [
        "the backbone's norms are frozen: the plan holds only with norm_eval=False, "
        'frozen_stages=-1 (smd audit tells)'
    ]


def _remedy(stage: dict, changes: str) -> str:
    if changes == 'all':
        return 'raise weight decay'
    if changes == 'none' and abs(stage['rescaled']['end_ratio'] - 1) <= TOLERANCE:
        return 'rescale, or raise weight decay'
    return (
        'rescale at every change of the rate (SMDRescaleHook, continuous=True), or '
        'raise weight decay'
    )


def _warning(stage: dict, first: bool, rescaling: Rescaling) -> str | None:
    if stage['plain'] is None:
        return None
    number, length = stage['stage'], stage['iterations']
    course = stage[rescaling.kind]
    span = f'{course["start_ratio"]:.2f} → {course["end_ratio"]:.2f}'
    if not stage['steady']:
        if stage['reaches']:
            return None
        return (
            f'stage {number} moves the learning rate from {stage["lr_start"]:.3g} to '
            f'{stage["lr_end"]:.3g} faster than norms can follow: Δ will be {span} of '
            f'its equilibrium; {_remedy(stage, rescaling.changes)}'
        )
    needed = stage['iterations_to_equilibrium']
    if needed is None:
        return f'stage {number} has a learning rate of 0: nothing moves'
    if first:  # the plan starts at its equilibrium
        if stage['reachable_from'] >= TYPICAL_START:
            return None
        return (
            f'stage {number} lasts {length:,} iterations: layers come to equilibrium '
            f'if they start within {stage["reachable_from"]:.2g} times its norm; from '
            f'{TYPICAL_START:g} times, usual under default initialization, it takes '
            f'{needed:,.0f}; start at equilibrium, or raise weight decay'
        )
    if stage['reaches']:
        return None
    itself = ''
    if (bound := stage['corollary_iterations'] or 0) > needed:
        itself = f', to equilibrium itself after {bound:,} at least (Corollary 3.1)'
    return (
        f'stage {number} lasts {length:,} iterations; Δ comes to within '
        f'{TOLERANCE:.0%} of its equilibrium after {needed:,.0f}{itself}: Δ will be '
        f'{span} of its equilibrium; {_remedy(stage, rescaling.changes)}'
    )


def verdict(
    stages: list[dict],
    unreached: list[int],
    optimizer: Optimizer,
    rescaling: Rescaling,
) -> str:
    """The plan in one sentence."""
    if optimizer.known is None:
        return f'no theory for {optimizer.name}'
    if not optimizer.known.norm_law:
        return f'{optimizer.known.title}: Δ* is known, the way there is not'
    if not optimizer.weight_decay > 0:
        return 'no weight decay, no equilibrium'
    judged = [stage for stage in stages if stage['reaches'] is not None]
    if not unreached:
        return f'{len(judged)} of {len(judged)} stages are long enough for equilibrium'
    names = ', '.join(map(str, unreached))
    return (
        f'{len(unreached)} of {len(judged)} stages cannot reach equilibrium '
        f'{_RESCALING[rescaling.changes]}: stage {names}'
    )
