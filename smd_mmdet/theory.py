"""Equations of Spherical Motion Dynamics (SMD).

Source: Wan et al., "Spherical Motion Dynamics: Learning Dynamics of Neural
Network with Normalization, Weight Decay, and SGD", NeurIPS 2021
(arXiv 2006.08419); AdamW from Kosson et al., "Rotational Equilibrium"
(arXiv 2305.17212).

Notation: learning rate η (``lr``), weight decay λ (``weight_decay``), momentum
α (``momentum``) of SGD as torch writes it,

    v ← α·v + g + λ·w,    w ← w − η·v,

and L, the mean squared unit gradient (``unit_grad_sq``): E‖g̃‖² with
g̃ = g·‖w‖ for plain SGD, E[h̃] with h̃ = (‖g‖² + 2α⟨v₋₁, g⟩)·‖w‖² with momentum.

Every function takes numbers or numpy arrays, which broadcast, and computes in
float64. The first four are the equations as they stand in the paper. They take
whatever was measured, and give NaN or infinity where a value has no meaning (a mean
of h̃ below 0, a learning rate of 0). All others raise ``ValueError`` naming the
argument that is out of range.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from smd_mmdet._arguments import finite, fraction, non_negative, positive

__all__ = [
    'THEORIES',
    'Theory',
    'adamw_angular_update',
    'angular_update',
    'angular_update_sq',
    'drift_limit',
    'equilibrium_norm',
    'equilibrium_norm4',
    'iterations_to_equilibrium',
    'iterations_to_tolerance',
    'lower_bound_share',
    'norm4_rate',
    'norm_spread_limit',
    'relaxation_rate',
    'rescale_factor',
    'second_order',
    'small_step_limit',
    'weight_decay_for',
]


def angular_update_sq(
    lr: ArrayLike, weight_decay: ArrayLike, momentum: ArrayLike = 0.0
) -> np.ndarray:
    """Square of the equilibrium angular update, without a check of the arguments.

    Theorem 3: Δ*² = 2λη / (1+α).

    Args:
        lr: Learning rate η.
        weight_decay: Weight decay λ.
        momentum: Momentum α.

    Returns:
        Δ*², the mean square of the angle per iteration, in radians².

    Example:
        >>> float(angular_update_sq(lr=0.5, weight_decay=0.01))
        0.01
    """
    lr, weight_decay, momentum = _arrays(lr, weight_decay, momentum)
    return 2 * weight_decay * lr / (1 + momentum)


def second_order(
    lr: ArrayLike, weight_decay: ArrayLike, momentum: ArrayLike = 0.0
) -> np.ndarray:
    """The second-order factor of w*⁴, without a check of the arguments.

    Theorem 2 (momentum): 2 − λη/(1+α). Theorem 1 (plain SGD): 2.

    Args:
        lr: Learning rate η.
        weight_decay: Weight decay λ.
        momentum: Momentum α; 0 is plain SGD.

    Returns:
        The factor, which stands in the denominator of w*⁴.

    Example:
        >>> float(second_order(lr=0.19, weight_decay=1.0, momentum=0.9))
        1.9
        >>> float(second_order(lr=0.19, weight_decay=1.0))
        2.0
    """
    lr, weight_decay, momentum = _arrays(lr, weight_decay, momentum)
    return np.where(momentum > 0, 2 - weight_decay * lr / (1 + momentum), 2.0)


def equilibrium_norm4(
    lr: ArrayLike,
    weight_decay: ArrayLike,
    unit_grad_sq: ArrayLike,
    momentum: ArrayLike = 0.0,
) -> np.ndarray:
    """Fourth power of the equilibrium weight norm, without a check of the arguments.

    Theorem 1 (plain SGD): w*⁴ = Lη / (2λ).
    Theorem 2 (momentum): w*⁴ = Lη / (λ(1−α)(2 − λη/(1+α))).

    Args:
        lr: Learning rate η.
        weight_decay: Weight decay λ. Where it is 0 there is no equilibrium, and the
            result is infinite, or NaN where η or L is 0 as well.
        unit_grad_sq: Mean L of ‖g̃‖², or of h̃ with momentum. The mean of h̃ over
            few iterations may be negative; then so is the result.
        momentum: Momentum α; 0 is plain SGD.

    Returns:
        w*⁴, in units of ‖w‖⁴.

    Example:
        >>> float(equilibrium_norm4(lr=0.5, weight_decay=0.25, unit_grad_sq=16.0))
        16.0
    """
    lr, weight_decay, momentum = _arrays(lr, weight_decay, momentum)
    second = second_order(lr, weight_decay, momentum)
    with np.errstate(divide='ignore', invalid='ignore'):
        return np.asarray(unit_grad_sq) * lr / (weight_decay * (1 - momentum) * second)


def norm4_rate(
    lr: ArrayLike, weight_decay: ArrayLike, momentum: ArrayLike = 0.0
) -> np.ndarray:
    """Rate at which the mean of ‖w‖⁴ relaxes, without a check of the arguments.

    d‖w‖⁴/dt = −ρ(‖w‖⁴ − w*⁴) with ρ = 4λη / (1−α), to first order in λη. The
    effective learning rate η/(1−α) may be given as ``lr``, without a momentum.

    Args:
        lr: Learning rate η.
        weight_decay: Weight decay λ.
        momentum: Momentum α.

    Returns:
        ρ, the fraction of the distance to w*⁴ that is lost per iteration.

    Example:
        >>> float(norm4_rate(lr=0.25, weight_decay=0.01, momentum=0.5))
        0.02
    """
    lr, weight_decay, momentum = _arrays(lr, weight_decay, momentum)
    with np.errstate(divide='ignore', invalid='ignore'):
        return 4 * weight_decay * lr / (1 - momentum)


def _arrays(*values: ArrayLike) -> list[np.ndarray]:
    return [np.asarray(value, dtype=np.float64) for value in values]


def angular_update(
    lr: ArrayLike, weight_decay: ArrayLike, momentum: ArrayLike = 0.0
) -> np.ndarray:
    """Equilibrium angular update, the angle a weight turns through per iteration.

    Theorem 3: Δ* = √(2λη / (1+α)). For scale-invariant weights it depends on
    nothing but the three hyperparameters, and the root mean square of the measured
    angle converges to it.

    Args:
        lr: Learning rate η > 0.
        weight_decay: Weight decay λ ≥ 0.
        momentum: Momentum α in [0, 1).

    Returns:
        Δ* in radians per iteration.

    Raises:
        ValueError: If an argument is out of range or not finite.

    Example:
        >>> # √(2 · 0.01 · 0.5) = √0.01
        >>> float(angular_update(lr=0.5, weight_decay=0.01))
        0.1
        >>> # COCO's usual schedule: √(2 · 1e-4 · 0.02 / 1.9)
        >>> f'{angular_update(lr=0.02, weight_decay=1e-4, momentum=0.9):.3e}'
        '1.451e-03'
    """
    lr = positive(lr, 'lr')
    weight_decay = non_negative(weight_decay, 'weight_decay')
    momentum = fraction(momentum, 'momentum')
    return np.sqrt(angular_update_sq(lr, weight_decay, momentum))


def weight_decay_for(
    angular_update: ArrayLike, lr: ArrayLike, momentum: ArrayLike = 0.0
) -> np.ndarray:
    """Weight decay that gives a wanted equilibrium angular update.

    Inverse of :func:`angular_update`: λ = Δ*²(1+α) / (2η).

    Args:
        angular_update: Wanted Δ* > 0, radians per iteration.
        lr: Learning rate η > 0.
        momentum: Momentum α in [0, 1).

    Returns:
        The weight decay λ.

    Raises:
        ValueError: If an argument is out of range or not finite.

    Example:
        >>> # 0.1² / (2 · 0.5)
        >>> round(float(weight_decay_for(angular_update=0.1, lr=0.5)), 9)
        0.01
    """
    angle = positive(angular_update, 'angular_update')
    lr = positive(lr, 'lr')
    momentum = fraction(momentum, 'momentum')
    return angle**2 * (1 + momentum) / (2 * lr)


def equilibrium_norm(
    lr: ArrayLike,
    weight_decay: ArrayLike,
    unit_grad_sq: ArrayLike,
    momentum: ArrayLike = 0.0,
) -> np.ndarray:
    """Weight norm w* at which growth by gradients balances decay.

    Theorem 1 (SGD): w*⁴ = Lη / (2λ).
    Theorem 2 (momentum): w*⁴ = Lη / (λ(1−α)(2 − λη/(1+α))).

    Args:
        lr: Learning rate η > 0.
        weight_decay: Weight decay λ ≥ 0. With 0 nothing balances the growth
            and the norm has no equilibrium: infinity is returned.
        unit_grad_sq: Mean L ≥ 0 of ‖g̃‖², or of h̃ with momentum.
        momentum: Momentum α in [0, 1).

    Returns:
        w*, in the units of the weight norm.

    Raises:
        ValueError: If an argument is out of range or not finite, or if
            λη ≥ 2(1+α), where decay alone makes SGD diverge.

    Example:
        >>> # 16 · 0.5 / (2 · 0.25) = 16, and 16^(1/4) = 2
        >>> float(equilibrium_norm(lr=0.5, weight_decay=0.25, unit_grad_sq=16.0))
        2.0
        >>> # 1 · 0.02 / (1e-4 · 0.1 · 2) = 1000, and 1000^(1/4) = 5.62
        >>> round(float(equilibrium_norm(0.02, 1e-4, 1.0, momentum=0.9)), 2)
        5.62
    """
    lr = positive(lr, 'lr')
    weight_decay = non_negative(weight_decay, 'weight_decay')
    unit_grad_sq = non_negative(unit_grad_sq, 'unit_grad_sq')
    momentum = fraction(momentum, 'momentum')
    if (weight_decay * lr >= 2 * (1 + momentum)).any():
        raise ValueError(
            'weight_decay * lr must be < 2 * (1 + momentum): beyond '
            'it weight decay alone makes the weights diverge'
        )
    norm4 = equilibrium_norm4(lr, weight_decay, unit_grad_sq, momentum)
    # 0/0: without decay there is no equilibrium, even if nothing makes the norm grow.
    return np.where(np.isnan(norm4), np.inf, norm4) ** 0.25


def relaxation_rate(
    lr: ArrayLike, weight_decay: ArrayLike, momentum: ArrayLike = 0.0
) -> np.ndarray:
    """Rate of the linear convergence to equilibrium that the theorems guarantee.

    Theorems 1 and 2: E(‖w_t‖² − w*²)² shrinks at least like (1 − r)^t with
    r = 2λη / (1−α). This is a bound; the mean of ‖w‖⁴ itself relaxes at 2r, which
    is :func:`norm4_rate`.

    Args:
        lr: Learning rate η > 0.
        weight_decay: Weight decay λ ≥ 0.
        momentum: Momentum α in [0, 1).

    Returns:
        r, the fraction of E(‖w‖² − w*²)² that is lost per iteration.

    Raises:
        ValueError: If an argument is out of range or not finite.

    Example:
        >>> # 2 · 1e-4 · 0.02 / 0.1
        >>> f'{relaxation_rate(lr=0.02, weight_decay=1e-4, momentum=0.9):.1e}'
        '4.0e-05'
    """
    lr = positive(lr, 'lr')
    weight_decay = non_negative(weight_decay, 'weight_decay')
    momentum = fraction(momentum, 'momentum')
    return norm4_rate(lr, weight_decay, momentum) / 2


def iterations_to_equilibrium(
    lr: ArrayLike,
    weight_decay: ArrayLike,
    lr_drop: ArrayLike,
    momentum: ArrayLike = 0.0,
) -> int | np.ndarray:
    """Iterations a plain run needs to the new equilibrium after an LR drop.

    Corollary 3.1: at least ⌈ln k · (1−α) / (2λη)⌉ with the new learning rate η.

    Args:
        lr: Learning rate η > 0 *after* the drop.
        weight_decay: Weight decay λ > 0.
        lr_drop: Old learning rate divided by the new one, k ≥ 1.
        momentum: Momentum α in [0, 1).

    Returns:
        The number of iterations: an int, or an int64 array where an argument is an
        array.

    Raises:
        ValueError: If an argument is out of range or not finite; also for
            ``weight_decay=0``, which never reaches an equilibrium.

    Example:
        >>> # The rate falls from 0.02 to 0.002: 2.302585 · 0.1 / (2 · 1e-4 · 0.002)
        >>> iterations_to_equilibrium(0.002, 1e-4, lr_drop=10, momentum=0.9)
        575647
    """
    positive(weight_decay, 'weight_decay')
    lr_drop = finite(lr_drop, 'lr_drop')
    if (lr_drop < 1).any():
        raise ValueError(f'lr_drop must be >= 1 (old rate / new rate), got {lr_drop!r}')
    with np.errstate(divide='ignore', over='ignore'):
        count = np.log(lr_drop) / relaxation_rate(lr, weight_decay, momentum)
    count = np.ceil(count)
    if (count >= 2**63).any():
        raise ValueError('weight_decay * lr is so small that no number holds the count')
    return int(count) if count.ndim == 0 else count.astype(np.int64)


def rescale_factor(lr_drop: ArrayLike) -> np.ndarray:
    """Factor that puts a weight at the equilibrium of a new learning rate at once.

    w* ∝ η^(1/4) under SGD, so when the rate is divided by k: c = k^(−1/4).

    Args:
        lr_drop: Old learning rate divided by the new one, k > 0.

    Returns:
        c, by which the weight is multiplied; the momentum buffer is divided by it.

    Raises:
        ValueError: If ``lr_drop`` is not positive and finite.

    Example:
        >>> float(rescale_factor(lr_drop=16))
        0.5
    """
    return positive(lr_drop, 'lr_drop') ** -0.25


def adamw_angular_update(
    lr: ArrayLike, weight_decay: ArrayLike, beta1: ArrayLike
) -> np.ndarray:
    """Equilibrium angular update under AdamW (decoupled weight decay).

    Kosson et al.: Δ* = √(2ηλ(1−β₁) / (1+β₁)), the root mean square of the angle per
    iteration.

    Args:
        lr: Learning rate η > 0.
        weight_decay: Decoupled weight decay λ ≥ 0.
        beta1: Decay β₁ in [0, 1) of the first moment.

    Returns:
        Δ* in radians per iteration.

    Raises:
        ValueError: If an argument is out of range or not finite.

    Example:
        >>> # √(2 · 0.01 · 0.015 · 0.5 / 1.5) = √1e-4
        >>> round(float(adamw_angular_update(0.01, 0.015, beta1=0.5)), 9)
        0.01
    """
    lr = positive(lr, 'lr')
    weight_decay = non_negative(weight_decay, 'weight_decay')
    beta1 = fraction(beta1, 'beta1')
    return np.sqrt(2 * lr * weight_decay * (1 - beta1) / (1 + beta1))


def small_step_limit(momentum: ArrayLike = 0.0) -> np.ndarray:
    """Limit on λη under assumption 1.

    (1−√α)² with momentum; without momentum 1, and λη must be far below it.

    Args:
        momentum: Momentum α in [0, 1).

    Returns:
        The limit.

    Raises:
        ValueError: If ``momentum`` is out of range or not finite.

    Example:
        >>> # (1 − √0.81)² = 0.1²
        >>> round(float(small_step_limit(momentum=0.81)), 9)
        0.01
    """
    return (1 - np.sqrt(fraction(momentum, 'momentum'))) ** 2


def drift_limit(
    lr: ArrayLike, weight_decay: ArrayLike, variance: ArrayLike
) -> np.ndarray:
    """Limit on the drift of L, |L_{t+1} − L_t|, under assumption 3.

    4√V (λη)^{3/2}.

    Args:
        lr: Learning rate η > 0.
        weight_decay: Weight decay λ ≥ 0.
        variance: Variance V ≥ 0 of ‖g̃‖², or of h̃ with momentum.

    Returns:
        The limit, in units of L per iteration.

    Raises:
        ValueError: If an argument is out of range or not finite.

    Example:
        >>> # 4 · √0.25 · 0.01^(3/2)
        >>> round(float(drift_limit(lr=0.1, weight_decay=0.1, variance=0.25)), 9)
        0.002
    """
    lr = positive(lr, 'lr')
    weight_decay = non_negative(weight_decay, 'weight_decay')
    return 4 * np.sqrt(non_negative(variance, 'variance')) * (lr * weight_decay) ** 1.5


def lower_bound_share(
    lr: ArrayLike, weight_decay: ArrayLike, momentum: ArrayLike = 0.0
) -> np.ndarray:
    """What ‖g̃‖² (h̃ with momentum) must exceed under assumption 4, as a share of L.

    Plain SGD: 2[2λη/(1−2λη)]². Momentum: 2[6λη/((1−α)³(1+α) − 8λη(1−α))]².

    Args:
        lr: Learning rate η > 0.
        weight_decay: Weight decay λ ≥ 0.
        momentum: Momentum α in [0, 1).

    Returns:
        The share. It is infinite where the denominator is not positive: there the
        assumption cannot hold.

    Raises:
        ValueError: If an argument is out of range or not finite.

    Example:
        >>> # 2 · (0.2 / 0.8)²
        >>> round(float(lower_bound_share(lr=1.0, weight_decay=0.1)), 9)
        0.125
    """
    step = positive(lr, 'lr') * non_negative(weight_decay, 'weight_decay')
    momentum = fraction(momentum, 'momentum')
    heavy = (1 - momentum) ** 3 * (1 + momentum) - 8 * step * (1 - momentum)
    above = np.where(momentum > 0, 6 * step, 2 * step)
    below = np.where(momentum > 0, heavy, 1 - 2 * step)
    share = 2 * (above / np.where(below > 0, below, 1.0)) ** 2
    return np.where(below > 0, share, np.inf)


def norm_spread_limit(
    lr: ArrayLike,
    weight_decay: ArrayLike,
    variance: ArrayLike,
    lower_bound: ArrayLike,
) -> np.ndarray:
    """Bound on the spread E(‖w‖² − w*²)² that remains at equilibrium.

    Theorem 1 (plain SGD): 2Vη² / (l(1−2λη)).

    Args:
        lr: Learning rate η > 0.
        weight_decay: Weight decay λ ≥ 0, with 2λη < 1.
        variance: Variance V ≥ 0 of ‖g̃‖².
        lower_bound: Lower bound l > 0, which ‖g̃‖² always exceeds.

    Returns:
        The bound, in units of ‖w‖⁴.

    Raises:
        ValueError: If an argument is out of range or not finite.

    Example:
        >>> # 2 · 0.4 · 0.1² / (0.1 · (1 − 0.2))
        >>> limit = norm_spread_limit(0.1, 1.0, variance=0.4, lower_bound=0.1)
        >>> round(float(limit), 9)
        0.1
    """
    lr = positive(lr, 'lr')
    step = lr * non_negative(weight_decay, 'weight_decay')
    if (2 * step >= 1).any():
        raise ValueError('weight_decay * lr must be < 1/2')
    variance = non_negative(variance, 'variance')
    lower_bound = positive(lower_bound, 'lower_bound')
    return 2 * variance * lr**2 / (lower_bound * (1 - 2 * step))


def iterations_to_tolerance(
    distance: ArrayLike,
    lr: ArrayLike,
    weight_decay: ArrayLike,
    momentum: ArrayLike = 0.0,
    tolerance: ArrayLike = 0.2,
) -> np.ndarray:
    """Iterations until ‖w‖⁴ is within a tolerance of w*⁴ at a constant learning rate.

    The mean of ‖w‖⁴ relaxes at 4λη/(1−α), so the distance shrinks to the tolerance in
    ln(distance/tolerance)·(1−α)/(4λη) iterations.

    Args:
        distance: Distance |‖w‖⁴/w*⁴ − 1| ≥ 0 now.
        lr: Learning rate η > 0.
        weight_decay: Weight decay λ ≥ 0; with 0 the answer is infinite.
        momentum: Momentum α in [0, 1).
        tolerance: Distance > 0 that is near enough; 0.2 of ‖w‖⁴ is 0.1 of Δ and 0.05
            of ‖w‖.

    Returns:
        The number of iterations, 0 where the distance is within the tolerance already.

    Raises:
        ValueError: If an argument is out of range or not finite.

    Example:
        >>> # ‖w‖ = 2w*, so ‖w‖⁴ is 15 w*⁴ away: ln(15 / 0.2) / (4 · 0.01 · 0.25)
        >>> round(float(iterations_to_tolerance(15, lr=0.25, weight_decay=0.01)), 1)
        431.7
    """
    distance = non_negative(distance, 'distance')
    rate = 2 * relaxation_rate(lr, weight_decay, momentum)
    folds = np.log(np.maximum(distance / positive(tolerance, 'tolerance'), 1.0))
    with np.errstate(divide='ignore', invalid='ignore'):
        return np.where(folds > 0, folds / rate, 0.0)


@dataclass(frozen=True)
class Theory:
    """What is known of the equilibrium under an optimizer.

    Args:
        title: Name of the optimizer, for messages.
        angular_update: Function that gives Δ* of learning rate, weight decay and
            momentum (β₁ under AdamW).
        norm_power: The power p in w* ∝ η^p.
        norm_law: Whether w* itself is known, and the law by which the norm comes to
            it. Only then can the paper's assumptions and theorems be checked.

    Example:
        >>> THEORIES['adamw'].norm_law
        False
        >>> # Under AdamW the norm has to be halved when the rate is divided by 4.
        >>> 4 ** -THEORIES['adamw'].norm_power
        0.5
    """

    title: str
    angular_update: Callable[..., np.ndarray]
    norm_power: float
    norm_law: bool = False


# The keys are what a monitor's reader calls its theory and what the records keep. A
# run whose optimizer has no theory is recorded as 'none', which is no key.
THEORIES = {
    'sgd': Theory('SGD', angular_update, norm_power=0.25, norm_law=True),
    'adamw': Theory('AdamW', adamw_angular_update, norm_power=0.5),
}
