"""Equations of Spherical Motion Dynamics (SMD).

Source: Wan, Zhu, Zhang and Sun, arXiv 2006.08419, "Spherical Motion Dynamics: Learning
Dynamics of Neural Network with Normalization, Weight Decay, and SGD", which appeared at
NeurIPS 2021 as "Spherical Motion Dynamics: Learning Dynamics of Normalized Neural
Network using SGD and Weight Decay"; AdamW and Lion from Kosson et al., "Rotational
Equilibrium" (arXiv 2305.17212). Nesterov momentum, NAdam, LAMB, Adam with L2 and the
effect of gradient clipping are derived in docs/theory.md, and tests hold each against
weights that really move.

Notation: learning rate η (``lr``), weight decay λ (``weight_decay``), momentum
α (``momentum``) of SGD as torch writes it,

    v ← α·v + g + λ·w,    w ← w − η·v,

and L, the mean squared unit gradient (``unit_grad_sq``): E‖g̃‖² with
g̃ = g·‖w‖ for plain SGD, E[h̃] with h̃ = (‖g‖² + 2α⟨v₋₁, g⟩)·‖w‖² with momentum.

Every function takes numbers or numpy arrays, which broadcast, and computes in
float64. The first four are the equations as they stand in the paper. They and the
methods of :class:`Theory` take whatever was measured, and give NaN or infinity where a
value has no meaning (a mean of h̃ below 0, a learning rate of 0). All others raise
``ValueError`` naming the argument that is out of range.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from smd_mmdet._arguments import finite, fraction, non_negative, positive

__all__ = [
    'THEORIES',
    'Theory',
    'adam_angular_update',
    'adam_equilibrium_norm',
    'adamw_angular_update',
    'adamw_equilibrium_norm',
    'angular_update',
    'angular_update_sq',
    'clipping_power',
    'drift_limit',
    'equilibrium_norm',
    'equilibrium_norm4',
    'iterations_to_equilibrium',
    'iterations_to_tolerance',
    'lion_angular_update',
    'lower_bound_share',
    'nadamw_angular_update',
    'nesterov_angular_update',
    'nesterov_angular_update_sq',
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


def rescale_factor(lr_drop: ArrayLike, norm_power: ArrayLike = 0.25) -> np.ndarray:
    """Factor that puts a weight at the equilibrium of a new learning rate at once.

    w* ∝ η^p, so when the rate is divided by k: c = k^(−p).

    Args:
        lr_drop: Old learning rate divided by the new one, k > 0.
        norm_power: The power p > 0: 1/4 under SGD, 1/2 under AdamW or where the
            gradient is clipped at every step, and 1/(4 − :func:`clipping_power`) under
            SGD in between.

    Returns:
        c, by which the weight is multiplied; the momentum buffer is divided by it.

    Raises:
        ValueError: If an argument is not positive and finite.

    Example:
        >>> float(rescale_factor(lr_drop=16))
        0.5
        >>> float(rescale_factor(lr_drop=16, norm_power=0.5))
        0.25
    """
    return positive(lr_drop, 'lr_drop') ** -positive(norm_power, 'norm_power')


def clipping_power(total_norm: ArrayLike, max_norm: ArrayLike) -> float:
    """How the applied gradient depends on the norms, where its total norm is clipped.

    A gradient that is clipped no longer grows as the weights shrink. With the drive
    L̂ = E[ĥ]·‖w‖² of the gradient that is applied, p = d ln L̂ / d ln‖w‖ when all
    scale-invariant norms change together. Each step adds its applied squared norm to
    L̂, so p = 2·E[n²; n clipped] / E[n²] with n = min(total norm, max_norm): 0 without
    clipping, 2 with clipping at every step, and twice the share of clipped steps, or
    more, between. Then w* ∝ η^(1/(4−p)).

    Args:
        total_norm: Total norm of the gradient before clipping, one per step.
        max_norm: Norm > 0 to which it is clipped.

    Returns:
        p; 0 if there are no steps, or none has a gradient.

    Raises:
        ValueError: If an argument is out of range or not finite.

    Example:
        >>> [clipping_power(norms, max_norm=1) for norms in ([0.5, 1], [2, 1], [2, 3])]
        [0.0, 1.0, 2.0]
    """
    total = non_negative(total_norm, 'total_norm')
    limit = positive(max_norm, 'max_norm')
    applied = np.minimum(total, limit) ** 2
    whole = applied.sum()
    return float(2 * applied[total > limit].sum() / whole) if whole > 0 else 0.0


def nesterov_angular_update(
    lr: ArrayLike, weight_decay: ArrayLike, momentum: ArrayLike
) -> np.ndarray:
    """Equilibrium angular update under SGD with Nesterov momentum, as torch has it.

    Δ*² = 2λη(1 + 2α − 2α³) / (1+α) where gradients of different steps are uncorrelated.
    For correlated ones see :func:`nesterov_angular_update_sq`.

    Args:
        lr: Learning rate η > 0.
        weight_decay: Weight decay λ ≥ 0.
        momentum: Momentum α in [0, 1).

    Returns:
        Δ* in radians per iteration.

    Raises:
        ValueError: If an argument is out of range or not finite.

    Example:
        >>> # √(2 · 0.01 · 0.03 · (1 + 1 − 0.25) / 1.5) = √7e-4
        >>> round(float(nesterov_angular_update(0.03, 0.01, momentum=0.5)) ** 2, 9)
        0.0007
    """
    return THEORIES['nesterov'].angular_update(lr, weight_decay, momentum)


def nesterov_angular_update_sq(
    lr: ArrayLike,
    weight_decay: ArrayLike,
    momentum: ArrayLike,
    unit_grad_sq: ArrayLike | None = None,
    drive: ArrayLike | None = None,
) -> np.ndarray:
    """Square of Nesterov's equilibrium angular update, without a check of arguments.

    With G = E‖g̃‖², Q = E⟨v₋₁, g⟩‖w‖² and H = G + 2αQ it is

        Δ*² = 2λη · [(1+2α−2α³)H/(1−α²) − 2α(1+α)Q] / [H/(1−α) − 2αQ],

    and for uncorrelated gradients, where Q = 0, 2λη(1+2α−2α³)/(1+α). Q is read off the
    measured drive L_N = G + 2α²Q.

    Args:
        lr: Learning rate η.
        weight_decay: Weight decay λ.
        momentum: Momentum α.
        unit_grad_sq: G; None takes gradients as uncorrelated.
        drive: L_N.

    Returns:
        Δ*², in radians². Where G and L_N leave no positive value, the one for
        uncorrelated gradients.

    Example:
        >>> float(nesterov_angular_update_sq(0.03, 0.01, 0.5))
        0.0007
        >>> # Gradients that point the same way turn the weight less.
        >>> settings = dict(unit_grad_sq=1.0, drive=2.0)
        >>> round(float(nesterov_angular_update_sq(0.03, 0.01, 0.5, **settings)), 6)
        0.0006
    """
    lr, weight_decay, momentum = _arrays(lr, weight_decay, momentum)
    white = 1 + 2 * momentum - 2 * momentum**3
    turn = white / (1 + momentum)
    if unit_grad_sq is not None and drive is not None:
        grad, driven = _arrays(unit_grad_sq, drive)
        with np.errstate(divide='ignore', invalid='ignore'):
            along = np.where(momentum > 0, (driven - grad) / (2 * momentum**2), 0.0)
            both = grad + 2 * momentum * along
            above = white * both / (1 - momentum**2)
            above = above - 2 * momentum * (1 + momentum) * along
            below = both / (1 - momentum) - 2 * momentum * along
            correlated = above / below
        turn = np.where((above > 0) & (below > 0), correlated, turn)
    return 2 * weight_decay * lr * turn


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
    beta1 = fraction(beta1, 'beta1')
    return THEORIES['adamw'].angular_update(lr, weight_decay, beta1)


def adamw_equilibrium_norm(
    lr: ArrayLike, weight_decay: ArrayLike, beta1: ArrayLike, update_sq: ArrayLike
) -> np.ndarray:
    """Equilibrium weight norm under AdamW.

    w*² = ηU(1+β₁) / (2λ(1−β₁)), where U = E‖m̂/√v̂‖² is measured. For gradients
    without correlation in time U is C(1−β₁)/(1+β₁) in a weight of C numbers.

    Args:
        lr: Learning rate η > 0.
        weight_decay: Decoupled weight decay λ ≥ 0; with 0 the norm has no equilibrium,
            and infinity is returned.
        beta1: Decay β₁ in [0, 1) of the first moment.
        update_sq: U ≥ 0, the mean square of the update before the learning rate.

    Returns:
        w*, in the units of the weight norm.

    Raises:
        ValueError: If an argument is out of range or not finite.

    Example:
        >>> # 0.01 · 3 · 1.5 / (2 · 0.5 · 0.5) = 0.09, and √0.09 = 0.3
        >>> round(float(adamw_equilibrium_norm(0.01, 0.5, beta1=0.5, update_sq=3)), 9)
        0.3
    """
    lr = positive(lr, 'lr')
    weight_decay = non_negative(weight_decay, 'weight_decay')
    beta1 = fraction(beta1, 'beta1')
    update_sq = non_negative(update_sq, 'update_sq')
    norm_sq = THEORIES['adamw'].equilibrium_power(lr, weight_decay, update_sq, beta1)
    return np.sqrt(np.where(np.isnan(norm_sq), np.inf, norm_sq))


def nadamw_angular_update(
    lr: ArrayLike, weight_decay: ArrayLike, beta1: ArrayLike
) -> np.ndarray:
    """Equilibrium angular update under NAdam with decoupled decay and constant β₁.

    Δ*² = 2ηλ(1−β₁)²[(1+β₁)² + β₁⁴/(1−β₁²)]. Torch's NAdam begins with half of β₁ in one
    place; with its usual ``momentum_decay`` that takes some 20,000 iterations to pass.

    Args:
        lr: Learning rate η > 0.
        weight_decay: Decoupled weight decay λ ≥ 0.
        beta1: Decay β₁ in [0, 1) of the first moment.

    Returns:
        Δ* in radians per iteration.

    Raises:
        ValueError: If an argument is out of range or not finite.

    Example:
        >>> # 2 · 0.03 · 0.1 · 0.25 · (2.25 + 0.0625 / 0.75)
        >>> round(float(nadamw_angular_update(0.03, 0.1, beta1=0.5)) ** 2, 9)
        0.0035
    """
    beta1 = fraction(beta1, 'beta1')
    return THEORIES['nadamw'].angular_update(lr, weight_decay, beta1)


def lion_angular_update(
    lr: ArrayLike, weight_decay: ArrayLike, beta1: ArrayLike, beta2: ArrayLike
) -> np.ndarray:
    """Equilibrium angular update under Lion; indicative only.

    Kosson et al.: Δ*² = πηλB with B = (1−β₁)² + β₁²(1−β₂)/(1+β₂). It takes the norm of
    the gradient as constant; where that fluctuates, Δ is up to a fifth lower.

    Args:
        lr: Learning rate η > 0.
        weight_decay: Decoupled weight decay λ ≥ 0.
        beta1: Weight β₁ in [0, 1) of the moment in the update.
        beta2: Decay β₂ in [0, 1) of the moment.

    Returns:
        Δ* in radians per iteration.

    Raises:
        ValueError: If an argument is out of range or not finite.

    Example:
        >>> # π · 0.001 · 1 · (0.25 + 0.25 · 0.5 / 1.5)
        >>> round(float(lion_angular_update(1e-3, 1.0, 0.5, beta2=0.5)) ** 2, 7)
        0.0010472
    """
    lr = positive(lr, 'lr')
    weight_decay = non_negative(weight_decay, 'weight_decay')
    beta1, beta2 = fraction(beta1, 'beta1'), fraction(beta2, 'beta2')
    return np.sqrt(np.pi * lr * weight_decay * _lion_noise(beta1, beta2))


def _lion_noise(beta1: ArrayLike, beta2: ArrayLike) -> np.ndarray:
    """B: the variance of what Lion takes the sign of, as a share of the gradient's."""
    beta1, beta2 = _arrays(beta1, beta2)
    return (1 - beta1) ** 2 + beta1**2 * (1 - beta2) / (1 + beta2)


