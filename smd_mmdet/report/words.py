"""What figures and checks show and what to do about the verdicts, in words."""

from collections import defaultdict
from collections.abc import Callable

from smd_mmdet import checks, theory
from smd_mmdet.checks import Report, StageReport
from smd_mmdet.checks.assumptions import ASSUMPTIONS
from smd_mmdet.stages import stage_name

__all__ = ['CHECKS', 'FIGURES', 'advice', 'plural']

# The layers that are in one state at the end of a stage, by name.
_Layers = list[tuple[str, StageReport]]

# Title and explanation of each figure.
FIGURES = {
    'equilibrium': (
        'Who is in equilibrium',
        'Δ/Δ* of every layer over the run: colourless where it turns as predicted, '
        'blue where too slowly (its norm is too large), red where too fast.',
    ),
    'angular_update': (
        'Angular update of every layer',
        'The angle each weight turns through per iteration; at equilibrium it is '
        'Δ* = √(2λη/(1+α)), whatever the layer.',
    ),
    'weight_norm': (
        'Weight norm',
        'Gradients lengthen the weight, decay shortens it; w* is where they balance, '
        'and moves with the unit gradient.',
    ),
    'unit_gradient': (
        'Unit gradient',
        'The squared gradient the layer would have on the unit sphere, with momentum '
        'h̃; its mean over 200 iterations is L, which sets w*.',
    ),
    'cosine': (
        'Cosine of weight and gradient',
        'Zero for a scale-invariant weight (Lemma 1), up to rounding; above 0.02 the '
        'weight is not scale-invariant, or no longer.',
    ),
    'distance': (
        'Distance to equilibrium',
        'How far ‖w‖² is from w*², beside the decay expected (4λη/(1−α) in ‖w‖⁴) and '
        'the slower one that the theorem guarantees; the floor is noise.',
    ),
}

# Title and meaning of each check.
CHECKS = {
    'small_step': ('Small step', 'λη is small enough for the theorems.'),
    'bounded_noise': ('Bounded noise', 'The unit gradient has a variance V.'),
    'slow_drift': ('Slow drift', 'L moves slower than the norm relaxes.'),
    'lower_bound_strict': (
        'Lower bound, every iteration',
        'The unit gradient never comes too near 0.',
    ),
    'lower_bound_windowed': (
        'Lower bound, 200-iteration means',
        'The unit gradient does not come too near 0 on average.',
    ),
    'lemma_1': (
        'Lemma 1',
        'Weight and gradient are orthogonal, up to rounding that averages out.',
    ),
    'transient_law': (
        'Transient law',
        'Δ/Δ*·(‖w‖/w*)² is 1 at every moment, in equilibrium or not.',
    ),
    'linear_convergence': (
        'Linear convergence',
        '‖w‖⁴ relaxes at 4λη/(1−α) per iteration, within 7 %.',
    ),
    'weight_norm': ('Norm at equilibrium', '‖w‖ comes to w*.'),
    'weight_norm_spread': ('Spread of the norm', '‖w‖² stays near w*².'),
    'angular_update': ('Angle at equilibrium', 'Δ comes to Δ*.'),
    'angular_update_probability': (
        'Spread of the angle',
        'Δ is seldom further from Δ* than Theorem 3 allows.',
    ),
    'corollary_3_1': (
        'Corollary 3.1',
        'After a rate drop the norm needs at least the iterations it says.',
    ),
}


def plural(number: int, noun: str) -> str:
    """A number of things: '1 layer', '2 layers'."""
    return f'{number} {noun}{"" if number == 1 else "s"}'


def advice(report: Report) -> list[str]:
    """What to do about layers that are not where the theory wants them.

    Args:
        report: The verdicts on a run.

    Returns:
        Pieces of advice of one or two sentences, those on the last stage first and of
        a stage the most pressing first; none if all is well.
    """
    found: list[str] = []
    for number, by_state in _states(report):
        for states, tell in _ADVICE:
            if layers := [pair for state in states for pair in by_state.get(state, ())]:
                found.append(tell(stage_name(number), layers))
    found += _assumptions(report)
    # Some advice is the same for several stages, and is given once.
    return list(dict.fromkeys(found))


