"""Where each layer stands while training goes on, from the newest windows."""

import math
from dataclasses import dataclass

import numpy as np

from smd_mmdet.theory import THEORIES, Theory

from .case import ANGLE_TOLERANCE, COSINE_STEADY_ROUNDING
from .motion import COSINE_LEFT
from .verdicts import (
    CONTROLLED,
    FROM_ABOVE,
    FROM_BELOW,
    IN_EQUILIBRIUM,
    LEFT_REGIME,
    NO_GRADIENT,
    NO_THEORY,
    OFF,
    UNCLEAR,
    UNREACHABLE,
)

__all__ = ['STATES', 'Standing', 'standing']

# The states that the newest windows can show.
STATES = (
    *(IN_EQUILIBRIUM, FROM_ABOVE, FROM_BELOW, UNREACHABLE),
    *(LEFT_REGIME, OFF, NO_GRADIENT, NO_THEORY, UNCLEAR, CONTROLLED),
)
# A layer becomes unreachable, or no longer, only beyond so many standard errors of L.
_SURE = 2.0


@dataclass(frozen=True)
class Standing:
    """Where layers stand; each array has one entry per layer.

    Args:
        layer: Names of the layers.
        state: State of each layer, one of :data:`STATES`.
        angular_update_ratio: Δ_rms/Δ* of each layer.
        weight_norm_ratio: ‖w‖/w* of each layer; NaN where no w* exists.
        iterations: How many iterations are expected until Δ is within 10 % of Δ* at
            the present learning rate: 0 in equilibrium, NaN where nothing is expected.
        clipped_share: Share of the steps whose gradients were clipped; NaN where that
            is not known.
        wanted_ratio: Δ_rms over the wanted one of each layer that a controller sets;
            NaN of others. None where no layer has a controller.

    Example:
        >>> found = Standing(
        ...     layer=np.array(['conv1', 'conv2']),
        ...     state=np.array(['in equilibrium', 'no gradient']),
        ...     angular_update_ratio=np.array([1.02, np.nan]),
        ...     weight_norm_ratio=np.array([0.99, np.nan]),
        ...     iterations=np.array([0.0, np.nan]),
        ... )
        >>> found.counts()
        {'in equilibrium': 1, 'no gradient': 1}
    """

    layer: np.ndarray
    state: np.ndarray
    angular_update_ratio: np.ndarray
    weight_norm_ratio: np.ndarray
    iterations: np.ndarray
    clipped_share: float = math.nan
    wanted_ratio: np.ndarray | None = None

    def counts(self) -> dict[str, int]:
        """How many layers are in each state, for the states that occur."""
        found, number = np.unique(self.state, return_counts=True)
        return dict(zip(found.tolist(), number.tolist(), strict=True))

    @property
    def near_wanted(self) -> int:
        """How many layers turn within 10 % of what a controller wants of them."""
        if self.wanted_ratio is None:
            return 0
        return int((np.abs(self.wanted_ratio - 1) <= ANGLE_TOLERANCE).sum())


@dataclass(frozen=True)
class _Newest:
    """What the newest windows tell of each layer, one entry per layer.

    Values that mean nothing are NaN or infinite: they are measured in the middle of a
    run, which has to go on.

    Args:
        drive: Mean over all windows of what drives the norm: h̃ under SGD, U under
            AdamW and its kin.
        distance: ‖w‖^q/w*^q in the last window, with the w* of that drive and the
            law's q, which is 4 under SGD.
        angle: Δ_rms/Δ* in the last window.
        cosine_sq: Mean square of cosine(w, g) in the last window.
        steady: How much a steady cosine(w, g) changes the decay of the norm, as a
            share of λ, as far as that is no noise.
        iterations: Iterations until the distance is within tolerance of 1.
        fewest: As few iterations as the noise of the drive lets that be.
        most: As many iterations as the noise of the drive lets that be.
    """

    drive: np.ndarray
    distance: np.ndarray
    angle: np.ndarray
    cosine_sq: np.ndarray
    steady: np.ndarray
    iterations: np.ndarray
    fewest: np.ndarray
    most: np.ndarray


