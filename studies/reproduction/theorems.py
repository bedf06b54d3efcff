"""What the theorems say of random walks, beside what the walks do."""

from dataclasses import dataclass

import numpy as np

from smd_mmdet import theory

from .walks import Walks, relaxation_time

__all__ = [
    *('CASES', 'DROPS', 'MOMENTS', 'Drop', 'Equilibrium'),
    *('bound', 'drops', 'equilibria'),
]

# Times at which a walk is compared with its bound, in relaxation times of the mean of
# ‖w‖⁴, (1−α)/(4λη) iterations.
MOMENTS = (0, 0.5, 1, 2, 4, 8)
# Length of a walk to equilibrium, in the same unit.
FOLDS = 12
# A new equilibrium counts as reached where ‖w‖⁴ is within this share of w*⁴.
TOLERANCE = 0.1
# What the learning rate is divided by where it drops.
DROP = 10.0

# Settings of walks by the name of the case; λη/(1−α) is 1e-3 in all of them.
_SGD = dict(lr=0.5, weight_decay=2e-3)
_MOMENTUM = dict(lr=0.05, weight_decay=2e-3, momentum=0.9)
CASES = {
    'SGD, from 2 w*': _SGD | dict(start=16.0),
    'SGD, from w*/2': _SGD | dict(start=1 / 16),
    'SGD, little noise': _SGD | dict(start=16.0, spread=0.1),
    'momentum 0.9, from 2 w*': _MOMENTUM | dict(start=16.0),
    'momentum 0.9, from w*/2': _MOMENTUM | dict(start=1 / 16),
    'momentum 0.9, gradients correlated': _MOMENTUM | dict(start=16.0, correlation=0.1),
}
DROPS = {'SGD': _SGD, 'momentum 0.9': _MOMENTUM}


@dataclass
class Equilibrium:
    """A case at rest and on its way there (Theorems 1, 2, 3).

    Args:
        name: Name of the case.
        mean: L, the mean of h̃.
        noise: V/L², the variance of h̃ over the square of its mean.
        norm: ‖w‖/w* at the end, from the mean of ‖w‖⁴.
        angle: Δ_rms/Δ* at the end.
        rate: Rate at which the mean of ‖w‖⁴ nears w*⁴, over 4λη/(1−α).
        spread_rate: Rate at which E(‖w‖² − w*²)² shrinks on the way, over the
            2λη/(1−α) that the theorem guarantees.
        spread: E(‖w‖² − w*²)²/w*⁴ that remains at rest.
        constant: C(α) for which the bound at rest, C(α)·Vη²/l, is just what remains.
        exceeded: Iterations at which E(‖w‖² − w*²)² exceeds Theorem 1's bound; None
            with momentum, where Theorem 2 holds and its constant is not stated.
        closest: Largest share of Theorem 1's bound that E(‖w‖² − w*²)² came to, after
            one relaxation time; None with momentum.
        off: Share of iterations with |Δ/Δ* − 1| beyond Theorem 3's tolerance.
        allowed: (V/(Ll))^(1/3), which is both this tolerance and the bound on ``off``.
        usual: 99 % quantile of |Δ/Δ* − 1|.
        least: l/L, the lowest h̃ over its mean.
        least_allowed: What assumption 4 says l/L must exceed.
        course: For each of :data:`MOMENTS` the moment, E(‖w‖² − w*²)²/w*⁴ then, and the
            theorem's bound on it; with momentum the bound has the constant above.
    """

    name: str
    mean: float
    noise: float
    norm: float
    angle: float
    rate: float
    spread_rate: float
    spread: float
    constant: float
    exceeded: int | None
    closest: float | None
    off: float
    allowed: float
    usual: float
    least: float
    least_allowed: float
    course: list[tuple[float, float, float]]


@dataclass
class Drop:
    """A rate divided by :data:`DROP` at equilibrium (Corollary 3.1, rescaling).

    Args:
        name: Name of the case.
        rescaled: Whether the weights were rescaled at the drop.
        first: Δ_rms/Δ* of the new rate in the first iteration.
        after_fold: The same after one relaxation time of the new rate.
        needed: Iterations until ‖w‖⁴ stays within 10 % of its new equilibrium.
        corollary: The fewest iterations that Corollary 3.1 allows.
        decay_alone: Iterations that the same takes by decay alone, without gradients.
    """

    name: str
    rescaled: bool
    first: float
    after_fold: float
    needed: int
    corollary: int
    decay_alone: int


def equilibria(number: int = 400, folds: float = FOLDS) -> list[Equilibrium]:
    """What became of all cases of :data:`CASES`.

    Args:
        number: Walks in each case.
        folds: Length of a walk in relaxation times.
    """
    return [_equilibrium(n, s, number, folds) for n, s in CASES.items()]