def _assumptions(report: Report) -> list[str]:
    """One sentence on the assumptions that fail in the last stage, if any do."""
    if not report.stages:
        return []
    last = report.stages[-1].stage
    names = ', '.join(
        f'{CHECKS[name][0].lower()} (in {plural(counts[checks.FAILS], "layer")})'
        for name, counts in report.verdict_counts(last).items()
        if name in ASSUMPTIONS and counts[checks.FAILS]
    )
    if not names:
        return []
    return [
        f'Assumptions of the theorems that fail in {stage_name(last)}: {names}. The '
        'theorems then promise nothing; the conclusions are measured all the same.'
    ]


def _states(report: Report) -> list[tuple[int, dict[str, _Layers]]]:
    """The numbers of the stages, the last first, each with its layers by state."""
    stages: dict[int, dict[str, _Layers]] = defaultdict(lambda: defaultdict(list))
    for layer in report.layers:
        for stage in layer.stages:
            if stage.stage >= 0 or stage.state == checks.DIVERGED:
                stages[stage.stage][stage.state].append((layer.layer, stage))
    return sorted(stages.items(), key=lambda item: item[0], reverse=True)


def _named(layers: _Layers, most: int = 3) -> str:
    names = ', '.join(name for name, _ in layers[:most])
    return names if len(layers) <= most else f'{names} and {len(layers) - most} more'


def _too_slow(name: str, layers: _Layers) -> str:
    _, stage = layers[0]
    length = stage.last_iter - stage.first_iter + 1
    # ‖w‖⁴ relaxes at 4λη/(1−α) per step, twice the rate that the theorem guarantees.
    rate = theory.norm4_rate(stage.lr, stage.weight_decay, stage.momentum)
    needed = stage.iterations_per_step / rate
    return (
        f'In {name}, {plural(len(layers), "layer")} did not reach equilibrium: at this '
        f'rate ‖w‖⁴ comes nearer by 1/e in {needed:,.0f} iterations, and the stage '
        f'has {length:,}. A longer stage, a larger weight decay, or rescaling the '
        'weights by k^(−1/4) where the rate is divided by k would get there.'
    )


def _fails(name: str, layers: _Layers) -> str:
    _, stage = layers[0]
    return f'In {name}, the theory fails in {_named(layers)}: {stage.note}.'


def _first_note(name: str, layers: _Layers) -> str:
    _, stage = layers[0]
    return f'{_named(layers)}: {stage.note}.'


def _moves(name: str, layers: _Layers) -> str:
    return f'In {name}, {layers[0][1].note}; the transient law is what to read there.'


def _undecided(name: str, layers: _Layers) -> str:
    _, stage = layers[0]
    reasons = [check.reason for check in stage.checks if check.name == 'angular_update']
    why = stage.note or (reasons[0] if reasons else 'too noisy to tell')
    return f'No verdict on {plural(len(layers), "layer")} in {name}: {why}.'


# What to say of layers in some states, the most pressing first.
_ADVICE: list[tuple[tuple[str, ...], Callable[[str, _Layers], str]]] = [
    ((checks.DIVERGED,), _first_note),
    ((checks.OFF,), _fails),
    ((checks.NOT_INVARIANT,), _first_note),
    ((checks.LEFT_REGIME,), _first_note),
    ((checks.NO_DECAY, checks.NO_RATE), _first_note),
    ((checks.NO_THEORY,), _first_note),
    ((checks.NO_GRADIENT,), _first_note),
    ((checks.UNREACHABLE, checks.FROM_ABOVE, checks.FROM_BELOW), _too_slow),
    ((checks.MOVING,), _moves),
    ((checks.TOO_SHORT, checks.UNCLEAR), _undecided),
]