def adam_equilibrium_norm(
    lr: ArrayLike, weight_decay: ArrayLike, unit_grad_norm: ArrayLike, size: ArrayLike
) -> np.ndarray:
    """Equilibrium weight norm under Adam with L2 decay, layer by layer.

    w*³ = η√C·‖g̃‖ / (2λ) in a weight of C numbers: the decay λw is divided by √v̂ as the
    gradient is, so that a layer of small gradients decays more.

    Args:
        lr: Learning rate η > 0.
        weight_decay: L2 weight decay λ > 0, added to the gradient.
        unit_grad_norm: Norm ‖g̃‖ ≥ 0 of the layer's unit gradient.
        size: How many numbers C > 0 the weight has.

    Returns:
        w*, in the units of the weight norm.

    Raises:
        ValueError: If an argument is out of range or not finite.

    Example:
        >>> # 0.01 · √16 · 0.4 / (2 · 0.125) = 0.064, and 0.064^(1/3) = 0.4
        >>> round(float(adam_equilibrium_norm(0.01, 0.125, 0.4, size=16)), 9)
        0.4
    """
    lr = positive(lr, 'lr')
    weight_decay = positive(weight_decay, 'weight_decay')
    unit_grad_norm = non_negative(unit_grad_norm, 'unit_grad_norm')
    size = positive(size, 'size')
    return np.cbrt(lr * np.sqrt(size) * unit_grad_norm / (2 * weight_decay))