def drops(number: int = 400, folds: float = 6.0) -> list[Drop]:
    """What became of each case of :data:`DROPS`, plain and rescaled.

    Args:
        number: Walks in each case.
        folds: Length of a walk after the drop, in relaxation times of the new rate.
    """
    return [
        _drop(name, settings, rescaled, number, folds)
        for name, settings in DROPS.items()
        for rescaled in (False, True)
    ]


def bound(walks: Walks, constant: float | None = None) -> np.ndarray:
    """The theorem's bound on E(‖w‖² − w*²)² at each iteration.

    Args:
        walks: Walks at one learning rate.
        constant: C(α) of Theorem 2; None for Theorem 1, which states its constant.
    """
    settings = walks.lr[0], walks.weight_decay
    rate = theory.relaxation_rate(*settings, walks.momentum)
    left = (1 - rate) ** np.arange(len(walks.lr)) * walks.distance_sq[0]
    if constant is not None:
        return left + constant * walks.variance * walks.lr[0] ** 2 / walks.least
    return left + theory.norm_spread_limit(*settings, walks.variance, walks.least)


def _equilibrium(name: str, settings: dict, number: int, folds: float) -> Equilibrium:
    walks = _walks(settings, number, folds)
    lr, decay, momentum = walks.lr[0], walks.weight_decay, walks.momentum
    guaranteed = float(theory.relaxation_rate(lr, decay, momentum))
    end = slice(-len(walks.lr) // 4, None)
    rest = float(walks.distance_sq[end].mean())
    constant = float(rest * walks.least / (walks.variance * lr**2))
    limit = bound(walks, constant if momentum else None)
    share = walks.distance_sq / limit
    deviation = np.abs(walks.angle[end] / walks.angle_eq[end, None] - 1)
    allowed = float((walks.variance / walks.mean / walks.least) ** (1 / 3))
    norm4_eq = float(walks.norm_sq_eq[-1]) ** 2
    moments = [m for m in MOMENTS if m * walks.fold < len(walks.lr)]
    return Equilibrium(
        name=name,
        mean=walks.mean,
        noise=walks.variance / walks.mean**2,
        norm=float(walks.norm4_ratio[end].mean() ** 0.25),
        angle=float(np.sqrt((walks.angle_ratio[end] ** 2).mean())),
        rate=_rate(np.abs(walks.norm4_ratio - 1), walks.fold) / (2 * guaranteed),
        spread_rate=_rate(walks.distance_sq - rest, walks.fold) / guaranteed,
        spread=rest / norm4_eq,
        constant=constant,
        exceeded=None if momentum else int((share > 1).sum()),
        closest=None if momentum else float(share[int(walks.fold) :].max()),
        off=float((deviation > allowed).mean()),
        allowed=allowed,
        usual=float(np.quantile(deviation, 0.99)),
        least=walks.least / walks.mean,
        least_allowed=float(theory.lower_bound_share(lr, decay, momentum)),
        course=[
            (
                float(moment),
                float(walks.distance_sq[int(moment * walks.fold)]) / norm4_eq,
                float(limit[int(moment * walks.fold)]) / norm4_eq,
            )
            for moment in moments
        ],
    )


def _rate(distance: np.ndarray, fold: float) -> float:
    """Rate of exponential decay, fitted from one relaxation time to the fourth."""
    part = np.arange(int(fold), int(4 * fold))
    return float(-np.polyfit(part, np.log(distance[part]), 1)[0])


def _drop(name: str, settings: dict, rescaled: bool, number: int, folds: float) -> Drop:
    before = int(_walks(settings, 1, 1).fold)  # enough for v to fill
    steps = int(folds * before * DROP)
    rates = np.repeat(settings['lr'] / np.array([1, DROP]), [before, steps])
    rest = {k: v for k, v in settings.items() if k != 'lr'}
    walks = Walks(rates, rescale=rescaled, number=number, seed=1, **rest)
    near = np.abs(walks.norm4_ratio[before:] - 1) < TOLERANCE
    away = np.flatnonzero(~near)
    after = walks.lr[-1], walks.weight_decay
    return Drop(
        name=name,
        rescaled=rescaled,
        first=float(walks.angle_ratio[before]),
        after_fold=float(walks.angle_ratio[before + int(walks.fold)]),
        needed=int(away[-1] + 1) if len(away) else 0,
        corollary=theory.iterations_to_equilibrium(*after, DROP, walks.momentum),
        # By decay alone ‖w‖⁴ shrinks by 1/e in one relaxation time.
        decay_alone=int(np.log(DROP / (1 + TOLERANCE)) * walks.fold),
    )


def _walks(settings: dict, number: int, folds: float) -> Walks:
    """Walks at one rate, so many relaxation times long."""
    lr, decay = settings['lr'], settings['weight_decay']
    steps = int(folds * relaxation_time(lr, decay, settings.get('momentum', 0.0)))
    rest = {k: v for k, v in settings.items() if k != 'lr'}
    return Walks(np.full(steps, lr), number=number, **rest)
