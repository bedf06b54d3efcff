"""Where each layer stands while training goes on, from the newest windows."""

from dataclasses import dataclass

import numpy as np

from smd_mmdet import theory

from .case import ANGLE_TOLERANCE
from .motion import COSINE_LEFT
from .verdicts import (
    FROM_ABOVE,
    FROM_BELOW,
    IN_EQUILIBRIUM,
    LEFT_REGIME,
    NO_GRADIENT,
    NO_THEORY,
    UNCLEAR,
    UNREACHABLE,
)

__all__ = ['STATES', 'Standing', 'standing']

STATES = np.array(
    [
        *(IN_EQUILIBRIUM, FROM_ABOVE, FROM_BELOW, UNREACHABLE),
        *(LEFT_REGIME, NO_GRADIENT, NO_THEORY, UNCLEAR),
    ],
    dtype=object,
)
_IN, _ABOVE, _BELOW, _UNREACHABLE = range(4)
_LEFT, _NO_GRADIENT, _NO_THEORY, _UNCLEAR = range(4, len(STATES))


@dataclass(frozen=True)
class Standing:
    """One entry per layer.

    Args:
        layer: Names.
        state: One of :data:`STATES`.
        angular_update_ratio: Δ_rms/Δ*.
        weight_norm_ratio: ‖w‖/w*; NaN where no w* exists.
        iterations: Expected until Δ is within 10 % of Δ* at the present rate: 0 in
            equilibrium, NaN where there is nothing to expect.
    """

    layer: np.ndarray
    state: np.ndarray
    angular_update_ratio: np.ndarray
    weight_norm_ratio: np.ndarray
    iterations: np.ndarray

    def counts(self) -> dict[str, int]:
        """How many layers are in each state, those that occur."""
        found, number = np.unique(self.state, return_counts=True)
        return dict(zip(found.tolist(), number.tolist(), strict=True))


def standing(
    columns: dict[str, np.ndarray],
    remaining: float | None = None,
    applicable: np.ndarray | None = None,
    accumulated: int = 1,
) -> Standing:
    """Judge the newest windows; meant for every window of a run, so no tests.

    Args:
        columns: One or more whole windows as :meth:`SphericalMotionMonitor.collect`
            hands them over; several average the noise of L.
        remaining: Iterations left in this stage, which tell what it cannot reach;
            None if not known.
        applicable: One bool per layer, False for those that are measured without
            being scale-invariant; None stands for all True.
        accumulated: Iterations to each step of the optimizer.

    Returns:
        The layers' standing, in the order of the columns.
    """
    layers = int(np.count_nonzero(columns['iter'] == columns['iter'][-1]))
    last = slice(-layers, None)
    lr, decay = columns['lr'][last], columns['weight_decay'][last]
    momentum = columns['momentum'][last]
    angle_eq = columns['angular_update_eq'][last]
    count = columns['count'].reshape(-1, layers)
    weight = count / np.maximum(count.sum(0), 1)
    with np.errstate(all='ignore'):
        # A window without gradient is NaN, and has no weight.
        h = np.where(count > 0, columns['unit_h_mean'].reshape(-1, layers), 0.0)
        h = (weight * h).sum(0)
        mean = columns['angular_update_mean'][last]
        ratio = np.sqrt(mean**2 + columns['angular_update_var'][last]) / angle_eq
        norm4_eq = theory.equilibrium_norm4(lr, decay, h, momentum)
        norm4 = columns['weight_norm_mean'][last] ** 4 / norm4_eq
        distance = np.abs(norm4 - 1)
        rate = theory.norm4_rate(lr, decay, momentum)
        folds = np.log(np.maximum(distance / (2 * ANGLE_TOLERANCE), 1.0))
        iterations = np.where(folds > 0, accumulated * folds / rate, 0.0)
        cosine_sq = columns['cosine_mean'][last] ** 2 + columns['cosine_var'][last]

    state = np.where(norm4 > 1, _ABOVE, _BELOW)
    state[iterations == 0] = _IN
    if remaining is not None:
        state[iterations > remaining] = _UNREACHABLE
    known = np.isfinite(norm4) & (norm4 > 0)
    # The mean of h̃ over few iterations may be negative.
    state[~known] = np.where(np.isfinite(angle_eq), _UNCLEAR, _NO_THEORY)[~known]
    # AdamW has a Δ* and no w*: the angle alone tells, and not for how long.
    by_angle = np.isnan(h) & np.isfinite(ratio)
    side = np.where(ratio < 1, _ABOVE, _BELOW)
    near = np.abs(ratio - 1) <= ANGLE_TOLERANCE
    state[by_angle] = np.where(near, _IN, side)[by_angle]
    state[(count[-1] == 0) | (columns['unit_grad_sq_max'][last] == 0)] = _NO_GRADIENT
    left = cosine_sq > COSINE_LEFT**2
    state[left] = _LEFT
    iterations[~known | left] = np.nan
    if applicable is not None:
        state[~applicable] = _NO_THEORY
        ratio, iterations, known = (
            np.where(applicable, ratio, np.nan),
            np.where(applicable, iterations, np.nan),
            known & applicable,
        )
    return Standing(
        layer=columns['layer'][last],
        state=STATES[state],
        angular_update_ratio=ratio,
        weight_norm_ratio=np.sqrt(np.sqrt(np.where(known, norm4, np.nan))),
        iterations=iterations,
    )