def adam_angular_update(
    lr: ArrayLike, beta1: ArrayLike, weight_norm: ArrayLike, size: ArrayLike
) -> np.ndarray:
    """Angular update under Adam, with L2 decay or without, at a norm.

    Δ² = η²C(1−β₁) / ((1+β₁)‖w‖²), whatever the gradient; the equilibrium value is that
    at :func:`adam_equilibrium_norm`, and differs from layer to layer.

    Args:
        lr: Learning rate η > 0.
        beta1: Decay β₁ in [0, 1) of the first moment.
        weight_norm: Norm ‖w‖ > 0.
        size: How many numbers C > 0 the weight has.

    Returns:
        Δ in radians per iteration.

    Raises:
        ValueError: If an argument is out of range or not finite.

    Example:
        >>> # √(0.01² · 12 · 0.5 / 1.5) / 2
        >>> round(float(adam_angular_update(0.01, 0.5, weight_norm=2, size=12)), 9)
        0.01
    """
    lr, size = positive(lr, 'lr'), positive(size, 'size')
    beta1 = fraction(beta1, 'beta1')
    norm = positive(weight_norm, 'weight_norm')
    return lr * np.sqrt(size * (1 - beta1) / (1 + beta1)) / norm


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


# From learning rate, weight decay and momentum (β₁ of Adam and its kin) to a value.
_Formula = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Theory:
    """What is known of scale-invariant weights under an optimizer.

    Where the law of the norm is known, the mean of ‖w‖^q obeys, with the decay λη_e per
    iteration and a measured drive D,

        d‖w‖^q/dt = −q·λη_e·‖w‖^q + growth·D,

    so that w*^q = growth·D / (q·λη_e), Δ = Δ*·(w*/‖w‖)^(q/2) at every moment, and the
    relative distance of ‖w‖ from w* decays at q·λη_e. SGD has q = 4 and D = L; adaptive
    optimizers have q = 2 and D = U, the mean square of their update. Under SGD clipping
    makes D grow as ‖w‖^p (see :func:`clipping_power`): then w* ∝ η^(1/(q−p)), and the
    distance decays at (q−p)·λη_e. That is the first order of λη_e. With momentum decay
    alone shrinks a weight by the larger root a < 1 of the optimizer's characteristic
    polynomial per iteration, faster than by λη_e: a tenth faster at λη_e = 0.01 and
    α = 0.9. Rates are those of a, so that they hold from far above w* as well.

    Args:
        title: Name of the optimizer, for messages.
        turn: Δ*² of a learning rate, a weight decay and a momentum; None where no
            value holds for all layers.
        exponent: The power q; 0 where no law of the norm is known.
        drive: The quantity in the records whose mean is D; '' where there is none.
        step: Effective learning rate η_e of learning rate and momentum.
        growth: The factor ``growth`` of learning rate, weight decay and momentum.
        middle: The b in ε² − bε + λη = 0, whose smaller root ε = 1 − a is what decay
            takes of a weight, of learning rate, weight decay and momentum; None where
            that is λη_e.
        clips: Whether clipping the gradient changes the law. It does not where the
            optimizer divides by the gradient's size.
        indicative: Whether the law is too rough for a verdict.
        correlated: Whether Δ*² depends on how far gradients of different steps are
            correlated: ``turn`` then takes E‖g̃‖² and D as well.

    Example:
        >>> sgd, adamw = THEORIES['sgd'], THEORIES['adamw']
        >>> sgd.drive, sgd.exponent, adamw.drive, adamw.exponent
        ('unit_h', 4, 'update_sq', 2)
        >>> # Under AdamW the norm has to be halved when the rate is divided by 4.
        >>> 4 ** -float(adamw.norm_power())
        0.5
        >>> # Under SGD that is so where every step is clipped; else 4 ** -0.25.
        >>> [float(4 ** -sgd.norm_power(p)) for p in (2, 0)]
        [0.5, 0.7071067811865476]
    """

    title: str
    turn: Callable[..., np.ndarray] | None
    exponent: int = 0
    drive: str = ''
    step: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    growth: _Formula | None = None
    middle: _Formula | None = None
    clips: bool = False
    indicative: bool = False
    correlated: bool = False

    @property
    def norm_law(self) -> bool:
        """Whether w* is known, and the law by which the norm comes to it."""
        return self.exponent > 0

    def angular_update(
        self, lr: ArrayLike, weight_decay: ArrayLike, momentum: ArrayLike = 0.0
    ) -> np.ndarray:
        """Δ* in radians per iteration; NaN where none holds for all layers.

        Args:
            lr: Learning rate η > 0.
            weight_decay: Weight decay λ ≥ 0.
            momentum: Momentum α, or β₁, in [0, 1).

        Raises:
            ValueError: If an argument is out of range or not finite.
        """
        lr = positive(lr, 'lr')
        weight_decay = non_negative(weight_decay, 'weight_decay')
        momentum = fraction(momentum, 'momentum')
        return np.sqrt(self.angular_update_sq(lr, weight_decay, momentum))

    def angular_update_sq(
        self,
        lr: ArrayLike,
        weight_decay: ArrayLike,
        momentum: ArrayLike = 0.0,
        unit_grad_sq: ArrayLike | None = None,
        drive: ArrayLike | None = None,
    ) -> np.ndarray:
        """Δ*², without a check of the arguments.

        Args:
            lr: Learning rate η.
            weight_decay: Weight decay λ.
            momentum: Momentum α, or β₁.
            unit_grad_sq: E‖g̃‖²; None where it was not measured.
            drive: D; None where it was not measured. With both the correlation of
                gradients is accounted for, where that matters.
        """
        lr, weight_decay, momentum = _arrays(lr, weight_decay, momentum)
        if self.turn is None:
            return np.full(np.broadcast(lr, weight_decay, momentum).shape, np.nan)
        if self.correlated:
            return self.turn(lr, weight_decay, momentum, unit_grad_sq, drive)
        return self.turn(lr, weight_decay, momentum)

    def weight_decay_for(
        self, angular_update: ArrayLike, lr: ArrayLike, momentum: ArrayLike = 0.0
    ) -> np.ndarray:
        """Weight decay that gives a wanted Δ*; NaN where none sets it.

        Args:
            angular_update: Wanted Δ* > 0, radians per iteration.
            lr: Learning rate η > 0.
            momentum: Momentum α, or β₁, in [0, 1).

        Raises:
            ValueError: If an argument is out of range or not finite.
        """
        angle = positive(angular_update, 'angular_update')
        lr, momentum = positive(lr, 'lr'), fraction(momentum, 'momentum')
        if not self.norm_law:
            return np.full(np.broadcast(angle, lr, momentum).shape, np.nan)
        return angle**2 / self.angular_update_sq(lr, 1.0, momentum)

    def decay(
        self, lr: ArrayLike, weight_decay: ArrayLike, momentum: ArrayLike = 0.0
    ) -> np.ndarray:
        """λη_e: the share of ‖w‖ that decay takes per iteration, to first order.

        Args:
            lr: Learning rate η.
            weight_decay: Weight decay λ.
            momentum: Momentum α, or β₁.

        Returns:
            The share; NaN where it is not known.
        """
        lr, weight_decay, momentum = _arrays(lr, weight_decay, momentum)
        if self.step is None:
            return np.full(np.broadcast(lr, weight_decay, momentum).shape, np.nan)
        return weight_decay * self.step(lr, momentum)

    def shrinkage(
        self, lr: ArrayLike, weight_decay: ArrayLike, momentum: ArrayLike = 0.0
    ) -> np.ndarray:
        """1 − a: the share of ‖w‖ that decay alone takes per iteration, exactly.

        Args:
            lr: Learning rate η.
            weight_decay: Weight decay λ.
            momentum: Momentum α, or β₁.

        Returns:
            The share; NaN where it is not known. Beyond the small-step limit, where a
            weight swings through 0, it is that of the amplitude at the limit.
        """
        if self.middle is None:
            return self.decay(lr, weight_decay, momentum)
        lr, weight_decay, momentum = _arrays(lr, weight_decay, momentum)
        middle, step = self.middle(lr, weight_decay, momentum), lr * weight_decay
        # The other way to write the smaller root loses no digits.
        return 2 * step / (middle + np.sqrt(np.maximum(middle**2 - 4 * step, 0)))

    def rate(
        self,
        lr: ArrayLike,
        weight_decay: ArrayLike,
        momentum: ArrayLike = 0.0,
        power: ArrayLike = 0.0,
    ) -> np.ndarray:
        """(q−p)·ln(1/a) ≈ (q−p)·λη_e, at which a distance of ‖w‖ from w* decays.

        Args:
            lr: Learning rate η.
            weight_decay: Weight decay λ.
            momentum: Momentum α, or β₁.
            power: The p of :func:`clipping_power`.
        """
        shrinkage = self.shrinkage(lr, weight_decay, momentum)
        with np.errstate(divide='ignore', invalid='ignore'):
            return -(self.exponent - np.asarray(power)) * np.log1p(-shrinkage)

    def norm_power(self, power: ArrayLike = 0.0) -> np.ndarray:
        """The power of the learning rate in w* ∝ η^…: 1/(q−p).

        Args:
            power: The p of :func:`clipping_power`.
        """
        return 1 / (self.exponent - np.asarray(power, dtype=np.float64))

    def equilibrium_power(
        self,
        lr: ArrayLike,
        weight_decay: ArrayLike,
        drive: ArrayLike,
        momentum: ArrayLike = 0.0,
    ) -> np.ndarray:
        """w*^q, without a check of the arguments; negative where the drive is.

        Args:
            lr: Learning rate η.
            weight_decay: Weight decay λ. With 0 the result is infinite, or NaN.
            drive: Mean of D at the present norm.
            momentum: Momentum α, or β₁.
        """
        lr, weight_decay, momentum = _arrays(lr, weight_decay, momentum)
        decay = self.exponent * self.decay(lr, weight_decay, momentum)
        if self.growth is None:
            return np.full(np.broadcast(decay, drive).shape, np.nan)
        growth = self.growth(lr, weight_decay, momentum)
        with np.errstate(divide='ignore', invalid='ignore'):
            return np.asarray(drive) * growth / decay

    def equilibrium_norm(
        self,
        lr: ArrayLike,
        weight_decay: ArrayLike,
        drive: ArrayLike,
        momentum: ArrayLike = 0.0,
    ) -> np.ndarray:
        """w*, without a check of the arguments; NaN where none exists.

        Args:
            lr: Learning rate η.
            weight_decay: Weight decay λ.
            drive: Mean of D at the present norm.
            momentum: Momentum α, or β₁.
        """
        power = self.equilibrium_power(lr, weight_decay, drive, momentum)
        with np.errstate(divide='ignore', invalid='ignore'):
            return np.where(power >= 0, power, np.nan) ** (
                1 / np.float64(self.exponent)
            )


