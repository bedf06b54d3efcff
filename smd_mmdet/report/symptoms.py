"""What a reader sees, what it means, what to change, and what that did to AP.

The page shows this table, and ``docs/symptoms.md`` holds it as well. Figures are those
of ``docs/reproduction.md``: differences in percentage points, seed by seed, with their
95 % intervals.
"""

from collections.abc import Callable
from dataclasses import dataclass

from smd_mmdet import checks
from smd_mmdet.checks import Report, StageReport

__all__ = ['SYMPTOMS', 'Symptom', 'shown_by']

NOT_MEASURED = 'Not measured.'


@dataclass(frozen=True)
class Symptom:
    """A row of the table.

    Args:
        seen: What a reader sees.
        means: What it means.
        change: What to change.
        effect: What that did to AP in our runs.
        shows: Whether a stage of a layer shows it; None where that is not in the
            verdicts.
    """

    seen: str
    means: str
    change: str
    effect: str
    shows: Callable[[StageReport], bool] | None = None


def shown_by(report: Report) -> list[bool]:
    """Which of the symptoms a run shows, in any layer and stage after the warm-up.

    Args:
        report: The verdicts on the run.

    Returns:
        A flag for each of :data:`SYMPTOMS`.
    """
    stages = [
        stage
        for layer in report.layers
        for stage in layer.stages
        if stage.stage >= 0 or stage.state == checks.DIVERGED
    ]
    return [row.shows is not None and any(map(row.shows, stages)) for row in SYMPTOMS]


def _is(*states: str) -> Callable[[StageReport], bool]:
    return lambda stage: stage.state in states


def _slow(stage: StageReport) -> bool:
    if stage.state in (checks.UNREACHABLE, checks.FROM_ABOVE):
        ratio = stage.angular_update_ratio
        return ratio is None or ratio < 1
    return False


def _fast(stage: StageReport) -> bool:
    if stage.state in (checks.UNREACHABLE, checks.FROM_BELOW):
        ratio = stage.angular_update_ratio
        return ratio is not None and ratio > 1
    return False


def _oblique(stage: StageReport) -> bool:
    return stage.verdict_of('lemma_1') == checks.FAILS


def _assumption_fails(stage: StageReport) -> bool:
    return any(
        c.kind == 'assumption' and c.verdict == checks.FAILS for c in stage.checks
    )


