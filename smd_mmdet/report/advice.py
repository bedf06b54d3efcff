"""What to do about the verdicts on a run, what may be done next, and the fine print."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from smd_mmdet import checks, theory
from smd_mmdet.checks import ANGLE_TOLERANCE, Report, StageReport
from smd_mmdet.checks.assumptions import assumptions_of
from smd_mmdet.stages import stage_name

from .clipping import unforeseen
from .grouping import number, span
from .words import CHECKS, plural

__all__ = ['advice', 'fine_print', 'next_steps']

_Clipping = Mapping[str, Any] | None
# The layers that are in one state at the end of a stage, by name.
_Layers = list[tuple[str, StageReport]]
# By how much ‖w‖⁴ (of AdamW, ‖w‖²) is off where Δ is by its tolerance.
_NEAR = 2 * ANGLE_TOLERANCE
# By how much a weight decay may be raised without making it another training.
_MOST_DECAY = 5
# The usual drop of a learning rate.
_DROP = 10


# ------------------------------------------------------------------ what is wrong


def advice(report: Report, clipping: _Clipping = None) -> list[str]:
    """What to do about layers that are not where the theory wants them.

    Args:
        report: The verdicts on a run.
        clipping: How the records' metadata say that gradients are clipped.

    Returns:
        Pieces of advice of one or two sentences, those on the last stage first and of
        a stage the most pressing first; none if all is well.
    """
    found: list[str] = []
    law = theory.THEORIES.get(report.theory)
    for place, by_state in _states(report):
        for states, tell in _ADVICE:
            if layers := [pair for state in states for pair in by_state.get(state, ())]:
                unknown = unforeseen(law, clipping, _share(layers[0][1]))
                if tell is _too_slow and unknown:
                    tell = partial(_not_foreseen, unknown)
                found.append(tell(stage_name(place), layers))
        found += _failures(stage_name(place), by_state)
        found += _strays(stage_name(place), by_state)
    # Some advice is the same for several stages, and is given once.
    return list(dict.fromkeys(found))


def _failures(name: str, by_state: dict[str, _Layers]) -> list[str]:
    """Conclusions that fail in layers whose state does not tell it."""
    failing: dict[str, _Layers] = defaultdict(list)
    for state, layers in by_state.items():
        for layer, stage in layers:
            if stage.failing and state != checks.OFF:
                failing[stage.failing[0].name].append((layer, stage))
    told = []
    for check, layers in failing.items():
        first = layers[0][1].failing[0]
        told.append(
            f'In {name}, {CHECKS[check][0].lower()} fails in {_named(layers)}: '
            f'{first.cause or first.reason}.'
        )
    return told


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
    return (
        f'In {name}, {plural(len(layers), "layer")} did not reach equilibrium: at this '
        f'rate the norm comes nearer by 1/e in {_relaxation(stage):,.0f} iterations, '
        f'and the stage has {length:,}. {_longer(length, layers)}or rescaling the '
        f'weights by k^(−1/{1 / (stage.norm_power or 0.25):.3g}) where the rate is '
        'divided by k (SMDRescaleHook) would get there.'
    )


def _not_foreseen(why: str, name: str, layers: _Layers) -> str:
    return (
        f'In {name}, {plural(len(layers), "layer")} did not reach equilibrium; when '
        f'they would is not predicted: {why}.'
    )


def _longer(length: int, layers: _Layers) -> str:
    """By how much a stage would have to be longer, or decay larger, for most layers."""
    left = [stage.iterations_left for _, stage in layers if stage.iterations_left]
    if not left:
        return 'A longer stage, a larger weight decay, '
    _, stage = layers[0]
    needed = length + float(np.median(left))
    told = f'A stage of {needed:,.0f} iterations (for half of these layers), '
    if needed <= _MOST_DECAY * length:
        # The exponent of the way is the rate times the length, so λ counts like it.
        decay = stage.weight_decay * needed / length
        told += (
            f'a weight decay of {number(decay)} in place of '
            f'{number(stage.weight_decay)}, '
        )
    return told


def _relaxation(stage: StageReport) -> float:
    """Iterations in which the distance of the norm from w* falls to 1/e."""
    if stage.relaxation_iterations is not None:
        return stage.relaxation_iterations
    # It relaxes at 4λη/(1−α) per step, twice the rate that the theorem guarantees.
    rate = theory.norm4_rate(stage.lr, stage.weight_decay, stage.momentum)
    return float(stage.iterations_per_step / rate)


def _fails(name: str, layers: _Layers) -> str:
    _, stage = layers[0]
    return f'In {name}, the theory fails in {_named(layers)}: {stage.note}.'


def _first_note(name: str, layers: _Layers) -> str:
    _, stage = layers[0]
    return f'{_named(layers)}: {stage.note}.'


def _moves(name: str, layers: _Layers) -> str:
    return f'In {name}, {layers[0][1].note}; the transient law is what to read there.'


def _strays(name: str, by_state: Mapping[str, _Layers]) -> list[str]:
    """Layers that a controller does not bring to the angle that it wants."""
    astray = [
        (layer, stage)
        for layers in by_state.values()
        for layer, stage in layers
        if stage.verdict_of(checks.WANTED) == checks.FAILS
    ]
    if not astray:
        return []
    return [
        f'In {name} Δ of {_named(astray)} is not within {ANGLE_TOLERANCE:.0%} of the '
        "wanted in 90 % of the windows: the run's log names layers that cannot follow "
        'and why; of noisy ones a window of more iterations tells more.'
    ]


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


# ------------------------------------------------------------------ what is next


def next_steps(report: Report, clipping: _Clipping = None) -> list[str]:
    """What may be done next, with what the theory says would come of it.

    Args:
        report: The verdicts on a run.
        clipping: How the records' metadata say that gradients are clipped.

    Returns:
        Sentences, the first of which tells where the run is; none where there is no
        theory to say more than :func:`advice`.
    """
    last = _last_stages(report)
    if not last:
        return []
    if any(stage.angular_update_wanted is not None for stage in last):
        return [_controlled(report)]
    law = theory.THEORIES[report.theory]
    steps = [_where(report, last)]
    if why := unforeseen(law, clipping, [_share(stage) for stage in last]):
        return [
            *steps,
            'What another weight decay or the next drop of the rate would do is not '
            f'predicted: {why}.',
        ]
    if law.norm_law:
        steps.append(_other_decay(law, last[0]))
        there = [stage.state == checks.IN_EQUILIBRIUM for stage in last]
        # Of layers that are still on their way the next drop is not the question.
        steps += [_next_drop(law, last[0])] if np.mean(there) >= 0.5 else []
    steps.append(
        '`smd plan CONFIG --work-dir RUN` tells what another schedule would do to '
        'these layers, one by one.'
    )
    return steps


def _last_stages(report: Report) -> list[StageReport]:
    """What the layers did in the last stage, if its rate and decay mean something.

    A layer comes first whose settings are those of most layers.
    """
    if not report.stages or report.theory not in theory.THEORIES:
        return []
    summary = report.stages[-1]
    found = [
        stage
        for layer in report.layers
        for stage in layer.stages
        if stage.stage == summary.stage >= 0
        and stage.lr > 0
        and stage.weight_decay > 0
        and stage.angular_update_ratio is not None
        and stage.state != checks.MOVING
    ]
    return sorted(found, key=lambda stage: stage.lr != summary.lr)


def _controlled(report: Report) -> str:
    """Where a run is whose angular update is set."""
    last = report.stages[-1]
    said = f'SMDRescaleHook sets Δ in {stage_name(last.stage)}'
    if last.wanted_share is not None:
        said += (
            f', and it is within {ANGLE_TOLERANCE:.0%} of the wanted in '
            f'{last.wanted_share:.1%} of {last.wanted_pairs:,} (layer, window) pairs'
        )
    return (
        f'{said}. To turn more or less, change `angular_update`: weight decay does not '
        'decide on it.'
    )


def _where(report: Report, last: list[StageReport]) -> str:
    there = [stage for stage in last if stage.state == checks.IN_EQUILIBRIUM]
    ratios = span(stage.angular_update_ratio for stage in last)
    name = stage_name(last[0].stage)
    angle = _angle(theory.THEORIES[report.theory], last[0])
    if len(there) == len(report.layers) and not report.exit_code:
        return (
            f'Nothing is wrong: {len(there)} of {len(there)} layers are in equilibrium '
            f'in {name}, where Δ* is {angle} rad per iteration (Δ/Δ* {ratios}).'
        )
    return (
        f'In {name} Δ* is {angle} rad per iteration, and Δ/Δ* {ratios} over '
        f'{plural(len(last), "layer")}.'
    )


def _angle(
    law: theory.Theory, stage: StageReport, lr: float = 1.0, decay: float = 1.0
) -> str:
    """Δ* of a stage if its learning rate and weight decay were multiplied."""
    settings = lr * stage.lr, decay * stage.weight_decay, stage.momentum
    # Where Δ* depends on how gradients are correlated, that is known of the stage.
    angle_sq = law.angular_update_sq(*settings, 1.0, stage.whiteness)
    return number(float(np.sqrt(angle_sq)))


def _share(stage: StageReport) -> float:
    return np.nan if stage.clipped_share is None else stage.clipped_share


def _power(law: theory.Theory, stage: StageReport) -> float:
    """The p of clipping: that in the power 1/(q−p) of η with which w* goes."""
    return law.exponent - 1 / stage.norm_power if stage.norm_power else 0.0


def _rate(law: theory.Theory, stage: StageReport, drop: float = 1.0) -> float:
    """(q−p)λη_e of a stage, per iteration, if its rate were divided."""
    settings = stage.lr / drop, stage.weight_decay, stage.momentum
    rate = law.rate(*settings, _power(law, stage))
    return float(rate) / stage.iterations_per_step


def _other_decay(law: theory.Theory, stage: StageReport) -> str:
    """What twice the decay, and half of it, would do."""
    time = 1 / _rate(law, stage)
    left = f'{law.exponent - _power(law, stage):.2g}'
    power = {'2': '²', '3': '³', '4': '⁴'}.get(left, f'^{left}')
    return (
        f'To turn more or less: with the weight decay doubled to '
        f'{number(2 * stage.weight_decay)} Δ* is {_angle(law, stage, decay=2)}, and '
        f'‖w‖{power} comes nearer by 1/e in {time / 2:,.0f} iterations in place of '
        f'{time:,.0f}; halved, {_angle(law, stage, decay=0.5)} and {2 * time:,.0f}. In '
        'a config the keys are `scale_invariant_decay_mult`, or `angular_update` for '
        'the angle itself.'
    )


def _next_drop(law: theory.Theory, stage: StageReport) -> str:
    """What a drop of the rate would do to a layer in equilibrium."""
    # w*^(q−p) falls with the rate, and ‖w‖^(q−p) comes down from so many times that.
    waiting = np.log((_DROP - 1) / _NEAR) / _rate(law, stage, _DROP)
    return (
        f'If the rate is divided by {_DROP} next, Δ* falls to '
        f'{_angle(law, stage, lr=1 / _DROP)}, and Δ of a layer in equilibrium to '
        f'{number(_DROP**-0.5, 2)} of that; it is within {ANGLE_TOLERANCE:.0%} again '
        f'after {waiting:,.0f} iterations, or at once with `SMDRescaleHook`.'
    )


# ------------------------------------------------------------------ fine print


def fine_print(report: Report) -> str:
    """Which assumptions of the theorems fail in the last stage, in one sentence or two.

    Args:
        report: The verdicts on a run.

    Returns:
        The sentences; empty if no assumption fails.
    """
    if not report.stages:
        return ''
    last = report.stages[-1].stage
    assumed = assumptions_of(theory.THEORIES.get(report.theory))
    names = ', '.join(
        f'{CHECKS[name][0].lower()} (in {plural(counts[checks.FAILS], "layer")})'
        for name, counts in report.verdict_counts(last).items()
        if name in assumed and counts[checks.FAILS]
    )
    if not names:
        return ''
    return (
        f'Assumptions of the theorems that fail in {stage_name(last)}: {names}. The '
        'theorems then promise nothing; the conclusions are measured all the same.'
    )