def standing(
    columns: dict[str, np.ndarray],
    remaining: float | None = None,
    applicable: np.ndarray | None = None,
    accumulated: int = 1,
    before: Standing | None = None,
    law: str = 'sgd',
) -> Standing:
    """Judge the newest windows of a run that goes on.

    It is meant for every window of a run, so nothing is tested for significance.

    Args:
        columns: Columns by name of one or more whole windows, as
            :meth:`SphericalMotionMonitor.collect` hands them over. Several windows
            average the noise of L.
        remaining: Iterations left in this stage, which tell what it cannot reach;
            None if not known.
        applicable: One bool per layer, False for those that are measured without
            being scale-invariant; None stands for all True.
        accumulated: How many iterations make one step of the optimizer.
        before: The standing of the same layers one window earlier in the stage. What
            was unreachable then stays so until that is surely wrong, and the other way
            round, so that the noise of L does not turn a state to and fro.
        law: The optimizer's name in :data:`.THEORIES`, or 'none'.

    Returns:
        The layers' standing, in the order of the columns.

    Example:
        One layer at its equilibrium, Δ* = √(2·0.01·0.5) = 0.1 and
        w*⁴ = 1·0.5/(2·0.01) = 25, and one of a norm that is twice as large:

        >>> row = dict(iter=50, count=50, lr=0.5, weight_decay=0.01, momentum=0.0)
        >>> row |= dict(unit_h_mean=1.0, unit_grad_sq_max=1.0, angular_update_eq=0.1)
        >>> row |= dict(angular_update_var=0.0, cosine_mean=0.0, cosine_var=0.0)
        >>> columns = {name: np.full(2, value) for name, value in row.items()}
        >>> columns['layer'] = np.array(['conv1', 'conv2'])
        >>> columns['weight_norm_mean'] = np.array([1.0, 2.0]) * 25**0.25
        >>> columns['angular_update_mean'] = np.array([0.1, 0.025])
        >>> found = standing(columns)
        >>> found.state.tolist()
        ['in equilibrium', 'approaching from above']
        >>> found.angular_update_ratio.round(3), found.weight_norm_ratio.round(3)
        (array([1.  , 0.25]), array([1., 2.]))
        >>> # A step leaves (1 − 0.01 · 0.5)⁴ of ‖w‖⁴ − w*⁴, here from 15 to 0.2.
        >>> found.iterations.round()
        array([  0., 215.])
    """
    layers = int(np.count_nonzero(columns['iter'] == columns['iter'][-1]))
    last = {name: values[-layers:] for name, values in columns.items()}
    with np.errstate(all='ignore'):
        newest = _newest(columns, last, layers, accumulated, THEORIES.get(law))
    known = np.isfinite(newest.distance) & (newest.distance > 0)
    state = _states(newest, last, known, remaining, before)
    # A steady cosine moves the equilibrium itself: the norm does not come near it.
    off = known & (newest.steady > 2 * ANGLE_TOLERANCE)
    state[off] = OFF
    left = newest.cosine_sq > COSINE_LEFT**2
    state[left] = LEFT_REGIME
    ratio = newest.angle
    iterations = np.where(known & ~left & ~off, newest.iterations, np.nan)
    wanted = _wanted_ratio(last)
    if wanted is not None:
        # A controller holds these, and no equilibrium is waited for.
        held = np.isfinite(wanted) & ~left
        state[held] = CONTROLLED
        iterations[held] = np.nan
    if applicable is not None:
        state[~applicable] = NO_THEORY
        ratio = np.where(applicable, ratio, np.nan)
        iterations = np.where(applicable, iterations, np.nan)
        known = known & applicable
    return Standing(
        layer=last['layer'],
        state=state,
        angular_update_ratio=ratio,
        weight_norm_ratio=np.where(known, newest.distance, np.nan)
        ** (1 / _exponent(THEORIES.get(law))),
        iterations=iterations,
        clipped_share=_mean_known(last.get('clipped_share', np.empty(0))),
        wanted_ratio=wanted,
    )


def _wanted_ratio(last: dict[str, np.ndarray]) -> np.ndarray | None:
    """Δ_rms over the wanted one, of each layer; None where nothing is wanted."""
    wanted = last.get('angular_update_wanted')
    if wanted is None or not np.isfinite(wanted).any():
        return None
    with np.errstate(all='ignore'):
        mean, variance = last['angular_update_mean'], last['angular_update_var']
        return np.where(last['count'] > 0, np.sqrt(mean**2 + variance) / wanted, np.nan)


def _newest(
    columns: dict[str, np.ndarray],
    last: dict[str, np.ndarray],
    layers: int,
    accumulated: int,
    law: Theory | None,
) -> _Newest:
    """What all windows, and the last one, tell of each layer."""
    lr, decay, momentum = last['lr'], last['weight_decay'], last['momentum']
    count = columns['count'].reshape(-1, layers)
    weight = count / np.maximum(count.sum(0), 1)
    name = law.drive if law is not None else ''
    unknown = np.full(len(columns['count']), np.nan)
    # A window without gradient is NaN, and has no weight.
    drive, error = _mean_and_error(columns.get(f'{name}_mean', unknown), count, weight)
    if f'{name}_var' in columns:
        # Few windows may agree by chance.
        inside = _mean_and_error(columns[f'{name}_var'], count, weight)[0]
        error = np.maximum(error, np.sqrt(inside / np.maximum(count.sum(0), 1)))
    mean, variance = last['angular_update_mean'], last['angular_update_var']
    distance, rate = np.full(layers, np.nan), np.full(layers, np.nan)
    if law is not None and law.norm_law:
        at_rest = law.equilibrium_power(lr, decay, drive, momentum)
        distance = last['weight_norm_mean'] ** law.exponent / at_rest
        power = _clipping_power(columns, count, weight) if law.clips else 0.0
        rate = law.rate(lr, decay, momentum, power)
    wait = accumulated / rate
    iterations = _folds(distance) * wait
    # The distance lies between these, and the wait is least where it is nearest to 1.
    noise = np.minimum(_SURE * error / drive, 0.9)
    ends = distance / (1 + noise), distance / (1 - noise)
    return _Newest(
        drive=drive,
        distance=distance,
        angle=np.sqrt(mean**2 + variance) / last['angular_update_eq'],
        cosine_sq=last['cosine_mean'] ** 2 + last['cosine_var'],
        steady=_steady(columns, count, weight, last, law),
        iterations=iterations,
        fewest=_folds(np.clip(1.0, *ends)) * wait,
        most=np.maximum(_folds(ends[0]), _folds(ends[1])) * wait,
    )