SYMPTOMS = (
    Symptom(
        'Blue after a drop of the learning rate: Δ/Δ* far below 1, "unreachable in '
        'this stage".',
        'The norm is still that of the old rate, and too large for the new one. Δ '
        'falls to 1/√k of its new equilibrium when the rate is divided by k, and '
        'the stage ends before the norm has followed.',
        '`SMDRescaleHook`, which puts the norms in place at the drop. Or a longer '
        'stage, or a larger weight decay.',
        'Rescaled against plain, end of training, 3 seeds: box AP of Mask R-CNN '
        '+3.0 (+2.1 to +4.0) with BN and +0.7 (−4.6 to +6.0) with GN, of RetinaNet '
        '+5.4 (+2.1 to +8.7) and +4.3 (+3.3 to +5.2); top-1 accuracy of ResNet-18 '
        '+4.4 (−0.7 to +9.4). 300 iterations after the first drop, box AP of Mask '
        'R-CNN with BN −3.2 (−7.9 to +1.5). Longer stages and larger decay: not '
        'measured.',
        lambda stage: stage.stage > 0 and _slow(stage),
    ),
    Symptom(
        'Blue from the start, in the first stage: ‖w‖/w* of several times 1.',
        'Initial weights are much longer than w*, and only weight decay shortens them.',
        '`SMDRescaleHook(start_at_equilibrium=True)`, a longer first stage, or a '
        'larger weight decay.',
        'Started at equilibrium against plain, 3 seeds, Mask R-CNN with BN: box AP '
        '+0.8 (−13.6 to +15.1), mask AP +1.3 (−3.6 to +6.1): no difference shown. '
        'Longer stages and larger decay: not measured.',
        lambda stage: stage.stage == 0 and _slow(stage),
    ),
    Symptom(
        'Red: Δ/Δ* above 1, "approaching from below".',
        'The norm is too small. L has grown since it was set, at a rescaling for '
        'instance, or the rate has risen.',
        'Nothing, if it fades: gradients lengthen a weight faster than decay '
        'shortens it. Else `start_at_equilibrium` with more `repeats`.',
        NOT_MEASURED,
        _fast,
    ),
    Symptom(
        '"equilibrium moves", under a cosine or a linear schedule.',
        'The rate moves faster than the norm can follow. Towards the end every such '
        'schedule leaves equilibrium; that is no fault.',
        'Nothing. Read the transient law instead; it should be 1 throughout.',
        NOT_MEASURED,
        _is(checks.MOVING),
    ),
    Symptom(
        '"left the scale-invariant regime": the cosine of weight and gradient '
        'climbs above 0.02, one row turns blue.',
        'The layer gets almost no gradient. Decay has shrunk its weight until the ε '
        'of its norm matters, and the norm does not take out the scale any more.',
        'Less decay for it, a smaller ε, or data that reach it: a pyramid level on '
        'which no object falls is the usual case.',
        NOT_MEASURED,
        _is(checks.LEFT_REGIME),
    ),
    Symptom(
        '"not scale-invariant", or nothing to measure.',
        'The norm behind the weight is frozen, or there is none. The stock COCO '
        'configs freeze batch norm.',
        'Train the norms: `norm_cfg` with `requires_grad=True`, `norm_eval=False`, '
        '`frozen_stages=-1`. `smd audit` names the lines.',
        NOT_MEASURED,
        _is(checks.NOT_INVARIANT),
    ),
    Symptom(
        'Lemma 1 fails: a steady cosine of weight and gradient.',
        'The gradient has a part along the weight. It lengthens or shortens the '
        'weight as a change of weight decay would.',
        'Look for what else reads the output of the layer in front of its norm, or '
        'for a loss that penalizes the weight.',
        NOT_MEASURED,
        _oblique,
    ),
    Symptom(
        '"not at the predicted equilibrium": a conclusion fails.',
        'The optimizer does something else than the recorded settings say. The note '
        'names what would explain it: weight decay, or momentum.',
        'Compare the optimizer that trains with the config: groups, multipliers, '
        'other hooks that change them.',
        NOT_MEASURED,
        _is(checks.OFF),
    ),
    Symptom(
        '"no weight decay".',
        'Nothing shortens the weight. It grows for ever, and Δ falls for ever: the '
        'effective rate dies out.',
        'Weight decay for scale-invariant weights: `scale_invariant_decay_mult`, or '
        '`angular_update`.',
        NOT_MEASURED,
        _is(checks.NO_DECAY),
    ),
    Symptom(
        '"no gradient".',
        'Nothing reaches the layer: it is frozen, unused, or detached.',
        'Freeze it on purpose and exclude it, or let the loss reach it.',
        NOT_MEASURED,
        _is(checks.NO_GRADIENT),
    ),
    Symptom(
        '"diverged".',
        'Weights or gradients were not finite.',
        'A lower rate, a longer warm-up, or clipping of gradients.',
        NOT_MEASURED,
        _is(checks.DIVERGED),
    ),
    Symptom(
        '"undecided", "stage too short".',
        'Too few iterations, or too much noise, to tell Δ from Δ*. Small batches '
        'are noisy: V/L² of 10 and more.',
        'A longer stage or a larger batch. Nothing, if only the verdict is wanted '
        'later.',
        NOT_MEASURED,
        _is(checks.UNCLEAR, checks.TOO_SHORT),
    ),
    Symptom(
        'An assumption fails, conclusions hold.',
        'The theorems promise nothing here; what they conclude was measured and '
        'holds. h̃ below 0 in some iterations is usual for a detector.',
        'Nothing.',
        'With momentum, the lower bound at every iteration failed in all layers of '
        'our runs, and a conclusion in none; AP was not the question.',
        _assumption_fails,
    ),
)
