"""A layer's stage, with what several checks want to know of it."""

from functools import cached_property

import numpy as np

from .series import MIN_ITERATIONS, Series
from .statistics import MIN_BATCHES, Estimate
from .verdicts import LEVEL
from .wording import Words

__all__ = [
    'ANGLE_TOLERANCE',
    'COSINE_STEADY_ROUNDING',
    'NORM_TOLERANCE',
    'RATE_TOLERANCE',
    'Case',
    'decays',
    'transient',
]

# How far Δ/Δ* may be from 1, and the ratio of the transient law.
ANGLE_TOLERANCE = 0.10
# How far ‖w‖/w* may be from 1 under SGD. It is half of the above because Δ ∝ 1/‖w‖².
NORM_TOLERANCE = 0.05
# How far the rate of relaxation may be from that of the law, by a factor of 1 + this
# either way. It is less than 0.1, so that a setting that is 10 % off is told.
RATE_TOLERANCE = 0.07
# Float32 sums ⟨w, g⟩ of many numbers, so that a mean cosine of this may be its own.
COSINE_STEADY_ROUNDING = 1e-4


class Case:
    """A layer's stage, with the estimates that several checks share.

    Args:
        series: The windows of the layer in the stage.
        previous: The windows in the stage before, if there is one.
        facts: What the records' metadata tell of the layer.
        clipping: What they tell of gradient clipping; None where that is nothing.

    Attributes:
        part: The windows of the stage's end, on which verdicts on equilibrium rest.
        known: What is known of the optimizer.
        norm_tolerance: How far ‖w‖/w* may be from 1: as far as takes Δ, which goes with
            (w*/‖w‖)^(q/2), to its own tolerance.
    """

    def __init__(
        self,
        series: Series,
        previous: Series | None,
        facts: dict,
        clipping: dict | None = None,
    ) -> None:
        self.series, self.previous, self.facts = series, previous, facts
        self.clipping = clipping or {}
        self.part = series.tail()
        self.known = series.known
        exponent = self.known.exponent or 4
        self.norm_tolerance = ANGLE_TOLERANCE * 2 / exponent

    @cached_property
    def words(self) -> Words:
        """How the law reads in a reason."""
        return Words(self.known, float(self.series.momentum.max(initial=0)))

    @cached_property
    def unpredictable(self) -> str:
        """Why clipping lets nothing be predicted, or nothing.

        Clipping by value bends single numbers of the gradient, which is then neither
        tangential nor of a size that goes with that of the weight.
        """
        if self.clipping.get('type') != 'value':
            return ''
        return (
            'gradients are clipped by value, which bends single numbers of them: what '
            'follows for the norm is not derived'
        )

    @cached_property
    def clipping_unknown(self) -> bool:
        """Whether gradients are clipped in a way of which the records do not tell."""
        kind = self.clipping.get('type')
        if not self.known.clips or kind is None:
            return False
        share = self.series.columns.get('clipped_share', np.array([np.nan]))
        return bool(kind != 'norm' or np.isnan(share).any())

    @cached_property
    def angle(self) -> Estimate:
        """Δ_rms/Δ* at the end of the stage."""
        series, part = self.series, self.part
        slow = 0.0
        if series.law:
            slow = series.slow_variance_of_angle(part)
        return series.ratio(series.angle_sq, series.angle_sq_eq, part, slow).root()

    @cached_property
    def norm(self) -> Estimate:
        """‖w‖/w* at the end of the stage."""
        series, part = self.series, self.part
        slow = series.slow_variance_of_power(part)
        found = series.ratio(series.power, series.power_eq, part, slow)
        return found.root(1 / self.known.exponent)

    @cached_property
    def recorded_norm(self) -> float | None:
        """‖w‖/w* at the end of the stage with the w* of the records; None without."""
        target = self.series.columns.get('weight_norm_eq')
        if target is None or not np.isfinite(target[self.part]).all():
            return None
        norm = self.series.columns['weight_norm_mean']
        return self.series.mean(norm / target, self.part)

    @cached_property
    def law(self) -> Estimate:
        """Δ_rms/Δ*·(‖w‖/w*)^(q/2) at the end of the stage."""
        return transient(self.series, self.part)

    @cached_property
    def angle_course(self) -> list[Estimate]:
        """Δ_rms/Δ* in pieces of the stage's end, in their order."""
        series = self.series
        slow = series.slow_variance_of_angle if series.law else None
        pieces = series.ratios(series.angle_sq, series.angle_sq_eq, self.part, slow)
        return [piece.root() for piece in pieces]

    @cached_property
    def norm_course(self) -> list[Estimate]:
        """‖w‖/w* in pieces of the stage's end, in their order; none without w*."""
        series = self.series
        if not series.law:
            return []
        slow = series.slow_variance_of_power
        pieces = series.ratios(series.power, series.power_eq, self.part, slow)
        return [piece.root(1 / self.known.exponent) for piece in pieces]

    @cached_property
    def last_ratio(self) -> float:
        """Δ_rms/Δ* in the last piece of the stage's end that is off, if one is."""
        off = [p for p in self.angle_course if abs(p.value - 1) > ANGLE_TOLERANCE]
        return (off or self.angle_course)[-1].value

    @cached_property
    def passing(self) -> str:
        """Why the mean over the stage's end hides that equilibrium did not last.

        Empty if it lasted, or if the mean itself is beyond tolerance. Else a piece of
        the end is beyond it, significantly, while others are elsewhere.
        """
        for what, course, tolerance in (
            ('Δ/Δ*', self.angle_course, ANGLE_TOLERANCE),
            ('‖w‖/w*', self.norm_course, self.norm_tolerance),
        ):
            if not course:
                continue
            whole = self.angle if course is self.angle_course else self.norm
            if abs(whole.value - 1) > tolerance:
                continue
            chance = [p.beyond(1 - tolerance, 1 + tolerance) for p in course]
            moved = np.ptp([piece.value for piece in course]) > tolerance
            if moved and min(chance) * 2 * len(chance) < LEVEL:
                values = ', '.join(f'{piece.value:.2f}' for piece in course)
                return (
                    f'{what} did not hold still: it is {values} in the pieces of the '
                    "stage's end"
                )
        return ''

    @cached_property
    def forecast(self) -> float:
        """Δ_rms/Δ* that the theory forecasts for the end of the stage.

        It follows from the norm at the start and from the measured drive. NaN where
        there is no forecast.
        """
        series, part = self.series, self.part
        path = series.predicted_power[part]
        if not (path > 0).all():
            return np.nan
        angle_sq = series.angle_sq_eq[part] * series.power_eq[part] / path
        weights = series.count[part]
        share = (angle_sq @ weights) / (series.angle_sq_eq[part] @ weights)
        return float(np.sqrt(share)) if share > 0 else np.nan

    @cached_property
    def cosine(self) -> float:
        """Root mean square of cosine(w, g) in the median window of the stage's end.

        It is the median because an iteration of nearly no gradient, whose cosine is all
        rounding, can spoil the mean of its window.
        """
        return float(np.sqrt(np.median(self.series.cosine_sq[self.part])))

    @cached_property
    def steady_cosine(self) -> Estimate:
        """Mean of cosine(w, g) at the end of the stage; random rounding averages out.

        It is the mean of no ratio, so each iteration counts alike.
        """
        series = self.series
        means = series.columns['cosine_mean']
        return series.ratio(means, np.ones(len(series)), self.part)

    @cached_property
    def cosine_limit(self) -> float:
        """The steady cosine from which on the decay of the norm is not that of λ.

        At equilibrium a steady cosine c adds c·√(2/(λη_e)) of λ to the weight decay,
        with η_e = η/(1−α), and η under AdamW.
        """
        decay = float(self.series.weight_decay_rate[-1])
        return max(RATE_TOLERANCE * np.sqrt(decay / 2), COSINE_STEADY_ROUNDING)

    @cached_property
    def extra_share(self) -> float:
        """Decay that steps along w amount to at the end of the stage, as share of λ."""
        series = self.series
        return series.mean(series.extra_decay, self.part) / float(series.decay[-1])

    @cached_property
    def lowest_cosine(self) -> float:
        """Lowest root mean square of cosine(w, g) in this stage and the one before."""
        stages = [self.series]
        if self.previous is not None and len(self.previous):
            stages.append(self.previous)
        return float(np.sqrt(min(stage.lowest_cosine_sq for stage in stages)))

    @cached_property
    def lag(self) -> float:
        """By which share Δ trails an equilibrium that moves with the learning rate.

        ‖w‖^(q−p) trails w*^(q−p) ∝ η by |d ln η/dt| / ((q−p)λη_e), and Δ/Δ*, which is
        the root of their ratio, trails by half of that.
        """
        series, part = self.series, self.part
        if series.steady:
            return 0.0
        lr, rate = series.lr[part], series.rate[part]
        if len(lr) < 2:
            return np.inf
        drift = np.abs(np.diff(np.log(lr))) / series.step[part.start :][: len(lr) - 1]
        return float((drift / rate[1:]).max() / 2)

    @cached_property
    def too_few(self) -> str:
        """What is missing for a verdict on the end of the stage, or nothing."""
        series = self.series
        if series.iterations < MIN_ITERATIONS:
            return (
                f'the stage has {series.iterations} measured iterations, a verdict '
                f'needs {MIN_ITERATIONS}'
            )
        batches = len(series.groups(self.part, 2 * series.memory))
        if batches < MIN_BATCHES:
            return (
                f'its end has {batches} independent batches of windows, a verdict '
                f'needs {MIN_BATCHES}: use a smaller window or a longer stage'
            )
        return ''

    @cached_property
    def unreachable(self) -> str:
        """Why equilibrium could not have been reached, or nothing."""
        if self.lag > ANGLE_TOLERANCE:
            trail = f'about {self.lag:.0%}' if self.lag < 1 else 'more than 100%'
            return (
                'the learning rate moves faster than the norm can follow (Δ trails '
                f'its moving equilibrium by {trail})'
            )
        if np.isnan(self.forecast):
            return f'{self.words.no_drive}, so no equilibrium norm exists'
        if abs(self.forecast - 1) > ANGLE_TOLERANCE:
            if self.drifting:
                return (
                    f'{self.words.mean} drifts, and the norm trails the equilibrium '
                    f'that moves with it: Δ/Δ* is forecast at {self.forecast:.2f}'
                )
            return (
                'from its norm at the start of the stage Δ/Δ* could only come to '
                f'{self.forecast:.2f}'
            )
        return ''

    @cached_property
    def drifting(self) -> bool:
        """Whether equilibrium was missed only because L drifts.

        It is, if ‖w‖ would have come within tolerance of w* at a constant L.
        """
        series = self.series
        target = series.settled(self.part)
        if not target > 0:
            return False
        folds = float((series.rate * series.count)[: self.part.start].sum())
        start = series.norm_to(series.left_exponent)[0]
        distance = abs(start / target - 1) * np.exp(-folds)
        return bool(distance <= 2 * ANGLE_TOLERANCE)


