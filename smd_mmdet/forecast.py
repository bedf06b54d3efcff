"""From a schedule to the norm and the angular update it will lead to.

In a run's first iterations the momentum buffer fills and the norm may change fast.
There the means of ‖w‖², ⟨w, v⟩ and ‖v‖² are followed step by step, under the step of
SGD itself. From then on, and under adaptive optimizers from the beginning, the mean of
a power of the norm obeys a linear recurrence (:class:`.theory.Theory`): under SGD ‖w‖⁴
relaxes to w*⁴ ∝ ηL by the factor a⁴ ≈ (1 − λη/(1−α))⁴ per iteration, and at fixed L the
angle is Δ = Δ*·(w*/‖w‖)². The power is 4 − p where the gradient is clipped, and 2 under
AdamW.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from smd_mmdet import theory
from smd_mmdet._arguments import (
    finite,
    fraction,
    non_negative,
    positive,
    real_number,
)

__all__ = ['Forecast', 'forecast']

# How many iterations are followed step by step, before the recurrence takes over.
_BEGINNING = 2000
# In one block of the scan ‖w‖^e decays by e^300 at most, so that neither the factor nor
# its inverse leaves the range of a float64 (about e^±700).
_BLOCK_DECAY = 300.0


@dataclass(frozen=True)
class Forecast:
    """Expected motion over a schedule, as :func:`forecast` works it out.

    The arrays have one entry per iteration. Where the layers were given as an array,
    its dimensions follow that of the iterations.

    Args:
        weight_norm: Norm ‖w‖ before the step of each iteration.
        angular_update: Root mean square of the angle Δ of that step, in radians.
        weight_norm_eq: Equilibrium norm w* of the iteration's settings.
        angular_update_eq: Equilibrium angular update Δ* of the iteration's settings,
            in radians. It is the same for all layers and has no dimension for them.

    Example:
        >>> ahead = forecast([0.5, 0.5], 0.25, norm=[2.0, 4.0], unit_grad_sq=16.0)
        >>> ahead.weight_norm.shape, ahead.angular_update_eq.shape
        ((2, 2), (2,))
        >>> ahead.weight_norm_eq[0].tolist()
        [2.0, 2.0]
    """

    weight_norm: np.ndarray
    angular_update: np.ndarray
    weight_norm_eq: np.ndarray
    angular_update_eq: np.ndarray


def forecast(
    lr: ArrayLike,
    weight_decay: ArrayLike,
    momentum: ArrayLike = 0.0,
    *,
    norm: ArrayLike,
    unit_grad_sq: ArrayLike,
    rescale: ArrayLike = False,
    at: ArrayLike | None = None,
    law: str = 'sgd',
    clipping_power: float = 0.0,
) -> Forecast:
    """Expected motion of scale-invariant weights over a schedule.

    Args:
        lr: Learning rate η ≥ 0, an array of one entry per iteration.
        weight_decay: Weight decay λ ≥ 0, a number or one entry per iteration.
        momentum: Momentum α, or β₁, in [0, 1), a number or one entry per iteration.
        norm: Norm ‖w‖ > 0 at the start, a number or an array over layers.
        unit_grad_sq: The drive D ≥ 0 of the optimizer's law, measured at this norm: the
            mean L of ‖g̃‖², or of h̃ with momentum; under AdamW and its kin the mean U
            of the squared update. It broadcasts against ``norm``, and is taken to stay
            as it is, or to follow the norm as clipping makes it.
        rescale: Whether the weights are divided by k^(1/4), or what the law has instead
            of it, whenever the learning rate falls by k. An array of one bool per
            iteration chooses the iterations at which they are, whether the rate falls
            or rises there.
        at: 0-based iterations to return, in rising order; None returns all. Many
            layers over many iterations would fill the memory.
        law: The optimizer, a key of :data:`.THEORIES` whose law of the norm is known.
        clipping_power: The power p, in [0, 2], with which the drive grows with the norm
            where the gradient is clipped; see :func:`.theory.clipping_power`. It is
            without effect under a law that clipping does not change.

    Returns:
        The forecast.

    Raises:
        ValueError: If an argument is out of range, not finite or of a wrong shape,
            or if weight_decay · lr / (1 − momentum) ≥ 1.

    Example:
        The learning rate is divided by 10 at equilibrium. The angle is then √10 times
        too small, unless the weights are rescaled with the rate.

        >>> lr = np.repeat([0.02, 0.002], [3000, 1])
        >>> norm = theory.equilibrium_norm(0.02, 1e-4, 0.05, 0.9)
        >>> settings = dict(norm=norm, unit_grad_sq=0.05)
        >>> for rescale in (False, True):
        ...     ahead = forecast(lr, 1e-4, 0.9, **settings, rescale=rescale)
        ...     ratio = ahead.angular_update / ahead.angular_update_eq
        ...     print(round(float(ratio[-1]), 3))
        0.316
        1.0
    """
    known = theory.THEORIES.get(law) if isinstance(law, str) else None
    if known is None or not known.norm_law:
        choices = [key for key, one in theory.THEORIES.items() if one.norm_law]
        raise ValueError(f'law must be one of {", ".join(choices)}, got {law!r}')
    lr = _schedule(lr)
    if (lr < 0).any():
        raise ValueError('lr must be >= 0')
    weight_decay = _per_iteration(
        non_negative(weight_decay, 'weight_decay'), 'weight_decay', lr
    )
    momentum = _per_iteration(fraction(momentum, 'momentum'), 'momentum', lr)
    norm = positive(norm, 'norm')
    unit_grad_sq = non_negative(unit_grad_sq, 'unit_grad_sq')
    try:
        norm, unit_grad_sq = np.broadcast_arrays(norm, unit_grad_sq)
    except ValueError:
        raise ValueError(
            f'unit_grad_sq of shape {unit_grad_sq.shape} does not fit norm of shape '
            f'{norm.shape}'
        ) from None
    power = real_number(clipping_power, 'clipping_power')
    if power > 2:
        raise ValueError(f'clipping_power must be in [0, 2], got {clipping_power!r}')
    power = power if known.clips else 0.0
    if (known.decay(lr, weight_decay, momentum) >= 1).any():
        raise ValueError('weight_decay * lr / (1 - momentum) must be < 1')

    jump = _jumps(lr, np.asarray(rescale))
    settings = lr, weight_decay, momentum
    at = np.arange(len(lr)) if at is None else _iterations(at, len(lr))
    motion = _Motion(known, power, unit_grad_sq / norm**power)
    begun = min(len(lr), _BEGINNING) if known.exponent == 4 else 0
    size, angle, size_now = _follow(
        motion, [values[:begun] for values in settings], jump, norm
    )
    size, angle = size[at[at < begun]], angle[at[at < begun]]
    if at[-1] >= begun:
        chosen = at[at >= begun] - begun
        rest = [values[begun:] for values in settings]
        later = _relax(motion, rest, jump[begun:], size_now, chosen)
        size = np.concatenate([size, later])
        unit = motion.unit_angle_sq(*(values[chosen] for values in rest))
        angle_sq = _per_layer(unit, norm) * motion.drive / later
        angle = np.concatenate([angle, np.sqrt(angle_sq)])
    lr, weight_decay, momentum = (values[at] for values in settings)
    return Forecast(
        weight_norm=size ** (1 / motion.exponent),
        angular_update=angle,
        weight_norm_eq=motion.norm_eq(lr, weight_decay, momentum),
        angular_update_eq=np.sqrt(known.angular_update_sq(lr, weight_decay, momentum)),
    )


@dataclass(frozen=True)
class _Motion:
    """The law of z = ‖w‖^e, with e = q − p: z ← keep·z + growth·drive.

    Args:
        law: The optimizer's law, with its power q.
        power: The power p with which the drive grows with the norm.
        drive: D/‖w‖^p, which does not depend on the norm, by layer.
    """

    law: theory.Theory
    power: float
    drive: np.ndarray

    @property
    def exponent(self) -> float:
        """The power e."""
        return self.law.exponent - self.power

    def keep(
        self, lr: np.ndarray, weight_decay: np.ndarray, momentum: np.ndarray
    ) -> np.ndarray:
        """The share of z that decay leaves."""
        return (1 - self.law.shrinkage(lr, weight_decay, momentum)) ** self.exponent

    def growth(
        self, lr: np.ndarray, weight_decay: np.ndarray, momentum: np.ndarray
    ) -> np.ndarray:
        """Growth of z per iteration and unit of drive, such that w* is its fixed point.

        It is w*^e/drive · (1 − a^e), where λ is cancelled so that it may be 0.
        """
        spread = self.exponent * self.law.decay(lr, weight_decay, momentum)
        shrinkage = self.law.shrinkage(lr, weight_decay, momentum)
        lost = -np.expm1(self.exponent * np.log1p(-shrinkage))
        share = np.divide(lost, spread, out=np.ones_like(spread), where=spread > 0)
        growth = _formula(self.law.growth)(lr, weight_decay, momentum)
        return growth * self.exponent / self.law.exponent * share

    def unit_angle_sq(
        self, lr: np.ndarray, weight_decay: np.ndarray, momentum: np.ndarray
    ) -> np.ndarray:
        """Δ²·z/drive = Δ*²·w*^e/drive, where λ is cancelled so that it may be 0."""
        turn = self.law.angular_update_sq(lr, 1.0, momentum)
        decay = self.law.decay(lr, 1.0, momentum)
        turn = np.divide(turn, decay, out=np.zeros_like(turn), where=decay > 0)
        growth = _formula(self.law.growth)(lr, weight_decay, momentum)
        return turn * growth / self.law.exponent

    def norm_eq(
        self, lr: np.ndarray, weight_decay: np.ndarray, momentum: np.ndarray
    ) -> np.ndarray:
        """w* by iteration and layer; infinite without decay, 0 at a rate of 0."""
        unit = self.law.equilibrium_power(lr, weight_decay, 1.0, momentum)
        unit[lr == 0] = 0.0
        # Without decay and without gradients it is ∞ · 0.
        with np.errstate(invalid='ignore'):
            size = _per_layer(unit, self.drive) * self.drive
        size = np.where(np.isnan(size), np.inf, size)
        return size ** (1 / self.exponent)


def _formula(formula: Callable[..., np.ndarray] | None) -> Callable[..., np.ndarray]:
    """A formula that a law of the norm always has."""
    assert formula is not None
    return formula


def _jumps(lr: np.ndarray, rescale: np.ndarray) -> np.ndarray:
    """By which factor ‖w‖^e is rescaled in front of every iteration; 1 is not at all.

    As w* ∝ η^(1/e), it is that of the rate under every law.
    """
    if rescale.shape not in ((), lr.shape) or rescale.dtype != bool:
        raise ValueError(
            'rescale must be True, False or one of them per iteration, got '
            f'{rescale.dtype} of shape {rescale.shape}'
        )
    before, now = lr[:-1], lr[1:]
    chosen = rescale[1:] if rescale.ndim else rescale & (now < before)
    chosen = chosen & (now > 0) & (before > 0)
    jump = np.ones_like(lr)
    jump[1:][chosen] = now[chosen] / before[chosen]
    return jump


def _iterations(at: ArrayLike, steps: int) -> np.ndarray:
    """Iterations to return, as an array of indices."""
    at = np.asarray(at)
    fits = at.ndim == 1 and len(at) and at.dtype.kind in 'iu'
    if not fits or at.min() < 0 or at.max() >= steps or (np.diff(at) < 0).any():
        raise ValueError(
            f'at must be iterations from 0 to {steps - 1} in rising order, got {at!r}'
        )
    return at


def _per_layer(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Values per iteration, with dimensions of length 1 for those of the layers."""
    return values[(slice(None), *[None] * like.ndim)]