def _heavy_ball_growth(
    lr: np.ndarray, weight_decay: np.ndarray, momentum: np.ndarray
) -> np.ndarray:
    """2η_e², up to the second order of λη in Theorem 2."""
    second = second_order(lr, weight_decay, momentum)
    return 4 * _with_momentum(lr, momentum) ** 2 / second


def _with_momentum(lr: np.ndarray, momentum: np.ndarray) -> np.ndarray:
    """η_e = η/(1−α)."""
    return lr / (1 - momentum)


def _as_it_is(lr: np.ndarray, momentum: np.ndarray) -> np.ndarray:
    """η_e = η, where the shares of a gradient in all steps add up to 1."""
    return lr + 0 * momentum


def _adaptive(
    title: str, noise: Callable[[np.ndarray], np.ndarray], **facts: Any
) -> Theory:
    """The law of an optimizer with decoupled decay whose update has a size of its own.

    Args:
        title: Name of the optimizer.
        noise: ΣA² of the momentum β₁, where A_j is the share of a gradient in the
            update j steps later and ΣA = 1.
        **facts: Other arguments of :class:`Theory`.
    """
    return Theory(
        title,
        lambda lr, decay, beta: 2 * lr * decay * noise(beta),
        exponent=2,
        drive='update_sq',
        step=_as_it_is,
        growth=lambda lr, decay, beta: lr**2 / noise(beta),
        **facts,
    )