def _exponent(law: Theory | None) -> int:
    """The power q of a law; 1 where there is no law, and nothing to take a root of."""
    return law.exponent if law is not None and law.norm_law else 1


def _clipping_power(
    columns: dict[str, np.ndarray], count: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """The p of the applied gradient of each layer; 0 where it is not known."""
    if 'clipping_power' not in columns:
        return np.zeros(count.shape[1])
    mean, _ = _mean_and_error(columns['clipping_power'], count, weight)
    return np.where(np.isfinite(mean), mean, 0.0)


def _mean_known(values: np.ndarray) -> float:
    """Mean of the values that are known; NaN if none is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def _folds(distance: np.ndarray) -> np.ndarray:
    """By how many factors of e the distance has to come nearer to 1.

    ‖w‖^q/w*^q with the w* of the present drive is ‖w‖^(q−p)/w*^(q−p) with the w* where
    the norm comes to rest, which relaxes at (q−p)λη_e; p is the power of clipping. Its
    inverse root is Δ/Δ*, so that 0.2 of it is 0.1 of Δ. The logarithm is that in
    :func:`smd_mmdet.theory.iterations_to_tolerance`.
    """
    return np.log(np.maximum(np.abs(distance - 1) / (2 * ANGLE_TOLERANCE), 1.0))


def _mean_and_error(
    values: np.ndarray, count: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean over windows and its standard error, by layer.

    Args:
        values: Means of the windows, in the order of the rows.
        count: Iterations of each window (rows) and layer (columns).
        weight: Share of each window in the iterations of its layer.
    """
    values = np.where(count > 0, values.reshape(count.shape), 0.0)
    mean = (weight * values).sum(0)
    number = (count > 0).sum(0)
    scatter = (weight * (values - mean) ** 2).sum(0)
    return mean, np.sqrt(scatter / np.maximum(number - 1, 1))


def _steady(
    columns: dict[str, np.ndarray],
    count: np.ndarray,
    weight: np.ndarray,
    last: dict[str, np.ndarray],
    law: Theory | None,
) -> np.ndarray:
    """By which share of λ a steady cosine(w, g) changes the decay, at the least.

    Under SGD a cosine c adds c·√(2/(λη_e)) of λ at equilibrium. Adaptive optimizers do
    not step along the gradient, and nothing is concluded from it.
    """
    if law is None or law.drive != 'unit_h':
        return np.zeros(count.shape[1])
    decay = law.decay(last['lr'], last['weight_decay'], last['momentum'])
    mean, _ = _mean_and_error(columns['cosine_mean'], count, weight)
    inside, _ = _mean_and_error(columns['cosine_var'], count, weight)
    error = np.sqrt(inside / np.maximum(count.sum(0), 1))
    surely = np.abs(mean) - 3 * error - COSINE_STEADY_ROUNDING
    return np.maximum(surely, 0) * np.sqrt(2 / decay)


def _states(
    newest: _Newest,
    last: dict[str, np.ndarray],
    known: np.ndarray,
    remaining: float | None,
    before: Standing | None,
) -> np.ndarray:
    """State of each layer, as if all were scale-invariant."""
    state = np.where(newest.distance > 1, FROM_ABOVE, FROM_BELOW).astype(object)
    if remaining is not None:
        was = np.zeros(len(state), bool)
        if before is not None and np.array_equal(before.layer, last['layer']):
            was = before.state == UNREACHABLE
        needed = np.where(was, newest.most, newest.fewest)
        # Past the end of the stage nothing is left.
        state[needed > max(remaining, 0)] = UNREACHABLE
    # Where a layer is there, nothing is out of its reach.
    state[newest.iterations == 0] = IN_EQUILIBRIUM
    # The mean of h̃ over few iterations may be negative, and then w* is not known.
    expected = np.isfinite(last['angular_update_eq'])
    state[~known] = np.where(expected, UNCLEAR, NO_THEORY)[~known]
    # Where there is a Δ* and no w*, or what drives the norm was not measured, the angle
    # alone tells where a layer stands, and nothing tells for how long.
    by_angle = np.isnan(newest.drive) & np.isfinite(newest.angle)
    side = np.where(newest.angle < 1, FROM_ABOVE, FROM_BELOW)
    near = np.abs(newest.angle - 1) <= ANGLE_TOLERANCE
    state[by_angle] = np.where(near, IN_EQUILIBRIUM, side)[by_angle]
    state[(last['count'] == 0) | (last['unit_grad_sq_max'] == 0)] = NO_GRADIENT
    return state
