"""The windows of one layer in one stage, and the quantities that checks read of them.

The sums and means here are weighted by the number of iterations in each window.
"""

from collections.abc import Callable
from functools import cached_property
from itertools import pairwise

import numpy as np

from smd_mmdet.theory import Theory

from .statistics import MIN_BATCHES, Estimate, ratio_of_sums

__all__ = ['COLUMNS', 'MAX_BATCHES', 'MIN_ITERATIONS', 'READ', 'Series', 'Windows']

# A verdict needs as many measured iterations: the paper takes its means over 200.
MIN_ITERATIONS = 200
# A standard error is that of so many batches at most.
MAX_BATCHES = 16
# |ln c| of what a controller multiplies a norm by, up to which that does not matter.
_STILL = 0.05

# The columns of the records without which nothing can be checked.
COLUMNS = (
    *('iter', 'count', 'layer', 'stage', 'lr', 'weight_decay', 'momentum'),
    *('weight_norm_mean', 'weight_norm_var', 'cosine_mean', 'cosine_var'),
    *('unit_grad_sq_mean', 'unit_grad_sq_max'),
    *('unit_h_mean', 'unit_h_var', 'unit_h_min'),
    *('angular_update_mean', 'angular_update_var', 'angular_update_eq'),
)
# All that the checks and the figures read, as far as records have it.
READ = (
    *COLUMNS,
    *('shape', 'angular_update_min', 'angular_update_max', 'weight_norm_eq'),
    *('grad_norm_mean', 'unit_h_max', 'update_cosine_mean'),
    *('update_sq_mean', 'update_sq_var', 'update_sq_min', 'update_sq_max'),
    *('clipped_share', 'clip_coefficient_mean', 'clipping_power'),
    *('angular_update_wanted', 'control_factor'),
)


class Windows:
    """The windows of a run; each has a row for every layer.

    Args:
        iterations: Last iteration of the window that a row belongs to, by row.
        counts: Number of steps in which the row's layer was measured, by row.

    Attributes:
        iterations_per_step: How many iterations make one step of the optimizer: more
            than 1 where gradients are accumulated.
        measured: How many iterations all windows cover.
    """

    def __init__(self, iterations: np.ndarray, counts: np.ndarray) -> None:
        self._ends, place = np.unique(iterations, return_inverse=True)
        steps = np.zeros(len(self._ends))
        np.maximum.at(steps, place, counts)
        spans, used = np.diff(self._ends, prepend=0), steps > 0
        ratios = spans[used] / steps[used]
        # Where the first window begins is not known, so its span may be too long.
        ratios = ratios[1:] if len(ratios) > 1 else ratios
        self.iterations_per_step = max(1, round(np.median(ratios))) if used.any() else 1
        covered = np.minimum(steps * self.iterations_per_step, spans)
        covered = np.where(used, covered, spans).astype(int)
        self.measured = int(covered.sum())
        # A window begins right after the one before it has ended. Iterations that were
        # lost between the two (a gap in the records) thus count to the later one. The
        # first window begins where its own steps do.
        self._begins = self._ends - spans + 1
        self._begins[:1] = (self._ends - covered + 1)[:1]

    def begin(self, end: int) -> int:
        """First iteration of the window that ends with this one."""
        return int(self._begins[np.searchsorted(self._ends, end)])


