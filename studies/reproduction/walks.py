"""The theorems against random walks of a scale-invariant weight.

The loss depends on the direction of w only, so its gradient g is tangential to the
sphere; its length is drawn from a law that is set, and its direction at random. Norms
and angles of such a walk depend on nothing but the inner products ⟨w, w⟩, ⟨w, v⟩ and
⟨v, v⟩ (v is the momentum buffer) and, in each step, on the cosine between g and the
tangential part of v. In d dimensions that cosine is the one of a random direction,
which can be drawn by itself. So three numbers in float64 stand for a walk in d
dimensions, without approximation.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from smd_mmdet import theory

__all__ = ['Walks', 'advance', 'relaxation_time']


@dataclass
class Walks:
    """Random walks under SGD, as torch writes it: v ← αv + g + λw, w ← w − ηv.

    Args:
        lr: Learning rate η, one per iteration.
        weight_decay: Weight decay λ.
        momentum: Momentum α.
        start: ‖w‖⁴ at the start, as a multiple of w*⁴ of the first rate.
        spread: Half the width of the law of ‖g̃‖², which is drawn evenly from
            1 ± spread; so E‖g̃‖² = 1.
        correlation: Cosine of the gradient and the tangential part of v, on average.
        rescale: Multiply weights by k^(−1/4), and v by its inverse, where the rate is
            divided by k.
        number: How many walks.
        size: Dimension d, the numbers in a weight.
        seed: Seed of the random numbers.
    """

    lr: np.ndarray
    weight_decay: float
    momentum: float = 0.0
    start: float = 1.0
    spread: float = 0.5
    correlation: float = 0.0
    rescale: bool = False
    number: int = 400
    size: int = 4096
    seed: int = 0
    norm_sq: np.ndarray = field(init=False)  # ‖w‖² before each step, step × walk
    angle: np.ndarray = field(init=False)  # Δ of each step
    unit_h: np.ndarray = field(init=False)  # h̃ of each step

    def __post_init__(self) -> None:
        self.lr = np.asarray(self.lr, float)
        shape = len(self.lr), self.number
        self.norm_sq, self.angle, self.unit_h = (np.empty(shape) for _ in range(3))
        rng = np.random.default_rng(self.seed)
        first = theory.equilibrium_norm(
            self.lr[0], self.weight_decay, 1.0, self.momentum
        )
        ww = np.full(self.number, np.sqrt(self.start) * first**2)
        state = ww, np.zeros(self.number), np.zeros(self.number)
        for step, lr in enumerate(self.lr):
            if self.rescale and step and lr != self.lr[step - 1]:
                factor = theory.rescale_factor(self.lr[step - 1] / lr)
                state = state[0] * factor**2, state[1], state[2] / factor**2
            unit = rng.uniform(1 - self.spread, 1 + self.spread, self.number)
            self.norm_sq[step] = state[0]
            state, self.angle[step], self.unit_h[step] = advance(
                state, unit, self._cosine(rng), lr, self.weight_decay, self.momentum
            )

    def _cosine(self, rng: np.random.Generator) -> np.ndarray:
        """Cosine of the gradient and the tangential part of v, drawn for each walk."""
        along = rng.standard_normal(self.number)
        across = rng.chisquare(self.size - 2, self.number)
        share = self.correlation
        return share + np.sqrt(1 - share**2) * along / np.sqrt(along**2 + across)

    @cached_property
    def mean(self) -> float:
        """L, the mean of h̃ (of ‖g̃‖² without momentum), once v has filled."""
        return float(self._settled.mean())

    @cached_property
    def variance(self) -> float:
        """V, the variance of h̃."""
        return float(self._settled.var())

    @cached_property
    def least(self) -> float:
        """l, the lowest h̃ that ever was."""
        return float(self._settled.min())

    @property
    def _settled(self) -> np.ndarray:
        """h̃ once v has filled, ten of its time constants after the start."""
        return self.unit_h[int(10 / (1 - self.momentum)) :]

    @cached_property
    def norm_sq_eq(self) -> np.ndarray:
        """w*² at each iteration, from L."""
        settings = self.lr, self.weight_decay, self.mean, self.momentum
        return theory.equilibrium_norm(*settings) ** 2

    @cached_property
    def angle_eq(self) -> np.ndarray:
        """Δ* at each iteration."""
        return theory.angular_update(self.lr, self.weight_decay, self.momentum)

    @cached_property
    def distance_sq(self) -> np.ndarray:
        """E(‖w‖² − w*²)² at each iteration, over the walks."""
        return ((self.norm_sq - self.norm_sq_eq[:, None]) ** 2).mean(1)

    @cached_property
    def norm4_ratio(self) -> np.ndarray:
        """E‖w‖⁴/w*⁴ at each iteration."""
        return (self.norm_sq**2).mean(1) / self.norm_sq_eq**2

    @cached_property
    def angle_ratio(self) -> np.ndarray:
        """Δ_rms/Δ* at each iteration."""
        return np.sqrt((self.angle**2).mean(1)) / self.angle_eq

    @property
    def fold(self) -> float:
        """The relaxation time of the last rate."""
        return relaxation_time(self.lr[-1], self.weight_decay, self.momentum)


def relaxation_time(lr: float, weight_decay: float, momentum: float = 0.0) -> float:
    """Iterations in which the mean of ‖w‖⁴ nears w*⁴ by a factor 1/e.

    That mean relaxes at 4λη/(1−α), twice the rate that the theorems guarantee for
    E(‖w‖² − w*²)².
    """
    return float(1 / (2 * theory.relaxation_rate(lr, weight_decay, momentum)))


def advance(
    state: tuple[np.ndarray, np.ndarray, np.ndarray],
    unit_grad_sq: np.ndarray,
    cosine: np.ndarray,
    lr: float,
    weight_decay: float,
    momentum: float,
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """One step of SGD in inner products.

    Args:
        state: ⟨w, w⟩, ⟨w, v⟩ and ⟨v, v⟩ before the step, one of each per walk.
        unit_grad_sq: ‖g̃‖² = ‖g‖²‖w‖² of the unit gradient.
        cosine: Cosine of g and the part of v that is tangential to w.
        lr: Learning rate η.
        weight_decay: Weight decay λ.
        momentum: Momentum α.

    Returns:
        The state after the step, the angular update Δ in radians, and
        h̃ = (‖g‖² + 2α⟨g, v⟩)‖w‖².
    """
    ww, wv, vv = state
    gg = unit_grad_sq / ww
    gv = cosine * np.sqrt(gg * np.maximum(vv - wv**2 / ww, 0.0))
    h = ww * (gg + 2 * momentum * gv)
    vv = momentum**2 * vv + gg + weight_decay**2 * ww
    vv = vv + 2 * momentum * (gv + weight_decay * wv)
    wv = momentum * wv + weight_decay * ww
    across = np.sqrt(np.maximum(ww * vv - wv**2, 0.0))
    angle = np.arctan2(lr * across, ww - lr * wv)
    after = ww - 2 * lr * wv + lr**2 * vv, wv - lr * vv, vv
    return after, angle, h