def _adamw_noise(beta: np.ndarray) -> np.ndarray:
    return (1 - beta) / (1 + beta)


def _nadamw_noise(beta: np.ndarray) -> np.ndarray:
    return (1 - beta) ** 2 * ((1 + beta) ** 2 + beta**4 / (1 - beta**2))


def _usual_lion_noise(beta: np.ndarray) -> np.ndarray:
    """Lion's ΣA², with a β₂ of 0.99: the records keep β₁ alone."""
    return np.pi / 2 * _lion_noise(beta, 0.99)


# The keys are what a monitor's reader calls its theory and what the records keep. A
# run whose optimizer has no theory is recorded as 'none', which is no key.
THEORIES = {
    'sgd': Theory(
        'SGD',
        angular_update_sq,
        exponent=4,
        drive='unit_h',
        step=_with_momentum,
        growth=_heavy_ball_growth,
        middle=lambda lr, decay, momentum: 1 - momentum + lr * decay,
        clips=True,
    ),
    'nesterov': Theory(
        'SGD with Nesterov momentum',
        nesterov_angular_update_sq,
        exponent=4,
        drive='unit_h',
        step=_with_momentum,
        growth=lambda lr, decay, momentum: 2 * _with_momentum(lr, momentum) ** 2,
        middle=lambda lr, decay, momentum: 1 - momentum + lr * decay * (1 + momentum),
        clips=True,
        correlated=True,
    ),
    'adamw': _adaptive('AdamW', _adamw_noise),
    'nadamw': _adaptive('NAdam with decoupled decay', _nadamw_noise),
    'lion': _adaptive('Lion', _usual_lion_noise, indicative=True),
    # The step of LAMB is η‖w‖ long, so that it turns every weight by η.
    'lamb': Theory('LAMB', lambda lr, decay, beta: lr**2 + 0 * decay * beta),
    'adam': Theory('Adam with L2 decay', None),
}
