"""What the norms and angles of the steps to come will be.

With the power q of the optimizer and the p of clipping (:class:`.Theory`), the power
y = ‖w‖^(q−p) goes to its equilibrium at the rate r = (q−p)λη_e, and Δ² = Δ*² · y*/y at
every moment. So with e = Δ²y/η², which depends on the gradients alone,

    y ← (1 − r) y + r · e η²/Δ*²,        Δ² = e η²/y.

Both are linear in the y that a window begins with, and no weight has to be looked at to
tell the angles of the whole window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smd_mmdet.theory import Theory

__all__ = ['Course', 'course_of']

# λη at which the ratio of growth to Δ² is taken, which does not depend on it.
_SMALL = 1e-6
# Halvings of the distance to the multiplier that is sought, at worst.
_TIMES = 40


@dataclass(frozen=True)
class Course:
    """The steps to come, relative to the norm that they begin with.

    Args:
        lr: Learning rates η; shape (steps, layers).
        kept: What is left of y before each step if nothing is added; of that shape.
        added: What e = 1 has added to y before each step; of that shape.

    Example:
        Without decay and with steps so short that the norm stays what it is:

        >>> rates, ones = np.full((2, 1), 0.1), np.ones((2, 1))
        >>> course = Course(rates, ones, np.zeros((2, 1)))
        >>> course.angles_sq(np.array([4.0])).round(3).tolist()
        [[0.04], [0.04]]
        >>> course.multiplier(np.array([4.0]), np.array([0.01])).round(3).tolist()
        [0.25]
    """

    lr: np.ndarray
    kept: np.ndarray
    added: np.ndarray

    def angles_sq(
        self, drive: np.ndarray, multiplier: np.ndarray | float = 1.0
    ) -> np.ndarray:
        """Δ² of each step.

        Args:
            drive: Δ²/η² at the norm of now; shape (layers,).
            multiplier: What Δ² is multiplied by at the beginning, likewise.

        Returns:
            Shape (steps, layers).
        """
        norm = self.kept / multiplier + self.added * drive
        with np.errstate(divide='ignore', invalid='ignore'):
            return drive * self.lr**2 / norm

    def multiplier(self, drive: np.ndarray, wanted_sq: np.ndarray) -> np.ndarray:
        """What Δ² has to be multiplied by at the beginning.

        Args:
            drive: As :meth:`angles_sq` takes it.
            wanted_sq: Wanted mean square of Δ over all the steps; shape (layers,).

        Returns:
            Shape (layers,); NaN where nothing moves.
        """
        found = np.ones_like(drive)
        for _ in range(_TIMES):
            with np.errstate(divide='ignore', invalid='ignore'):
                found = found * wanted_sq / self.angles_sq(drive, found).mean(0)
            # Growth takes back a part of it at most, but of what no norm can give.
            found = np.clip(found, 1e-12, 1e12)
        return found


def course_of(settings: np.ndarray, law: Theory, power: np.ndarray) -> Course:
    """Foresee steps.

    Args:
        settings: Learning rate, weight decay and momentum of each layer in each step;
            shape (steps, layers, 3).
        law: What is known of the optimizer's equilibrium.
        power: The p of clipping of each layer; shape (layers,).

    Returns:
        The steps.

    Example:
        From its equilibrium a weight does not move away:

        >>> from smd_mmdet.theory import THEORIES
        >>> settings = np.tile([0.1, 1e-3, 0.9], (50, 1, 1))
        >>> course = course_of(settings, THEORIES['sgd'], np.zeros(1))
        >>> drive = THEORIES['sgd'].angular_update_sq(0.1, 1e-3, 0.9) / 0.1**2
        >>> angles = np.sqrt(course.angles_sq(np.array([drive])))
        >>> angles[[0, -1]].round(4).tolist()
        [[0.0103], [0.0103]]
    """
    lr, decay, momentum = np.moveaxis(settings, -1, 0)
    rate = -np.expm1(-np.nan_to_num(law.rate(lr, decay, momentum, power)))
    small = _SMALL / np.where(lr > 0, lr, 1.0)
    turn = law.angular_update_sq(lr, small, momentum)
    growth = (law.exponent - power) * law.decay(lr, small, momentum) * lr**2
    growth = np.divide(growth, turn, out=np.zeros_like(lr), where=lr > 0)
    kept, added = np.ones_like(lr), np.zeros_like(lr)
    for t in range(1, len(lr)):
        kept[t] = kept[t - 1] * (1 - rate[t - 1])
        added[t] = added[t - 1] * (1 - rate[t - 1]) + growth[t - 1]
    return Course(lr, kept, added)