def _follow(
    motion: _Motion,
    settings: Sequence[np.ndarray],
    jump: np.ndarray,
    norm: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means under v ← αv + g + λw, w ← w − ηv, from an empty momentum buffer.

    With Nesterov momentum it is w ← w − η(g + λw + αv). The gradient is orthogonal to
    w, and the mean of what drives the norm (‖g‖² + 2α⟨v, g⟩ without Nesterov) is
    drive·‖w‖^(p−2).

    Args:
        motion: The law.
        settings: Learning rate, weight decay and momentum, one entry per step each.
        jump: The factor that rescales z in front of each step.
        norm: Norm ‖w‖ at the start, by layer.

    Returns:
        z = ‖w‖^e before each step, the angle of each step, and z after the last.
    """
    lr = settings[0]
    shape = (len(lr), *norm.shape)
    size, angle = np.empty(shape), np.empty(shape)
    nesterov = motion.law is theory.THEORIES['nesterov']
    half = motion.exponent / 2
    ww = norm.astype(np.float64) ** 2
    wv, vv = np.zeros_like(ww), np.zeros_like(ww)
    for t, (eta, lam, alpha) in enumerate(zip(*settings, strict=True)):
        if jump[t] != 1:
            factor = jump[t] ** (1 / half)
            ww, vv = ww * factor, vv / factor
        size[t] = ww**half
        # The gradient with decay, g + λw: its square, and its product with v.
        pull = motion.drive * ww ** (motion.power / 2 - 1) + lam**2 * ww
        pull_v = pull + alpha * lam * wv
        vv = alpha**2 * vv + pull + 2 * alpha * lam * wv
        wv = alpha * wv + lam * ww
        ws, vs, ss = wv, vv, vv
        if nesterov:
            ws, vs = lam * ww + alpha * wv, pull_v + alpha * vv
            ss = pull + 2 * alpha * pull_v + alpha**2 * vv
        across = np.sqrt(np.maximum(ss * ww - ws * ws, 0.0))
        angle[t] = np.arctan2(eta * across, ww - eta * ws)
        ww, wv = ww - 2 * eta * ws + eta**2 * ss, wv - eta * vs
    return size, angle, ww**half


def _relax(
    motion: _Motion,
    settings: Sequence[np.ndarray],
    jump: np.ndarray,
    size: np.ndarray,
    chosen: np.ndarray,
) -> np.ndarray:
    """z before the chosen steps, by its linear recurrence from ``size``."""
    kept, gathered = _scan(motion.keep(*settings), motion.growth(*settings), jump)
    kept, gathered = (_per_layer(part[chosen], size) for part in (kept, gathered))
    return kept * size + gathered * motion.drive


def _schedule(lr: ArrayLike) -> np.ndarray:
    """Learning rates, one entry per iteration."""
    array = finite(lr, 'lr')
    if array.ndim != 1 or not len(array):
        raise ValueError(
            'lr must be a non-empty array with one entry per iteration, got shape '
            f'{array.shape}'
        )
    return array


def _per_iteration(values: np.ndarray, name: str, lr: np.ndarray) -> np.ndarray:
    """One value per iteration, of a number or of one entry per iteration."""
    if values.shape not in ((), lr.shape):
        raise ValueError(f'{name} must be a number or of the length of lr')
    return np.broadcast_to(values, lr.shape)


def _scan(
    keep: np.ndarray, drive: np.ndarray, jump: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Solve y ← jump·y, then y ← keep·y + drive, for y before each step.

    The solution is linear in y_0 and in the drive, so one solution serves all layers:
    y_t = kept_t·y_0 + gathered_t. With the product K_t of all factors before step t
    it is kept_t = K_t and gathered_t = K_t · Σ drive/K, a cumulative sum. A long run
    is solved in blocks, in which K stays within the range of a float64.
    """
    steps = len(keep)
    # In front of step t come its own jump and all of the steps before it.
    log_keep = np.log(jump)
    log_keep[1:] += np.log(keep[:-1])
    added = np.zeros(steps)
    added[1:] = drive[:-1] * jump[1:]
    depth = np.cumsum(log_keep)
    kept, gathered = np.empty(steps), np.empty(steps)
    start, level, carried = 0, 0.0, (1.0, 0.0)
    while start < steps:
        end = int(np.searchsorted(-depth, -level + _BLOCK_DECAY, side='right'))
        end = min(max(end, start + 1), steps)
        factor = np.exp(depth[start:end] - level)
        total = np.cumsum(added[start:end] / factor)
        kept[start:end] = carried[0] * factor
        gathered[start:end] = factor * (carried[1] + total)
        level, carried = depth[end - 1], (kept[end - 1], gathered[end - 1])
        start = end
    return kept, gathered