class Series:
    """The windows of one layer in one stage, in which it had gradients.

    Quantities that enter a balance are means of squares or of ‖w‖^q, the power that
    obeys the optimizer's law, so that the mean over several windows is that of all
    their iterations: ``angle_sq`` = E Δ², ``power`` = E‖w‖^q, ``drive`` = E D (which
    may be negative in a window), ``angle_sq_eq`` = Δ*² and ``power_eq`` = w*^q ∝
    ``drive``.

    Args:
        columns: Columns of the records by name, rows of this layer and stage only.
        windows: The windows of the run.
        known: What is known of the optimizer; None where nothing is.

    Attributes:
        standing_still: Whether the learning rate was 0 in all windows with gradients.
        diverged: Whether a value was NaN or infinite in a window that moved the layer.
        undriven: Whether the drive was measured in no window that moved the layer.
        law: Whether the law of the norm is known, and its drive was measured.
    """

    def __init__(
        self,
        columns: dict[str, np.ndarray],
        windows: Windows,
        known: Theory | None = None,
    ) -> None:
        self.windows, self._known = windows, known
        self.first = windows.begin(columns['iter'][0])
        self.last = int(columns['iter'][-1])
        self.number = int(columns['stage'][0])
        counted = columns['count'] > 0
        used = counted & (columns['lr'] > 0)
        self.standing_still = bool(counted.any() and not used.any())
        measured = [columns[name] for name in ('angular_update_mean', 'cosine_mean')]
        drive = known.drive if known else ''
        # Records of earlier versions lack the drive of adaptive optimizers.
        driven = columns.get(f'{drive}_mean', np.full(1, np.nan))
        known_drive = drive == 'unit_h' or bool(np.isfinite(driven).any())
        self.law = bool(known and known.norm_law and known_drive)
        finite = np.isfinite(measured).all(axis=0)
        if self.law:
            driven = np.array([columns[f'{drive}_mean'], columns[f'{drive}_var']])
            finite &= ~np.isinf(driven).any(axis=0)
        self.diverged = bool((used & ~finite).any())
        used &= finite
        moved = bool(used.any())
        if self.law:
            # It was not measured where another optimizer trained before.
            used &= np.isfinite(driven).all(axis=0)
        self.undriven = moved and not used.any()
        self.columns = {key: column[used] for key, column in columns.items()}
        get = self.columns.__getitem__
        self.count = get('count').astype(float)
        # A weight moves, and decays, only in the steps in which it had a gradient.
        self.end = np.cumsum(self.count)
        self.lr, self.decay = get('lr'), get('weight_decay')
        self.momentum = get('momentum')
        self.angle_sq = get('angular_update_mean') ** 2 + get('angular_update_var')
        self.cosine_sq = get('cosine_mean') ** 2 + get('cosine_var')
        norm, spread = get('weight_norm_mean'), get('weight_norm_var')
        self.norm_sq = norm**2 + spread
        self.unit_grad_sq = get('unit_grad_sq_mean')
        if self.law:
            self.power = self.norm_to(self.known.exponent)
            self.drive, self.drive_var, self.drive_min, self.drive_max = (
                get(f'{drive}_{statistic}')
                for statistic in ('mean', 'var', 'min', 'max')
            )

    def __len__(self) -> int:
        return len(self.count)

    @property
    def known(self) -> Theory:
        """What is known of the optimizer.

        Raises:
            ValueError: If that is nothing, so that there is nothing to check.
        """
        if self._known is None:
            raise ValueError('no theory is known for this optimizer')
        return self._known

    def take(self, index: np.ndarray) -> 'Series':
        """The series of some of its windows."""
        columns = {key: column[index] for key, column in self.columns.items()}
        kept = Series(columns, self.windows, self.known)
        kept.__dict__['whiteness'] = self.whiteness
        return kept

    def norm_to(self, exponent: float | np.ndarray) -> np.ndarray:
        """E‖w‖^e of each window, to the order of the variance of ‖w‖."""
        norm = self.columns['weight_norm_mean']
        spread = self.columns['weight_norm_var'] / norm**2
        return norm**exponent * (1 + exponent * (exponent - 1) / 2 * spread)

    @property
    def iterations(self) -> int:
        """How many steps moved the layer."""
        return int(self.count.sum())

    @cached_property
    def steady(self) -> bool:
        """Whether learning rate, weight decay and momentum hold still."""
        settings = self.lr, self.decay, self.momentum
        return self.number >= 0 and all(np.ptp(values) == 0 for values in settings)

    @cached_property
    def decaying(self) -> bool:
        """Whether 0 < λη < 2 at every step, so that there is an equilibrium."""
        step = self.lr * self.decay
        return bool(len(self) and (step > 0).all() and (step < 2).all())

    @cached_property
    def whiteness(self) -> float:
        """E[h̃]/E‖g̃‖² of the stage: 1 if gradients are uncorrelated in time."""
        below = self.mean(self.unit_grad_sq)
        with np.errstate(divide='ignore', invalid='ignore'):
            return float(self.mean(self.drive) / below) if self.law else np.nan

    @cached_property
    def angle_sq_eq(self) -> np.ndarray:
        """Δ*² of each window.

        Where it depends on the correlation of gradients, that of the whole stage
        counts: a window's own is noisy.
        """
        if not self.law:
            return self.columns['angular_update_eq'] ** 2
        settings = self.lr, self.decay, self.momentum
        return self.known.angular_update_sq(*settings, 1.0, self.whiteness)

    @cached_property
    def power_eq(self) -> np.ndarray:
        """w*^q of each window, with the window's own drive."""
        return self.known.equilibrium_power(
            self.lr, self.decay, self.drive, self.momentum
        )

    @cached_property
    def balance_rate(self) -> np.ndarray:
        """q·λη_e: rate at which ‖w‖^q relaxes to the w*^q of a given drive."""
        return self.known.rate(self.lr, self.decay, self.momentum)

    @cached_property
    def clipping_power(self) -> np.ndarray:
        """Power p with which the drive grows with the norm, of each window.

        It is that of :func:`.theory.clipping_power`, or where the records lack it twice
        the share of clipped steps; 0 where nothing is known of clipping.
        """
        if not self.known.clips:
            return np.zeros(len(self))
        unknown = np.full(len(self), np.nan)
        power = self.columns.get('clipping_power', unknown)
        share = self.columns.get('clipped_share', unknown)
        power = np.where(np.isnan(power), 2 * share, power)
        return np.clip(np.nan_to_num(power), 0.0, 2.0)

    @cached_property
    def left_exponent(self) -> float:
        """q − p: the power of ‖w‖/w* that is proportional to the rate η."""
        return self.known.exponent - self.mean(self.clipping_power)

    @cached_property
    def rate(self) -> np.ndarray:
        """(q−p)·λη_e: rate at which a distance of ‖w‖ from w* is lost, per iteration.

        It is that of ‖w‖^q, unless clipping makes the drive follow the norm.
        """
        settings = self.lr, self.decay, self.momentum
        return self.known.rate(*settings, self.clipping_power)

    @cached_property
    def weight_decay_rate(self) -> np.ndarray:
        """λη_e: share of ‖w‖ that decay takes per iteration."""
        return self.known.decay(self.lr, self.decay, self.momentum)

    @cached_property
    def memory(self) -> float:
        """How many iterations the momentum buffer remembers: 1/(1−α)."""
        return 1 / (1 - float(self.momentum.max(initial=0)))

    @cached_property
    def extra_decay(self) -> np.ndarray:
        """Weight decay that the optimizer's steps along w amount to, of each window.

        A gradient of which ⟨w, g⟩ is not 0 moves the norm as a weight decay of
        ⟨w, g⟩/‖w‖² would. Random rounding averages out in it, a steady cosine does not.
        The update u = m̂/√v̂ of an adaptive optimizer does the same by what ⟨w, u⟩
        exceeds its :attr:`expected_along`; NaN where that was not measured.
        """
        if self.known.drive == 'update_sq':
            along = self.update_along - self.expected_along
            return along / self.norm_sq
        gradient = self.columns.get('grad_norm_mean')
        if gradient is None:
            gradient = np.sqrt(self.unit_grad_sq / self.norm_sq)
        return self.columns['cosine_mean'] * gradient / np.sqrt(self.norm_sq)

    @cached_property
    def update_along(self) -> np.ndarray:
        """Mean of ⟨w, u⟩ with the update u of an adaptive optimizer."""
        cosine = self.columns.get('update_cosine_mean', np.full(len(self), np.nan))
        return cosine * np.sqrt(self.drive * self.norm_sq)

    @cached_property
    def expected_along(self) -> np.ndarray:
        """Mean of ⟨w, u⟩ that the law implies: −ηUβ₁/(1−β₁) under AdamW.

        In d‖w‖² = −2ηλ‖w‖² − 2η⟨w, u⟩ + η²U it makes the sum of the last two
        η²U/ΣA², the growth of the law.
        """
        # The decay λη_e = λη of these optimizers takes what their growth adds at w*.
        growth = 2 * self.weight_decay_rate * self.power_eq
        return (self.lr * self.drive - growth / self.lr) / 2

    @cached_property
    def step(self) -> np.ndarray:
        """Steps from the centre of a window to that of the next."""
        return np.diff(self.end - self.count / 2)

    @cached_property
    def quiet(self) -> np.ndarray:
        """Which windows can be held against a law of the moment.

        In them the learning rate barely moves, angles are small, and the momentum
        buffer has forgotten what was before the stage. If no window is late enough for
        that, early ones are taken as well. Where a controller has moved the norm within
        a window, its mean belongs to no moment.
        """
        change = np.abs(np.gradient(self.lr)) if len(self) > 1 else np.zeros(len(self))
        fresh = self.end - self.count < 3 * self.memory
        quiet = (change < 0.1 * self.lr) & (self.angle_sq < 0.1)
        factor = self.columns.get('control_factor', np.full(len(self), np.nan))
        with np.errstate(divide='ignore', invalid='ignore'):
            quiet &= ~(np.abs(np.log(factor)) > _STILL)
        return quiet & ~fresh if (quiet & ~fresh).any() else quiet

    @cached_property
    def lowest_cosine_sq(self) -> float:
        """Lowest mean of the squared cosine in a batch of 20 iterations or more.

        In a single iteration the cosine may be 0 by chance.
        """
        groups = self.groups(slice(None), 20)
        counts = self.totals(1.0, groups)
        return float((self.totals(self.cosine_sq, groups) / counts).min())

    @cached_property
    def mean_drive(self) -> float:
        """L under SGD, U under AdamW: the mean of the drive over the whole stage."""
        return self.mean(self.drive)

    @cached_property
    def variance(self) -> float:
        """V, the variance of the drive about its level of the moment.

        It is that inside the windows, and between each and the next, which share what L
        drifts: windows of one iteration have nothing inside.
        """
        inside, free = (self.drive_var * self.count).sum(), (self.count - 1).sum()
        apart = 1 / self.count[1:] + 1 / self.count[:-1]
        between = (np.diff(self.drive) ** 2 / apart).sum()
        return float((inside + between) / max(free + len(apart), 1.0))

    @cached_property
    def level(self) -> np.ndarray:
        """Mean of the drive about each window, over 50 iterations or more."""
        groups = self.groups(slice(None), 50, most=len(self))
        means = self.totals(self.drive, groups) / self.totals(1.0, groups)
        return np.repeat(means, [len(group) for group in groups])

    def mean(self, values: np.ndarray, part: slice = slice(None)) -> float:
        """Mean over the iterations of a part of the windows."""
        return float(np.average(values[part], weights=self.count[part]))

    def long_run_variance(self, part: slice) -> float:
        """Variance of a sum of the drive, per iteration, with its autocorrelation."""
        groups = self.groups(part, 2 * self.memory)
        if len(groups) < MIN_BATCHES:
            return self.variance
        sums, counts = self.totals(self.drive, groups), self.totals(1.0, groups)
        deviation = sums - sums.sum() / counts.sum() * counts
        # L may drift. Neighbouring batches share the drift, so their difference is
        # nearly free of it, and has twice the variance of one.
        return float(np.mean(np.diff(deviation) ** 2) / 2 / counts.mean())

    def tail(self) -> slice:
        """The end of the stage, on which the verdicts on equilibrium rest.

        It is the last third of the iterations. In a short stage it is longer, up to
        the last half, so as to have MIN_ITERATIONS.
        """
        spent = np.cumsum(self.count[::-1])
        wanted = max(spent[-1] / 3, min(MIN_ITERATIONS, spent[-1] / 2))
        windows = int(np.searchsorted(spent, wanted - 0.5) + 1)
        return slice(len(self) - min(windows, len(self)), len(self))

    def groups(
        self, part: slice, shortest: float, most: int = MAX_BATCHES
    ) -> list[np.ndarray]:
        """Windows of a part, gathered into batches.

        Args:
            part: The windows to use.
            shortest: How many iterations a batch should have at least.
            most: How many batches there may be.

        Returns:
            The indices of the windows of each batch; one batch, if there are too few
            iterations for two.
        """
        index = np.arange(len(self))[part]
        total = self.count[index].sum()
        number = int(min(most, len(index), total // max(shortest, 1)))
        return [g for g in _pieces(index, max(number, 1)) if len(g)]

    def totals(
        self, values: np.ndarray | float, groups: list[np.ndarray]
    ) -> np.ndarray:
        """Sum over the iterations of each batch.

        Args:
            values: Means by window; 1.0 counts the iterations.
            groups: Batches, as :meth:`groups` gathers them: each begins where the one
                before it ends.
        """
        if not groups:
            return np.zeros(0)
        starts, end = [group[0] for group in groups], groups[-1][-1] + 1
        weighted = np.broadcast_to(values, self.count.shape) * self.count
        return np.add.reduceat(weighted[:end], starts)

    def ratio(
        self, above: np.ndarray, below: np.ndarray, part: slice, slow: float = 0.0
    ) -> Estimate:
        """Ratio of the means of two series, with the error of its batches.

        Args:
            above: Numerator, one value per window.
            below: Denominator, one value per window.
            part: The windows to use.
            slow: Relative variance of the ratio that comes from motion slower than
                the part, which its batches cannot show. The larger error counts.
        """
        groups = self.groups(part, 2 * self.memory)
        top, bottom = self.totals(above, groups), self.totals(below, groups)
        if not len(groups) or not bottom.sum() > 0:
            return Estimate(np.nan, np.nan, 0, 0)
        found = ratio_of_sums(top, bottom)
        if slow * found.value**2 > found.error**2:
            found.error, found.freedom = float(np.sqrt(slow) * found.value), np.inf
        return found

    def ratios(
        self,
        above: np.ndarray,
        below: np.ndarray,
        part: slice,
        slow: Callable[[slice], float] | None,
    ) -> list[Estimate]:
        """The same ratio in up to four pieces of a part, with their common scatter.

        Args:
            above: Numerator, one value per window.
            below: Denominator, one value per window.
            part: The windows to cut into pieces.
            slow: Gives the relative variance of the ratio of a piece that comes from
                motion slower than it. The larger error counts.

        Returns:
            An estimate per piece; none if there are too few batches.
        """
        groups = self.groups(part, 2 * self.memory)
        number = min(4, len(groups) // 2)
        if len(groups) < MIN_BATCHES or number < 2:
            return []
        cuts = np.array_split(np.arange(len(groups)), number)
        tops, bottoms = self.totals(above, groups), self.totals(below, groups)
        pieces = [(tops[cut], bottoms[cut]) for cut in cuts]
        if not all(bottom.sum() > 0 for _, bottom in pieces):
            return []
        found = [ratio_of_sums(top, bottom) for top, bottom in pieces]
        free = len(groups) - number
        scatter = sum(
            ((top - piece.value * bottom) ** 2).sum()
            for piece, (top, bottom) in zip(found, pieces, strict=True)
        )
        for piece, cut, (_, bottom) in zip(found, cuts, pieces, strict=True):
            piece.error = float(np.sqrt(scatter / free * len(cut)) / bottom.sum())
            piece.freedom, piece.batches = free, len(groups)
            windows = slice(groups[cut[0]][0], groups[cut[-1]][-1] + 1)
            motion = slow(windows) * piece.value**2 if slow else 0.0
            if motion > piece.error**2:
                piece.error, piece.freedom = float(np.sqrt(motion)), np.inf
        return found

    def settled(self, part: slice) -> float:
        """w*^(q−p), to which the norm goes at a rate that holds still.

        The w* of the moment moves with the norm where gradients are clipped: then
        ‖w‖^q is to its own w*^q what ‖w‖^(q−p) is to this one.
        """
        left = self.mean(self.norm_to(self.left_exponent), part)
        return left * self.mean(self.power_eq, part) / self.mean(self.power, part)

    def wander(self, part: slice) -> float:
        """Relative variance of ‖w‖² about its equilibrium, from the noise of the drive.

        The recurrence of ‖w‖^(q−p), linearized about w* and driven by the noise of D,
        gives 2λη_e/(q−p) · V/E[D]²; under SGD λη/(1−α) · V/(2L²).
        """
        mean = self.mean(self.drive, part)
        if not mean > 0:
            return np.inf
        slow = 2 * float(self.weight_decay_rate[-1]) / self.left_exponent
        return slow * self.long_run_variance(part) / mean**2

    def slow_variance_of_angle(self, part: slice) -> float:
        """Relative variance of the mean of Δ² over a part, due to :meth:`wander`.

        ln‖w‖² grows by 2λη_e·Δ²/Δ*² per iteration and decays by 2λη_e. Over T
        iterations it changes by T times the mean of the difference. So the mean of Δ²
        differs from Δ*², relatively, by that change divided by 2λη_e·T. The change is
        bounded, so the mean of Δ² settles faster than other means.
        """
        length = self.count[part].sum()
        decay, rate = 2 * self.weight_decay_rate[-1], self.rate[-1]
        change = 2 * self.wander(part) * -np.expm1(-rate * length)
        return change / (decay * length) ** 2

    def slow_variance_of_power(self, part: slice) -> float:
        """Relative variance of the mean of ‖w‖^q/w*^q, due to :meth:`wander`.

        The wandering is forgotten at the rate ρ = (q−p)λη_e. The mean over T iterations
        of such a process has 2(u − 1 + e^−u)/u² of its variance, with u = ρT.
        """
        u = max(self.rate[-1] * self.count[part].sum(), 1e-12)
        variance = (self.left_exponent / 2) ** 2 * self.wander(part)
        return variance * 2 * (u + np.expm1(-u)) / u**2

    @cached_property
    def predicted_power(self) -> np.ndarray:
        """‖w‖^q of each window by the theory, from that of the first one.

        The mean obeys d‖w‖^q/dt = −ρ(‖w‖^q − w*^q), where w*^q follows from the
        measured drive. It is solved exactly for a w* that holds still between the
        centres of two windows. Where the weights were rescaled, it begins anew.
        """
        path = self.power.copy()
        keep, target = self._recurrence
        for i in range(1, len(path)):
            if not self.jumps[i - 1]:
                ahead = target[i - 1] + keep[i - 1] * (path[i - 1] - target[i - 1])
                # A few windows of negative h̃ must not take ‖w‖^q below 0.
                path[i] = max(ahead, 0.01 * path[i - 1])
        return path

    @cached_property
    def _recurrence(self) -> tuple[np.ndarray, np.ndarray]:
        """Share of ‖w‖^q − w*^q that is kept from window to window, and w*^q there."""
        rate = self.balance_rate
        keep = np.exp(-self.step * (rate[1:] + rate[:-1]) / 2)
        return keep, (self.power_eq[1:] + self.power_eq[:-1]) / 2

    @cached_property
    def jumps(self) -> np.ndarray:
        """Between which windows ‖w‖^q changed more than any dynamics can explain.

        There the weights were rescaled. The change of ‖w‖ must differ from the expected
        one by a factor of e^(1/16), and by ten times the usual surprise.
        """
        keep, target = self._recurrence
        expected = target + keep * (self.power[:-1] - target)
        with np.errstate(divide='ignore', invalid='ignore'):
            surprise = np.abs(np.log(self.power[1:] / expected))
        usual = np.nanmedian(surprise) if len(surprise) else 0.0
        return surprise > max(self.known.exponent / 16, 10 * usual)

    def balance(self, momentum: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What drives ‖w‖^q up, and what decays it, from each window to the next.

        Args:
            momentum: Momentum by window, the recorded one or another.
        """
        rate = self.known.rate(self.lr, self.decay, momentum)
        settings = self.lr, self.decay, self.drive, momentum
        growth = rate * self.known.equilibrium_power(*settings)
        fold = (rate[1:] + rate[:-1]) / 2 * self.step
        # The trapezoid rule gives too large an integral of an exponential. This factor
        # makes it exact.
        exact = np.tanh(fold / 2) / (fold / 2)
        drive = (growth[1:] + growth[:-1]) / 2 * self.step
        decay = (self.power[1:] + self.power[:-1]) / 2 * fold
        return drive * exact, decay * exact

    def turning(self, momentum: float) -> float:
        """Δ*²w*^q at the end, per unit of drive, under some momentum.

        By the transient law it is Δ²‖w‖^q at every moment, and it tells the momentum:
        under SGD it is η²/(1−α²), whatever λ.
        """
        last = np.array([self.lr[-1]]), np.array([self.decay[-1]])
        turn = self.known.angular_update_sq(*last, momentum, 1.0, self.whiteness)
        return float((turn * self.known.equilibrium_power(*last, 1.0, momentum))[0])


def _pieces(index: np.ndarray, number: int) -> list[np.ndarray]:
    """What ``np.array_split`` gives, which takes a third of a check's time for it."""
    length, longer = divmod(len(index), number)
    edges = [i * length + min(i, longer) for i in range(number + 1)]
    return [index[begin:end] for begin, end in pairwise(edges)]