def transient(series: Series, part: slice) -> Estimate:
    """Δ_rms/Δ*·(‖w‖/w*)^(q/2) over the quiet windows of a part.

    It is the root of a ratio of sums, Σ Δ²‖w‖^q / Σ Δ*²w*^q, so that windows whose mean
    of h̃ is negative may take part.
    """
    usable = series.quiet[part]
    index = np.arange(len(series))[part][usable]
    if not len(index):
        return Estimate(np.nan, np.nan, 0, 0)
    kept = series.take(index)
    return kept.ratio(
        kept.angle_sq * kept.power, kept.angle_sq_eq * kept.power_eq, slice(None)
    ).root()


def decays(case: Case, share: float) -> str:
    """What steps along the weight do to its norm.

    Args:
        case: The layer's stage.
        share: The decay that they amount to, as a share of λ; NaN if not known.
    """
    if case.words.adaptive:
        what = 'the updates along the weight are not those of the law: they decay'
    else:
        what = 'the gradient is not orthogonal to the weight: it decays'
    if not np.isfinite(share):
        return what.split(':')[0]
    decay = float(case.series.decay[-1])
    return (
        f'{what} the weight as if λ were {decay * (1 + share):.2g} and not {decay:.2g} '
        f'({share:+.0%})'
    )
