"""The list of the small runs, question by question."""

import math
from dataclasses import dataclass, replace

__all__ = [
    'ANGLE',
    'BASE',
    'DECAYS',
    'EACH',
    'QUESTIONS',
    'SETTINGS',
    'SHAPES',
    'STEPS',
    'VARIANTS',
    'Run',
    'swept',
]

# Iterations of a run, and those of its warm-up.
STEPS, WARM_UP = 500, 20
# Where the second part of a schedule of two begins, and what is left at the end of a
# cosine.
SECOND, LEAST = 0.6, 0.01


def _cosine(part: float) -> float:
    return LEAST + (1 - LEAST) * (1 + math.cos(math.pi * part)) / 2


# Schedules, of the part of the run that is done: what a rate or a Δ is multiplied by.
SHAPES = {
    'constant': lambda part: 1.0,
    'cosine': _cosine,
    'constant-cosine': lambda part: _cosine(max(0.0, (part - SECOND) / (1 - SECOND))),
    'drop': lambda part: 0.1 if part >= SECOND else 1.0,
}


@dataclass(frozen=True)
class Run:
    """One training of the small network.

    Args:
        name: Its name.
        optimizer: Of the scale-invariant weights: 'sgd' or 'adamw'.
        lr: The peak of their learning rate.
        weight_decay: Their weight decay; nothing else decays.
        norms: What their initial norms are multiplied by.
        batch: Images in a batch.
        shape: Key of :data:`SHAPES`, the schedule of all rates.
        whole: Whether optimizer and rate are those of all weights; else the rest,
            which nobody controls, keeps the reference's.
        control: '' for none; 'replay' of the reference's Δ; 'equilibrium'; 'rescale'
            where the rate drops; 'angle' for :attr:`angle`.
        angle: The peak of the wanted Δ, which has the shape of the rate; radians.
        every: Steps from one control to the next; SMDRescaleHook's own number is 1.
    """

    name: str
    optimizer: str = 'sgd'
    lr: float = 0.05
    weight_decay: float = 3.2e-3
    norms: float = 1.0
    batch: int = 32
    shape: str = 'cosine'
    whole: bool = False
    control: str = ''
    angle: float = 0.0
    every: int = 1

    def rate(self, step: int) -> float:
        """The rate of a step, counted from 0, relative to the peak."""
        return min(1.0, (step + 1) / WARM_UP) * SHAPES[self.shape](step / STEPS)

    def at_angle(self, angle: float) -> 'Run':
        """The same with Δ controlled."""
        return replace(self, name=f'{self.name}-set', control='angle', angle=angle)


BASE = Run('reference')
# Δ* = √(2λη/(1+α)) of the reference at its peak.
ANGLE = math.sqrt(2 * BASE.lr * BASE.weight_decay / 1.9)
# AdamW as it is mostly set; and as the sweep is centred, where its Δ*, which is
# √(2λη(1−β₁)/(1+β₁)), is the reference's.
ADAMW = {'optimizer': 'adamw', 'lr': 1e-3, 'weight_decay': 0.05}
LIKE_REFERENCE = {'optimizer': 'adamw', 'lr': 2e-3, 'weight_decay': 0.8}

# What a replay has to make up for.
VARIANTS = {
    'rate ×2': replace(BASE, name='rate_x2', lr=2 * BASE.lr),
    'decay ×4': replace(BASE, name='decay_x4', weight_decay=4 * BASE.weight_decay),
    'decay ÷4': replace(BASE, name='decay_d4', weight_decay=BASE.weight_decay / 4),
    'initial norms ×3': replace(BASE, name='norms_x3', norms=3.0),
    'AdamW': replace(BASE, name='adamw', **ADAMW),
    'rate ×2, heads too': replace(
        BASE, name='rate_x2_whole', lr=2 * BASE.lr, whole=True
    ),
    'AdamW, heads too': replace(BASE, name='adamw_whole', whole=True, **ADAMW),
}


def _replayed(run: Run, every: int = 20) -> Run:
    """The same with the reference's Δ, as a mean over so many steps."""
    return replace(run, name=f'{run.name}-replay', control='replay', every=every)


# The reference with its own Δ, given to every step.
EACH = replace(_replayed(BASE, every=1), name='reference-replay-each')


def _replay() -> list[Run]:
    found = [BASE, _replayed(BASE), EACH]
    for run in VARIANTS.values():
        found += [run, _replayed(run)]
    return found


# Weight decay over that of the reference.
DECAYS = tuple(4.0**power for power in range(-2, 3))


def _decay() -> list[Run]:
    found = []
    for factor in DECAYS:
        run = replace(
            BASE, name=f'decay_{factor:g}', weight_decay=factor * BASE.weight_decay
        )
        found += [run, run.at_angle(ANGLE)]
    return found


def _schedule() -> list[Run]:
    late = replace(BASE, shape='constant-cosine')
    drop = replace(BASE, shape='drop')
    return [
        replace(late, name='late_rate'),
        replace(late, name='late_equilibrium', control='equilibrium'),
        replace(late, name='late_angle').at_angle(ANGLE),
        replace(drop, name='drop_plain'),
        replace(drop, name='drop_rescaled', control='rescale'),
        replace(drop, name='drop_equilibrium', control='equilibrium'),
    ]


# Peaks that are swept, over those of the reference: two decades.
SWEPT = tuple(10 ** (power / 2) for power in range(-2, 3))


# Weight decay over the optimizer's usual one, and batch, of each curve of a sweep.
SETTINGS = tuple((decay, batch) for decay in (0.25, 4.0) for batch in (16, 64))


def _sweep(optimizer: str) -> list[Run]:
    usual = BASE if optimizer == 'sgd' else replace(BASE, **LIKE_REFERENCE)
    found = []
    for decay, batch in SETTINGS:
        run = replace(usual, batch=batch, weight_decay=decay * usual.weight_decay)
        for number, factor in enumerate(SWEPT):
            name = f'decay_{decay:g}-batch_{batch}-{number}'
            rate = replace(run, name=name, lr=factor * usual.lr)
            found += [rate, replace(run, name=name).at_angle(factor * ANGLE)]
    return found


QUESTIONS = {
    'replay': _replay(),
    'decay': _decay(),
    'schedule': _schedule(),
    'sweep-sgd': _sweep('sgd'),
    'sweep-adamw': _sweep('adamw'),
}


def swept(
    question: str, setting: tuple[float, int], by_angle: bool
) -> tuple[list[str], list[float]]:
    """The runs of one curve of a sweep.

    Args:
        question: 'sweep-sgd' or 'sweep-adamw'.
        setting: One of :data:`SETTINGS`.
        by_angle: Whether Δ is swept; else the rate is.

    Returns:
        Names of the runs, and the peaks that they have.
    """
    decay, batch = setting
    beginning = f'decay_{decay:g}-batch_{batch}-'
    runs = [
        run
        for run in QUESTIONS[question]
        if run.name.startswith(beginning) and bool(run.control) == by_angle
    ]
    return [r.name for r in runs], [r.angle if by_angle else r.lr for r in runs]
