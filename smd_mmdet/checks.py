"""Does a run obey Spherical Motion Dynamics? Records in, verdicts out.

Per layer and stage the assumptions and the conclusions of the theory (Wan et al.,
arXiv 2006.08419) are each held against what was measured. What the verdicts mean:

* Deviations are judged by ratios of batch means. Their standard error is that of
  the batches (autocorrelation inside a batch does not matter) or that from the slow
  wandering of the norm about its equilibrium which the theory predicts, and which
  the batches of a short stage cannot show; whichever is larger.
* ``holds``: the confidence interval (:data:`CONFIDENCE`, so two one-sided tests at
  :data:`LEVEL`) lies within the tolerance.
* ``fails``: the deviation exceeds the tolerance *significantly*, over all layers,
  stages and checks of the report together (Holm, family-wise :data:`LEVEL`), and
  for an equilibrium: the layer could have reached it, from its norm at the start
  of the stage and the unit gradients measured since.
* ``undecided``: neither; the reason says what is missing.
* ``not applicable``: the theory says nothing here; the reason says why.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property

import numpy as np
from scipy import special

from smd_mmdet import theory
from smd_mmdet.records import Records

HOLDS, FAILS = 'holds', 'fails'
UNDECIDED, NOT_APPLICABLE = 'undecided', 'not applicable'

IN_EQUILIBRIUM = 'in equilibrium'
FROM_ABOVE = 'approaching from above'
FROM_BELOW = 'approaching from below'
UNREACHABLE = 'unreachable in this stage'
LEFT_REGIME = 'left the scale-invariant regime'
NOT_INVARIANT = 'not scale-invariant'
NO_GRADIENT = 'no gradient'
NO_THEORY = 'no theory'
NO_DECAY = 'no weight decay'
DIVERGED = 'diverged'
TOO_SHORT = 'stage too short'
MOVING = 'equilibrium moves'
OFF = 'not at the predicted equilibrium'
UNCLEAR = 'undecided'

LEVEL = 0.05
CONFIDENCE = 0.90
ANGLE_TOLERANCE = 0.10  # of Δ/Δ* and of the transient law
NORM_TOLERANCE = 0.05  # of ‖w‖/w*: Δ goes with its square
RATE_TOLERANCE = 0.10
MIN_ITERATIONS = 200
MIN_BATCHES = 5
MAX_BATCHES = 16

# Float32 rounds ⟨w, g⟩ to cosines of up to 3e-3 where gradients are tiny.
COSINE_ROUNDING = 3e-3
COSINE_LEFT = 2e-2


@dataclass
class Check:
    """One statement of the theory, held against one layer's stage.

    Args:
        name: Which statement.
        kind: 'assumption' or 'conclusion'; only conclusions set the exit code.
        value: What was measured; None where nothing can be.
        bound: What it is held against.
        margin: Distance to the bound as a fraction of it, negative beyond it.
        verdict: 'holds', 'fails', 'undecided' or 'not applicable'.
        reason: One sentence.
        interval: Confidence interval of ``value``, where there is one.
        p_value: Of the deviation beyond the tolerance, where it was tested.
    """

    name: str
    kind: str
    value: float | None
    bound: float | None
    margin: float | None
    verdict: str
    reason: str
    interval: tuple[float, float] | None = None
    p_value: float | None = None


@dataclass
class StageReport:
    """What one layer did in one stage; the ratios are those of the stage's end."""

    stage: int
    first_iter: int
    last_iter: int
    lr: float
    weight_decay: float
    momentum: float
    angular_update_ratio: float | None = None
    weight_norm_ratio: float | None = None
    transient_ratio: float | None = None
    state: str = UNCLEAR
    note: str = ''
    diagnosis: str = ''  # the check that names the cause, where a conclusion fails
    checks: list[Check] = field(default_factory=list)

    def verdict_of(self, name: str) -> str | None:
        """The verdict of the check of that name."""
        return next((c.verdict for c in self.checks if c.name == name), None)


@dataclass
class LayerReport:
    """All stages of one layer."""

    layer: str
    shape: list[int]
    stages: list[StageReport] = field(default_factory=list)


@dataclass
class StageSummary:
    """What the layers did in one stage, together."""

    stage: int
    first_iter: int
    last_iter: int
    lr: float
    layers: int
    in_equilibrium: int
    states: dict[str, int]
    median_angular_update_ratio: float | None
    median_transient_ratio: float | None


@dataclass
class Report:
    """All verdicts on a run.

    Args:
        layers: One entry per layer.
        stages: One entry per stage, over all layers.
        verdict: The whole in one sentence.
        exit_code: 0 if every conclusion holds where equilibrium was reachable (or
            nothing speaks against it), 1 if some fail.
        theory: 'sgd', 'adamw' or 'none'.
    """

    layers: list[LayerReport]
    stages: list[StageSummary]
    verdict: str
    exit_code: int
    theory: str = 'sgd'
    level: float = LEVEL

    def to_dict(self) -> dict:
        """Plain values, ready for JSON: no NaN, no numpy."""
        return _plain(asdict(self))


def check(records: Records) -> Report:
    """Hold a run's records against the theory.

    Args:
        records: As :func:`smd_mmdet.records.read_records` reads them.

    Returns:
        The verdicts. A run of no layers gives an empty report.
    """
    known = records.metadata.get('theory') or 'sgd'
    facts = records.metadata.get('layers') or {}
    shapes = _shapes(records)
    layers = []
    for name, columns in records.by_layer():
        layer = LayerReport(name, shapes.get(name, []))
        previous = None
        for number in np.unique(columns['stage']):
            chosen = columns['stage'] == number
            series = _Series({key: column[chosen] for key, column in columns.items()})
            if previous is not None:
                series.first = previous.last + 1
            layer.stages.append(
                _check_stage(series, previous, known, facts.get(name) or {})
            )
            previous = series
        layers.append(layer)
    _correct_for_multiplicity(layers)
    for layer in layers:
        for stage in layer.stages:
            _settle_state(stage)
            _diagnose(stage)
    return _report(layers, known)


# ------------------------------------------------------------------ the series


@dataclass
class _Estimate:
    """A ratio of means with its standard error."""

    value: float
    error: float
    freedom: float
    batches: int
    without_one: tuple[float, float] = (np.nan, np.nan)  # leaving any batch out

    @property
    def decidable(self) -> bool:
        return self.batches >= MIN_BATCHES and bool(np.isfinite(self.error))

    @property
    def interval(self) -> tuple[float, float]:
        reach = _quantile((1 + CONFIDENCE) / 2, self.freedom) * self.error
        return self.value - reach, self.value + reach

    def root(self, power: float = 0.5) -> '_Estimate':
        """The estimate of value**power, by the delta method."""
        value = max(self.value, 0.0) ** power
        slope = power * value / self.value if self.value > 0 else np.inf
        low, high = (max(bound, 0.0) ** power for bound in self.without_one)
        error = self.error * slope
        return _Estimate(value, error, self.freedom, self.batches, (low, high))

    def beyond(self, low: float, high: float) -> float:
        """One-sided p-value of lying outside [low, high].

        The deviation is that without the batch which deviates most: heavy-tailed
        noise puts all of it into one.
        """
        smallest, largest = self.without_one
        distance = max(low - largest, smallest - high)
        if not self.decidable or not distance > 0:
            return 1.0
        if self.error == 0:
            return float(distance <= 0)
        return _t_below(self.freedom, -distance / self.error)


def _t_below(freedom: float, value: float) -> float:
    """Distribution function of Student's t; normal for infinite freedom."""
    if np.isinf(freedom):
        return float(special.ndtr(value))
    return float(special.stdtr(freedom, value))


def _quantile(probability: float, freedom: float) -> float:
    """Of Student's t, or of the normal distribution for infinite freedom."""
    if np.isinf(freedom):
        return float(special.ndtri(probability))
    return float(special.stdtrit(max(freedom, 1), probability))


def _ratio(top: np.ndarray, bottom: np.ndarray) -> _Estimate:
    """Ratio of two sums over batches, with the error that the batches show."""
    number, total = len(top), bottom.sum()
    value = float(top.sum() / total)
    if number < 2:
        return _Estimate(value, np.inf, 0, number)
    residual = top - value * bottom
    error = np.sqrt(number / (number - 1) * (residual**2).sum()) / total
    with np.errstate(divide='ignore', invalid='ignore'):
        others = (top.sum() - top) / (total - bottom)
    span = float(others.min()), float(others.max())
    return _Estimate(value, float(error), number - 1, number, span)


class _Series:
    """The windows of one layer in one stage, in which it had gradients.

    Quantities that enter a balance are means of squares, so that windows add up:
    ``angle_sq`` = E Δ², ``norm4`` = E‖w‖⁴, ``h`` = E h̃ (which may be negative in a
    window), ``angle_sq_eq`` = Δ*², ``norm4_eq`` = w*⁴ ∝ ``h``.
    """

    def __init__(self, columns: dict[str, np.ndarray]) -> None:
        self.first = max(1, int(columns['iter'][0] - columns['count'][0]) + 1)
        self.last = int(columns['iter'][-1])
        self.number = int(columns['stage'][0])
        used = (columns['count'] > 0) & (columns['lr'] > 0)
        measured = [columns[name] for name in ('angular_update_mean', 'cosine_mean')]
        if np.isfinite(columns['unit_h_mean']).any():  # h̃ is defined for SGD only
            measured += [columns['unit_h_mean'], columns['unit_h_var']]
        finite = np.isfinite(measured).all(axis=0)
        self.diverged = bool((used & ~finite).any())
        used &= finite
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
        self.norm4 = norm**4 + 6 * norm**2 * spread
        self.h, self.h_var, self.h_min = (get(f'unit_h_{s}') for s in _MEAN_VAR_MIN)

    def __len__(self) -> int:
        return len(self.count)

    def take(self, index: np.ndarray) -> '_Series':
        """The series of some of its windows."""
        return _Series({key: column[index] for key, column in self.columns.items()})

    @property
    def iterations(self) -> int:
        return int(self.count.sum())

    @cached_property
    def steady(self) -> bool:
        """Whether the settings hold still."""
        settings = self.lr, self.decay, self.momentum
        return self.number >= 0 and all(np.ptp(values) == 0 for values in settings)

    @cached_property
    def decaying(self) -> bool:
        step = self.lr * self.decay
        return bool(len(self) and (step > 0).all() and (step < 2).all())

    @cached_property
    def angle_sq_eq(self) -> np.ndarray:
        return self.columns['angular_update_eq'] ** 2

    @cached_property
    def norm4_eq(self) -> np.ndarray:
        unit = theory.equilibrium_norm(self.lr, self.decay, 1.0, self.momentum)
        return unit**4 * self.h

    @cached_property
    def rate(self) -> np.ndarray:
        """Relaxation rate of the mean of ‖w‖⁴, per iteration: 4λη/(1−α)."""
        return 2 * theory.relaxation_rate(self.lr, self.decay, self.momentum)

    @cached_property
    def memory(self) -> float:
        """Iterations that the momentum buffer remembers."""
        return 1 / (1 - float(self.momentum.max(initial=0)))

    @cached_property
    def step(self) -> np.ndarray:
        """Steps from the centre of a window to that of the next."""
        return np.diff(self.end - self.count / 2)

    @cached_property
    def quiet(self) -> np.ndarray:
        """Windows fit for a local law.

        The rate barely moves, angles are small, and the momentum buffer has forgotten
        what was before the stage.
        """
        change = np.abs(np.gradient(self.lr)) if len(self) > 1 else np.zeros(len(self))
        fresh = self.end - self.count < 3 * self.memory
        quiet = (change < 0.1 * self.lr) & (self.angle_sq < 0.1)
        return quiet & ~fresh if (quiet & ~fresh).any() else quiet

    @cached_property
    def lowest_cosine_sq(self) -> float:
        """Lowest mean of the squared cosine; one iteration may be 0 by chance."""
        groups = self.groups(slice(0, None), 20)
        counts = self.totals(1.0, groups)
        return float((self.totals(self.cosine_sq, groups) / counts).min())

    @cached_property
    def mean_h(self) -> float:
        return float(np.average(self.h, weights=self.count))

    @cached_property
    def variance(self) -> float:
        """V, the variance of h̃ about the mean of its window."""
        return float(np.average(self.h_var, weights=self.count))

    def long_run_variance(self, part: slice) -> float:
        """Variance of a sum of h̃ per iteration, which sees autocorrelation."""
        groups = self.groups(part, 2 * self.memory)
        if len(groups) < MIN_BATCHES:
            return float(np.average(self.h_var[part], weights=self.count[part]))
        sums, counts = self.totals(self.h, groups), self.totals(1.0, groups)
        deviation = sums - sums.sum() / counts.sum() * counts
        # Neighbours share the drift of L, their difference does not.
        return float(np.mean(np.diff(deviation) ** 2) / 2 / counts.mean())

    def tail(self) -> slice:
        """The end of the stage: its last third, up to its half to be long enough."""
        spent = np.cumsum(self.count[::-1])
        wanted = max(spent[-1] / 3, min(MIN_ITERATIONS, spent[-1] / 2))
        windows = int(np.searchsorted(spent, wanted - 0.5) + 1)
        return slice(len(self) - min(windows, len(self)), len(self))

    def groups(self, part: slice, shortest: float) -> list[np.ndarray]:
        """Windows of a part, gathered into at most MAX_BATCHES batches."""
        index = np.arange(len(self))[part]
        total = self.count[index].sum()
        number = int(min(MAX_BATCHES, len(index), total // max(shortest, 1)))
        return [g for g in np.array_split(index, max(number, 1)) if len(g)]

    def totals(self, values: np.ndarray | float, groups: list[np.ndarray]):
        """Sum over the iterations of each batch."""
        weighted = np.broadcast_to(values, self.count.shape) * self.count
        return np.array([weighted[group].sum() for group in groups])

    def ratio(
        self, above: np.ndarray, below: np.ndarray, part: slice, slow: float = 0.0
    ) -> _Estimate:
        """Ratio of the means of two series, with the error of its batches.

        Args:
            above: Numerator, one value per window.
            below: Denominator.
            part: The windows to use.
            slow: Relative variance of the ratio from motion slower than the part.
        """
        groups = self.groups(part, 2 * self.memory)
        top, bottom = self.totals(above, groups), self.totals(below, groups)
        if not len(groups) or not bottom.sum() > 0:
            return _Estimate(np.nan, np.nan, 0, 0)
        found = _ratio(top, bottom)
        if slow * found.value**2 > found.error**2:
            found.error, found.freedom = float(np.sqrt(slow) * found.value), np.inf
        return found

    def wander(self, part: slice) -> float:
        """Relative variance of ‖w‖² about its equilibrium, from the noise of h̃.

        Linearized mean recurrence driven by noise: λη/(1−α) · V/(2L²).
        """
        mean = np.average(self.h[part], weights=self.count[part])
        if not mean > 0:
            return np.inf
        slow = float(self.rate[-1]) / 4
        return slow * self.long_run_variance(part) / (2 * mean**2)

    def slow_variance_of_angle(self, part: slice) -> float:
        """Relative variance of the mean of Δ² over a part, from that wandering.

        Growth by gradients is Δ²(1+α)/(1−α) and decay 2λη/(1−α): their difference,
        over a time T, is what ln‖w‖² changed by. So the mean of Δ² is off Δ*² by
        that change over 2λη/(1−α)·T, and averages out faster than other means.
        """
        length = self.count[part].sum()
        decay, rate = self.rate[-1] / 2, self.rate[-1]
        change = 2 * self.wander(part) * -np.expm1(-rate * length)
        return change / (decay * length) ** 2

    def slow_variance_of_norm4(self, part: slice) -> float:
        """Relative variance of the mean of ‖w‖⁴ over a part, from that wandering."""
        u = max(self.rate[-1] * self.count[part].sum(), 1e-12)
        return 4 * self.wander(part) * 2 * (u + np.expm1(-u)) / u**2

    @cached_property
    def predicted_norm4(self) -> np.ndarray:
        """‖w‖⁴ by the theory from the first window's, driven by the measured h̃.

        The mean recurrence d‖w‖⁴/dt = −ρ(‖w‖⁴ − w*⁴), exact for a w* that holds
        still between the centres of two windows.
        """
        path = self.norm4.copy()
        keep, target = self._recurrence
        for i in range(1, len(path)):
            if not self.jumps[i - 1]:
                ahead = target[i - 1] + keep[i - 1] * (path[i - 1] - target[i - 1])
                # A few windows of negative h̃ must not take it below 0.
                path[i] = max(ahead, 0.01 * path[i - 1])
        return path

    @cached_property
    def _recurrence(self) -> tuple[np.ndarray, np.ndarray]:
        """What is kept of ‖w‖⁴ from window to window, and what it relaxes to."""
        keep = np.exp(-self.step * (self.rate[1:] + self.rate[:-1]) / 2)
        return keep, (self.norm4_eq[1:] + self.norm4_eq[:-1]) / 2

    @cached_property
    def jumps(self) -> np.ndarray:
        """Where ‖w‖⁴ changed as no dynamics could: the weights were rescaled."""
        keep, target = self._recurrence
        expected = target + keep * (self.norm4[:-1] - target)
        with np.errstate(divide='ignore', invalid='ignore'):
            surprise = np.abs(np.log(self.norm4[1:] / expected))
        usual = np.nanmedian(surprise) if len(surprise) else 0.0
        return surprise > max(0.25, 10 * usual)


_MEAN_VAR_MIN = ('mean', 'var', 'min')


# ------------------------------------------------------------------ one stage


class _Case:
    """A layer's stage, with the estimates that several checks share."""

    def __init__(self, series: _Series, previous: _Series | None, facts: dict) -> None:
        self.series, self.previous, self.facts = series, previous, facts
        self.part = series.tail()

    @cached_property
    def angle(self) -> _Estimate:
        """Δ_rms/Δ* at the end of the stage."""
        series, part = self.series, self.part
        slow = 0.0
        if np.isfinite(series.h).all():
            slow = series.slow_variance_of_angle(part)
        return series.ratio(series.angle_sq, series.angle_sq_eq, part, slow).root()

    @cached_property
    def norm(self) -> _Estimate:
        """‖w‖/w* at the end of the stage."""
        series, part = self.series, self.part
        slow = series.slow_variance_of_norm4(part)
        return series.ratio(series.norm4, series.norm4_eq, part, slow).root(0.25)

    @cached_property
    def law(self) -> _Estimate:
        """Δ_rms/Δ*·(‖w‖/w*)² at the end of the stage."""
        return _transient(self.series, self.part)

    @cached_property
    def forecast(self) -> float:
        """Δ_rms/Δ* at the end, from the norm at the start and the measured h̃."""
        series, part = self.series, self.part
        path = series.predicted_norm4[part]
        if not (path > 0).all():
            return np.nan
        angle_sq = series.angle_sq_eq[part] * series.norm4_eq[part] / path
        weights = series.count[part]
        share = (angle_sq @ weights) / (series.angle_sq_eq[part] @ weights)
        return float(np.sqrt(share)) if share > 0 else np.nan

    @cached_property
    def cosine(self) -> float:
        """Root mean square of the cosine of w and g in a window at the stage's end.

        The median window: one iteration of nearly no gradient may be all rounding.
        """
        return float(np.sqrt(np.median(self.series.cosine_sq[self.part])))

    @cached_property
    def lowest_cosine(self) -> float:
        """The lowest such mean in this stage and the one before."""
        stages = [self.series]
        if self.previous is not None and len(self.previous):
            stages.append(self.previous)
        return float(np.sqrt(min(stage.lowest_cosine_sq for stage in stages)))

    @cached_property
    def lag(self) -> float:
        """How far Δ trails an equilibrium that moves with the rate, as a share."""
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
            return 'the mean of h̃ is not positive, so no equilibrium norm exists'
        if abs(self.forecast - 1) > ANGLE_TOLERANCE:
            if self.drifting:
                return (
                    'L drifts, and the norm trails the equilibrium that moves with it: '
                    f'Δ/Δ* is forecast at {self.forecast:.2f}'
                )
            return (
                'from its norm at the start of the stage Δ/Δ* could only come to '
                f'{self.forecast:.2f}'
            )
        return ''

    @cached_property
    def drifting(self) -> bool:
        """Whether equilibrium would have been reached, had L been constant."""
        series = self.series
        target = _mean(series, series.norm4_eq, self.part)
        if not target > 0:
            return False
        folds = float((series.rate * series.count)[: self.part.start].sum())
        distance = abs(series.norm4[0] / target - 1) * np.exp(-folds)
        return bool(distance <= 2 * ANGLE_TOLERANCE)


def _check_stage(
    series: _Series, previous: _Series | None, known: str, facts: dict
) -> StageReport:
    stage = _stage_facts(series)
    if why := _no_theory(series, known, facts):
        stage.state, stage.note = why
        stage.checks = [
            _no(name, kind, stage.note) for name, (kind, _) in _CHECKS.items()
        ]
        return stage
    case = _Case(series, previous, facts)
    stage.angular_update_ratio = case.angle.value
    if known == 'adamw':
        stage.checks = [_adamw_angle(case)]
        return stage
    stage.weight_norm_ratio = case.norm.value
    stage.transient_ratio = case.law.value
    stage.state, stage.note = _scale_invariance(case) or (UNCLEAR, '')
    for name, (kind, examine) in _CHECKS.items():
        if stage.note and name not in ('lemma_1', 'small_step'):
            # g·‖w‖ is no unit gradient then, and h̃ means nothing.
            stage.checks.append(_no(name, kind, stage.note))
        else:
            stage.checks.append(examine(case))
    if stage.state == UNCLEAR:
        stage.state, stage.note = _unsettled(case)
    return stage


def _stage_facts(series: _Series) -> StageReport:
    def mean(values: np.ndarray) -> float:
        return float(np.mean(values)) if len(values) else float('nan')

    return StageReport(
        stage=series.number,
        first_iter=series.first,
        last_iter=series.last,
        lr=mean(series.lr),
        weight_decay=mean(series.decay),
        momentum=mean(series.momentum),
    )


def _no_theory(series: _Series, known: str, facts: dict) -> tuple[str, str] | None:
    """State and reason where the theory says nothing about a layer's stage."""
    if facts.get('invariant') is False:
        reason = facts.get('reason') or 'no norm makes it scale-invariant'
        return NOT_INVARIANT, f'measured as a control, not scale-invariant: {reason}'
    if known not in ('sgd', 'adamw'):
        return NO_THEORY, 'no formula is derived for this optimizer'
    if series.diverged or (known == 'sgd' and not np.isfinite(series.h).all()):
        return DIVERGED, 'weights or gradients were not finite: the training diverged'
    if not len(series) or not series.columns['unit_grad_sq_max'].max() > 0:
        return NO_GRADIENT, 'the layer had no gradient in this stage'
    if not series.decaying:
        return NO_DECAY, 'without weight decay, 0 < λη < 2, the norm has no equilibrium'
    return None


def _scale_invariance(case: _Case) -> tuple[str, str] | None:
    """State and advice where ⟨w, g⟩ is not 0 (Lemma 1), else None."""
    cosine = case.cosine
    if not cosine >= COSINE_LEFT:
        return None
    if (
        case.lowest_cosine > COSINE_LEFT / 2
        and not case.law.value < 1 - ANGLE_TOLERANCE
    ):
        return NOT_INVARIANT, (
            f'⟨w, g⟩ is not 0 (cosine {cosine:.2g}, never below '
            f'{case.lowest_cosine:.2g}): no norm takes the scale of this weight out'
        )
    return LEFT_REGIME, _advice(cosine, case.facts)


def _advice(cosine: float, facts: dict) -> str:
    eps, variance = facts.get('eps'), facts.get('output_variance')
    against = ''
    if eps and variance:
        against = f', output variance {variance:.2g} against ε = {eps:.2g}'
    elif eps:
        against = f', ε = {eps:.2g}'
    return (
        f'cosine(w, g) {cosine:.2g}{against}: the ε of its norm dominates, the layer '
        'is starved of gradient; lower its weight decay or ε, or let it see more data'
    )


def _unsettled(case: _Case) -> tuple[str, str]:
    """State of a layer before its checks are corrected for their number."""
    if case.unreachable and case.lag > ANGLE_TOLERANCE:
        return MOVING, case.unreachable
    if case.unreachable and np.isfinite(case.forecast):
        return _on_its_way(case)
    if case.too_few:
        return TOO_SHORT, case.too_few
    return UNCLEAR, case.unreachable


def _on_its_way(case: _Case) -> tuple[str, str]:
    direction = FROM_ABOVE if case.forecast < 1 else FROM_BELOW
    if case.drifting:
        return direction, case.unreachable
    series = case.series
    target = _mean(series, series.norm4_eq, case.part)
    distance = abs(series.norm4[-1] / target - 1) if target > 0 else np.inf
    settings = series.lr[-1], series.decay[-1], series.momentum[-1]
    left = np.inf
    if np.isfinite(distance):
        left = theory.iterations_to_tolerance(distance, *settings, 2 * ANGLE_TOLERANCE)
    note = f'{case.unreachable}; about {float(left):,.0f} iterations more are needed'
    if left == 0:
        note = f'{case.unreachable} over its end; the last window is there'
    return (UNREACHABLE if left > series.iterations else direction), note


def _settle_state(stage: StageReport) -> None:
    """Draw the state from verdicts that are final."""
    if stage.state not in (UNCLEAR, TOO_SHORT):
        return
    verdicts = [stage.verdict_of('angular_update'), stage.verdict_of('weight_norm')]
    if FAILS in verdicts:
        stage.state = OFF
    elif stage.state == UNCLEAR and not stage.note:
        # Every iteration was measured: where it has been is a fact. The verdicts
        # ask more, whether it would be there again.
        angle, norm = stage.angular_update_ratio, stage.weight_norm_ratio or 1.0
        if abs(angle - 1) <= ANGLE_TOLERANCE and abs(norm - 1) <= NORM_TOLERANCE:
            stage.state = IN_EQUILIBRIUM
    if stage.state in (UNCLEAR, TOO_SHORT) and any(
        c.kind == 'conclusion' and c.verdict == FAILS for c in stage.checks
    ):
        stage.state = OFF


def _diagnose(stage: StageReport) -> None:
    """Name the conclusion whose failure explains the others.

    The transient law contains no weight decay, the rate of convergence no angle;
    equilibrium rests on both.
    """
    for name in ('lemma_1', 'transient_law', 'linear_convergence', *_CHECKS):
        kind, _ = _CHECKS[name]
        if kind == 'conclusion' and stage.verdict_of(name) == FAILS:
            stage.diagnosis = name
            found = next(c for c in stage.checks if c.name == name)
            stage.note = stage.note or found.reason
            return


def _mean(series: _Series, values: np.ndarray, part: slice) -> float:
    return float(np.average(values[part], weights=series.count[part]))


# ------------------------------------------------------------------ verdicts


def _no(name: str, kind: str, reason: str, **numbers) -> Check:
    return Check(name, kind, None, None, None, NOT_APPLICABLE, reason, **numbers)


def _within(
    name: str,
    estimate: _Estimate,
    tolerance: float,
    allowed: tuple[float, float] | None = None,
    missing: str = '',
    what: str = 'it',
) -> Check:
    """Verdict on a ratio that the theory says is 1.

    Args:
        name: Of the check.
        estimate: The ratio.
        tolerance: Deviation that does not matter in practice.
        allowed: Range within which it does not fail; by default the tolerance.
        missing: What speaks against any verdict.
        what: The ratio in words.
    """
    low, high = estimate.interval if estimate.decidable else (np.nan, np.nan)
    margin = (tolerance - abs(estimate.value - 1)) / tolerance
    found = Check(
        name, 'conclusion', estimate.value, 1.0, margin, UNDECIDED, missing, (low, high)
    )
    if missing or not estimate.decidable:
        found.reason = missing or f'{what}: too few batches for a confidence interval'
        return found
    allowed = allowed or (1 - tolerance, 1 + tolerance)
    found.p_value = estimate.beyond(*allowed)
    span = f'{what} is {estimate.value:.3f} ({CONFIDENCE:.0%}: {low:.3f} to {high:.3f})'
    if 1 - tolerance <= low and high <= 1 + tolerance:
        found.verdict = HOLDS
        found.reason = f'{span}, within {tolerance:.0%} of 1'
    elif found.p_value < LEVEL:
        found.verdict = FAILS
        found.reason = f'{span}, beyond {tolerance:.0%} of 1'
    else:
        found.reason = f'{span}: too noisy to tell from 1 ± {tolerance:.0%}'
    return found


def _equilibrium(
    case: _Case, name: str, estimate: _Estimate, power: float, tolerance: float
) -> Check:
    """Verdict on Δ/Δ* or ‖w‖/w*, which only counts where equilibrium is reachable.

    Args:
        case: The layer's stage.
        name: Of the check.
        estimate: The ratio at the end of the stage.
        power: Of the forecast of Δ/Δ* that gives the forecast of this ratio.
        tolerance: Deviation that does not matter in practice.
    """
    what = 'Δ_rms/Δ*' if name == 'angular_update' else '‖w‖/w*'
    if case.unreachable and len(case.series) > 1:
        found = _no(name, 'conclusion', case.unreachable, interval=estimate.interval)
        found.value, found.bound = estimate.value, 1.0
        found.margin = (tolerance - abs(estimate.value - 1)) / tolerance
        return found
    expected = case.forecast**power
    allowed = min(1, expected) * (1 - tolerance), max(1, expected) * (1 + tolerance)
    return _within(name, estimate, tolerance, allowed, case.too_few, what)


def _angular_update(case: _Case) -> Check:
    return _equilibrium(case, 'angular_update', case.angle, 1.0, ANGLE_TOLERANCE)


def _weight_norm(case: _Case) -> Check:
    return _equilibrium(case, 'weight_norm', case.norm, -0.5, NORM_TOLERANCE)


def _adamw_angle(case: _Case) -> Check:
    missing = case.too_few
    if case.lag or not case.series.steady:
        missing = 'the learning rate moves, and AdamW has no formula for the way there'
    found = _within(
        'angular_update', case.angle, ANGLE_TOLERANCE, None, missing, 'Δ_rms/Δ*'
    )
    if found.verdict == FAILS:
        # How far AdamW has come on its way is not derived, so it may still come.
        found.verdict, found.p_value = UNDECIDED, None
        found.reason += '; whether it had time to get there is not derived for AdamW'
    return found


# ------------------------------------------------------------------ transient law


def _transient(series: _Series, part: slice) -> _Estimate:
    """Δ_rms/Δ*·(‖w‖/w*)², over windows in which rate and memory hold still.

    A ratio of sums, so that windows whose mean h̃ is negative may take part.
    """
    usable = series.quiet[part]
    index = np.arange(len(series))[part][usable]
    if not len(index):
        return _Estimate(np.nan, np.nan, 0, 0)
    kept = series.take(index)
    return kept.ratio(
        kept.angle_sq * kept.norm4, kept.angle_sq_eq * kept.norm4_eq, slice(0, None)
    ).root()


def _transient_law(case: _Case) -> Check:
    """Checked over the stage and over each third of it."""
    series = case.series
    whole = _transient(series, slice(0, None))
    missing = ''
    if series.iterations < MIN_ITERATIONS:
        missing = case.too_few
    found = _within(
        'transient_law', whole, ANGLE_TOLERANCE, None, missing, 'Δ_rms/Δ*·(‖w‖/w*)²'
    )
    thirds = np.array_split(np.arange(len(series)), 3)
    parts = [_transient(series, slice(t[0], t[-1] + 1)) for t in thirds if len(t)]
    beyond = [
        min(1.0, len(parts) * p.beyond(1 - ANGLE_TOLERANCE, 1 + ANGLE_TOLERANCE))
        for p in parts
    ]
    worst = int(np.argmin(beyond)) if beyond else 0
    if found.p_value is not None and beyond and beyond[worst] < LEVEL:
        found.p_value = min(found.p_value, beyond[worst])
        found.verdict = FAILS
        name = ('first', 'middle', 'last')[worst]
        found.reason += f'; it is {parts[worst].value:.3f} in the {name} third'
    return found


# ------------------------------------------------------------------ convergence


def _linear_convergence(case: _Case) -> Check:
    """The rate at which ‖w‖⁴ relaxes, from its balance over the whole stage.

    d‖w‖⁴/dt = −ρ(‖w‖⁴ − w*⁴), where the drive ρ·w*⁴ = 2(η/(1−α))² h̃ is measured and
    contains no decay: ρ is what the drive leaves over of the change, summed, over
    the sum of ‖w‖⁴. No exponential is fitted, so L may drift.
    """
    series = case.series
    if len(series) < 3 or not series.mean_h > 0:
        why = 'fewer than 3 windows' if len(series) < 3 else 'the mean of h̃ is not > 0'
        return _undecided('linear_convergence', 'conclusion', why)
    rate = (series.rate[1:] + series.rate[:-1]) / 2
    fold = rate * series.step
    # The trapezoid of an exponential is too large by this factor.
    exact = np.tanh(fold / 2) / (fold / 2)
    drive = (series.rate * series.norm4_eq)[1:] + (series.rate * series.norm4_eq)[:-1]
    drive = drive / 2 * series.step * exact
    decay = (series.norm4[1:] + series.norm4[:-1]) / 2 * fold * exact
    left_over = drive - np.diff(series.norm4)
    estimate = _ratio_of_steps(series, left_over, decay, ~series.jumps)
    missing = '' if series.iterations >= MIN_ITERATIONS else case.too_few
    found = _within(
        'linear_convergence',
        estimate,
        RATE_TOLERANCE,
        None,
        missing,
        'rate/(4λη/(1−α))',
    )
    last, theorem = float(rate[-1]), float(rate[-1]) / 2
    found.value, found.bound = estimate.value * last, theorem
    found.interval = tuple(last * bound for bound in found.interval)
    found.reason += (
        f'; ‖w‖⁴ relaxes at {found.value:.3g} per iteration (4λη/(1−α) = {last:.3g}, '
        f'the theorem guarantees {theorem:.3g})'
    )
    if found.verdict == FAILS:
        decay_of = series.decay[-1] * estimate.value
        found.reason += f'; a weight decay of {decay_of:.2g} would explain it'
    return found


def _ratio_of_steps(
    series: _Series, above: np.ndarray, below: np.ndarray, kept: np.ndarray
) -> _Estimate:
    """Ratio of sums over the steps from window to window, in batches."""
    batches = len(series.groups(slice(0, None), 4 * series.memory))
    index = np.flatnonzero(kept)
    if len(index) < 2 or batches < 2:
        return _Estimate(np.nan, np.inf, 0, 0)
    groups = np.array_split(index, min(batches, len(index)))
    top = np.array([above[group].sum() for group in groups])
    bottom = np.array([below[group].sum() for group in groups])
    return _ratio(top, bottom)


def _corollary(case: _Case) -> Check:
    """Iterations to the new equilibrium after the rate fell, in a plain run."""
    name, kind = 'corollary_3_1', 'conclusion'
    series, before = case.series, case.previous
    if before is None or not len(before) or not before.decaying:
        return _no(name, kind, 'no stage precedes this one')
    drop = before.lr[-1] / series.lr[0]
    if not (series.steady and before.steady and drop > 1.01):
        return _no(name, kind, 'it is about a constant rate that falls to another')
    settings = series.lr[0], series.decay[0], series.momentum[0]
    gone = (series.count[0] + before.count[-1]) / 2
    least = np.exp(-gone * max(series.rate[0], before.rate[-1]))
    if series.norm4[0] < 0.8 * least * before.norm4[-1]:
        return _no(name, kind, 'the weights were rescaled with the rate')
    target = _mean(series, series.norm4_eq, case.part)
    if not target > 0:
        return _undecided(name, kind, 'the mean of h̃ is not positive')
    actual = before.norm4[-1] / target
    needed = theory.iterations_to_equilibrium(*settings[:2], drop, settings[2])
    if actual < 1 + 4 * ANGLE_TOLERANCE or not 0.6 < actual / drop < 1.7:
        return _no(
            name,
            kind,
            f'‖w‖⁴ was {actual:.2g} times its new equilibrium, not {drop:.2g} times: L '
            'changed with the rate, or the stage before did not reach equilibrium',
        )
    near = np.abs(series.norm4 / target - 1) < ANGLE_TOLERANCE
    spent = series.iterations
    if not near.any():
        reason = f'equilibrium was not reached in {spent:,} iterations'
        return Check(name, kind, spent, needed, None, HOLDS, reason)
    taken = float(series.end[np.argmax(near)])
    # Without any gradient, decay alone would take this long to within tolerance.
    surely = float(np.log(actual / (1 + ANGLE_TOLERANCE)) / series.rate[0])
    margin = taken / needed - 1
    reason = (
        f'‖w‖⁴ came within {ANGLE_TOLERANCE:.0%} of its new equilibrium after '
        f'{taken:,.0f} iterations; the corollary says at least {needed:,}'
    )
    verdict = UNDECIDED
    if taken >= (1 - ANGLE_TOLERANCE) * needed:
        verdict = HOLDS
    elif taken < (1 - ANGLE_TOLERANCE) * surely:
        verdict = FAILS
        reason += f', and decay alone takes {surely:,.0f}'
    else:
        reason += ', which the noise of the norm and of L can explain'
    return Check(name, kind, taken, needed, margin, verdict, reason)


# ------------------------------------------------------------------ other conclusions


def _lemma_1(case: _Case) -> Check:
    """⟨w, g⟩ = 0, as far as float32 can tell."""
    cosine = case.cosine
    found = Check(
        'lemma_1',
        'conclusion',
        cosine,
        COSINE_ROUNDING,
        1 - cosine / COSINE_ROUNDING,
        UNDECIDED,
        f'cosine(w, g) is {cosine:.2g}',
    )
    state = _scale_invariance(case)
    if state is not None:
        found.verdict = FAILS if state[0] == NOT_INVARIANT else NOT_APPLICABLE
        found.reason = state[1]
    elif cosine <= COSINE_ROUNDING:
        found.verdict = HOLDS
        found.reason += ', no more than float32 may round to'
    else:
        found.reason += (
            ': more than rounding explains, less than a norm that is lost; measure '
            'in float64, or see whether it grows'
        )
    return found


def _norm_spread(case: _Case) -> Check:
    """Stationary spread of ‖w‖² (Theorem 1), as a share of w*²."""
    name, kind = 'weight_norm_spread', 'conclusion'
    series, part = case.series, case.part
    if why := case.unreachable or case.too_few:
        make = _no if case.unreachable else _undecided
        return make(name, kind, why)
    target = np.sqrt(_mean(series, series.norm4_eq, part))
    norm_var = series.columns['weight_norm_var']
    spread = (series.norm_sq - target) ** 2 + 4 * series.norm_sq * norm_var
    value = float(np.sqrt(_mean(series, spread, part)) / target)
    if series.momentum[-1] > 0:
        linear = np.sqrt(series.wander(part))
        reason = (
            f'‖w‖² spreads {value:.1%} about w*² (linearized: {linear:.1%}); the bound '
            'of Theorem 2 has a constant C(α) that is not stated'
        )
        found = _no(name, kind, reason)
        found.value = value
        return found
    least = float(series.h_min.min())
    if not least > 0:
        return _no(name, kind, 'the unit gradient touched 0: the theorem has no l')
    settings = series.lr[-1], series.decay[-1]
    limit = theory.norm_spread_limit(*settings, series.variance, least)
    bound = float(np.sqrt(limit) / target)
    verdict = HOLDS if value <= bound else UNDECIDED
    reason = f'‖w‖² spreads {value:.1%} about w*², the theorem allows {bound:.1%}'
    if verdict == UNDECIDED:
        reason += '; a spread about a target that is itself estimated proves nothing'
    return Check(name, kind, value, bound, 1 - value / bound, verdict, reason)


def _angle_probability(case: _Case) -> Check:
    """Share of iterations with Δ off Δ* by more than Theorem 3's tolerance.

    The theorem: |Δ/Δ* − 1| exceeds (V/(Ll))^{1/3} with at most that probability.
    Records hold windows, so the share itself is known between two bounds.
    """
    name, kind = 'angular_update_probability', 'conclusion'
    series, part = case.series, case.part
    if case.unreachable:
        return _no(name, kind, case.unreachable)
    if case.too_few:
        return _undecided(name, kind, case.too_few)
    least = float(series.h_min[part].min())
    probability = np.inf
    if least > 0:
        probability = float((series.variance / series.mean_h / least) ** (1 / 3))
    if probability >= 1:
        return _no(
            name, kind, 'V/(Ll) is over 1: the theorem allows any share of iterations'
        )
    target = np.sqrt(series.angle_sq_eq[part])
    columns = {k: series.columns[f'angular_update_{k}'][part] for k in _STATISTICS}
    count, reach = series.count[part], probability * target
    below = columns['min'] < target - reach
    above = columns['max'] > target + reach
    spread = columns['var'] + (columns['mean'] - target) ** 2
    surely = float((below.astype(float) + above).sum() / count.sum())
    chebyshev = np.minimum(spread / reach**2, 1.0) * count
    perhaps = float(np.where(below | above, chebyshev, 0.0).sum() / count.sum())
    reason = (
        f'between {surely:.1%} and {perhaps:.1%} of iterations have Δ off Δ* by more '
        f'than {probability:.0%}; the theorem allows {probability:.0%}'
    )
    verdict = UNDECIDED
    if perhaps <= probability:
        verdict = HOLDS
    elif surely > probability:
        verdict = FAILS
    margin = 1 - perhaps / probability
    return Check(name, kind, perhaps, probability, margin, verdict, reason)


# ------------------------------------------------------------------ assumptions


def _undecided(name: str, kind: str, reason: str) -> Check:
    return Check(name, kind, None, None, None, UNDECIDED, reason)


def _small_step(case: _Case) -> Check:
    series = case.series
    momentum = float(series.momentum.max())
    step = float((series.lr * series.decay).max())
    limit = float(theory.small_step_limit(momentum))
    found = Check('small_step', 'assumption', step, limit, 1 - step / limit, HOLDS, '')
    found.reason = f'λη is {step:.2g}, its limit {limit:.2g}'
    if momentum == 0 and limit / 10 <= step < limit:
        found.verdict = UNDECIDED
        found.reason += ', and it should be far below'
    elif step >= limit:
        found.verdict = FAILS
    elif 0 < momentum <= 0.5:
        found.verdict = NOT_APPLICABLE
        found.reason += f'; the theorem wants a momentum over ½, not {momentum:g}'
    return found


def _bounded_noise(case: _Case) -> Check:
    """Whether V exists: no single iteration may dominate its estimate."""
    series = case.series
    kind, name = 'assumption', 'bounded_noise'
    if series.mean_h <= 0:
        return _undecided(name, kind, 'the mean of h̃ is not positive')
    value = series.variance / series.mean_h**2
    found = Check(name, kind, value, None, None, UNDECIDED, f'V/L² is {value:.2g}')
    if series.iterations < MIN_ITERATIONS:
        found.reason += f', from {series.iterations} iterations only'
        return found
    highest = series.columns['unit_h_max']
    largest = np.maximum(highest - series.h, series.h - series.h_min)
    total = (series.h_var * series.count).sum()
    share = float(largest.max() ** 2 / total) if total > 0 else 0.0
    index, error = _tail_index(np.maximum(highest, 0.0))
    found.reason += f'; one iteration makes up {share:.0%} of it'
    if share > 0.5 or (share > 0.1 and index - 1.645 * error > 0.5):
        found.verdict = FAILS
        found.reason += ': the noise is heavy-tailed, V may not exist'
    elif share < 0.1:
        found.verdict = HOLDS
        found.margin = 1 - share / 0.1
    else:
        found.reason += ': more iterations would tell whether V exists'
    return found


def _tail_index(maxima: np.ndarray) -> tuple[float, float]:
    """Hill's estimate from the upper half of windows' maxima; over ½: no variance."""
    ordered = np.sort(maxima)[::-1]
    number = len(ordered) // 2
    if number < MIN_BATCHES or ordered[number] <= 0:
        return 0.0, np.inf
    index = float(np.mean(np.log(ordered[:number] / ordered[number])))
    return index, index / np.sqrt(number)


def _slow_drift(case: _Case) -> Check:
    """The slope of L over the stage, its halves and its quarters."""
    series = case.series
    name, kind = 'slow_drift', 'assumption'
    settings = series.lr[-1], series.decay[-1]
    bound = float(theory.drift_limit(*settings, series.variance))
    number = len(series)
    parts = [
        slice(number * i // pieces, number * (i + 1) // pieces)
        for pieces in (1, 2, 4)
        for i in range(pieces)
    ]
    slopes = [slope for part in parts if (slope := _slope(series, part))]
    if not slopes or bound == 0:
        return _undecided(name, kind, case.too_few or 'too few windows for a slope')
    tail = LEVEL / len(slopes)
    far = [abs(slope) + _quantile(1 - tail, free) * err for slope, err, free in slopes]
    tested = [
        sum(_t_below(free, (side * bound - abs(slope)) / err) for side in (1, -1))
        for slope, err, free in slopes
    ]
    tested = [min(1.0, p_value * len(slopes)) for p_value in tested]
    worst = int(np.argmin(tested))
    slope, error, _ = slopes[worst]
    found = Check(name, kind, abs(slope), bound, 1 - abs(slope) / bound, UNDECIDED, '')
    found.p_value = tested[worst]
    found.reason = (
        f'L moves by {slope:.2g} ± {error:.2g} per iteration, its limit is {bound:.2g}'
    )
    if max(far) < bound:
        found.verdict = HOLDS
    elif found.p_value < LEVEL:
        found.verdict = FAILS
    else:
        longer = series.iterations * max(2.0, (error / bound) ** (2 / 3))
        found.reason += f'; about {longer:,.0f} iterations at one rate would decide'
    return found


def _slope(series: _Series, part: slice) -> tuple[float, float, int] | None:
    """Slope of the batch means of h̃ per iteration, its error, its freedom."""
    groups = series.groups(part, 2 * series.memory)
    if len(groups) < MIN_BATCHES + 1 or series.count[part].sum() < MIN_ITERATIONS:
        return None
    counts = series.totals(1.0, groups)
    middle = series.totals(series.end - series.count / 2, groups) / counts
    mean = series.totals(series.h, groups) / counts
    time = middle - np.average(middle, weights=counts)
    square = (counts * time**2).sum()
    slope = (counts * time * mean).sum() / square
    level = np.average(mean, weights=counts)
    freedom = len(groups) - 2
    residual = (counts * (mean - level - slope * time) ** 2).sum() / freedom
    error = float(np.sqrt(residual / square))
    return (float(slope), error, freedom) if error > 0 else None


def _lower_bound(case: _Case) -> tuple[float, str]:
    """The bound on h̃/L under assumption 4, and why it cannot be met if so."""
    series = case.series
    settings = series.lr.max(), series.decay.max(), series.momentum.max()
    share = float(theory.lower_bound_share(*settings))
    if np.isinf(share):
        step = settings[0] * settings[1]
        return share, f'λη = {step:.2g} is too large for any bound at this momentum'
    if not series.mean_h > 0:
        return share, 'the mean of h̃ is not positive'
    return share, ''


def _lower_bound_strict(case: _Case) -> Check:
    """Assumption 4 as it is written: at every iteration."""
    name, kind = 'lower_bound_strict', 'assumption'
    series = case.series
    bound, why = _lower_bound(case)
    if why:
        return Check(name, kind, None, bound, None, FAILS, why)
    least = float(series.h_min.min() / series.mean_h)
    under = series.h_min < bound * series.mean_h
    reason = f'the lowest h̃ is {least:.2g} L, it should exceed {bound:.2g} L'
    if under.any():
        reason += (
            f'; it is lower in {under.mean():.0%} of windows (at least '
            f'{under.sum() / series.iterations:.1%} of iterations)'
        )
    verdict = FAILS if under.any() else HOLDS
    return Check(name, kind, least, bound, least / bound - 1, verdict, reason)


def _lower_bound_windowed(case: _Case) -> Check:
    """Assumption 4 as the paper shows it: for means over 200 iterations."""
    name, kind = 'lower_bound_windowed', 'assumption'
    series = case.series
    bound, why = _lower_bound(case)
    if why:
        return Check(name, kind, None, bound, None, FAILS, why)
    if series.iterations < MIN_ITERATIONS:
        return _undecided(name, kind, case.too_few)
    number = max(1, int(series.iterations // MIN_ITERATIONS))
    groups = [g for g in np.array_split(np.arange(len(series)), number) if len(g)]
    counts = series.totals(1.0, groups)
    means = series.totals(series.h, groups) / counts / series.mean_h
    error = np.sqrt(series.long_run_variance(slice(0, None)) / counts) / series.mean_h
    lowest = int(np.argmin(means))
    value, reach = float(means[lowest]), _quantile(1 - LEVEL / len(groups), np.inf)
    reach *= float(error[lowest])
    verdict = UNDECIDED
    if value > bound:
        verdict = HOLDS
    elif value + reach < bound:
        verdict = FAILS
    reason = (
        f'the lowest mean of h̃ over {counts[lowest]:.0f} iterations is {value:.2g} L, '
        f'it should exceed {bound:.2g} L'
    )
    if bound >= 1:
        reason += ', which no mean can: λη is too large for it at this momentum'
    return Check(name, kind, value, bound, value / bound - 1, verdict, reason)


_STATISTICS = ('mean', 'var', 'min', 'max')
_CHECKS: dict[str, tuple[str, Callable[[_Case], Check]]] = {
    'small_step': ('assumption', _small_step),
    'bounded_noise': ('assumption', _bounded_noise),
    'slow_drift': ('assumption', _slow_drift),
    'lower_bound_strict': ('assumption', _lower_bound_strict),
    'lower_bound_windowed': ('assumption', _lower_bound_windowed),
    'lemma_1': ('conclusion', _lemma_1),
    'transient_law': ('conclusion', _transient_law),
    'linear_convergence': ('conclusion', _linear_convergence),
    'weight_norm': ('conclusion', _weight_norm),
    'weight_norm_spread': ('conclusion', _norm_spread),
    'angular_update': ('conclusion', _angular_update),
    'angular_update_probability': ('conclusion', _angle_probability),
    'corollary_3_1': ('conclusion', _corollary),
}


# ------------------------------------------------------------------ the report


def _correct_for_multiplicity(layers: list[LayerReport]) -> None:
    """Keep 'fails' only where Holm's procedure over the whole report rejects."""
    tested = [
        check
        for layer in layers
        for stage in layer.stages
        for check in stage.checks
        if check.p_value is not None
    ]
    tested.sort(key=lambda check: check.p_value)
    rejecting = True
    for rank, found in enumerate(tested):
        rejecting = rejecting and found.p_value * (len(tested) - rank) < LEVEL
        if found.verdict == FAILS and not rejecting:
            found.verdict = UNDECIDED
            found.reason += f'; not significant among {len(tested)} tests'


def _report(layers: list[LayerReport], known: str) -> Report:
    numbers = sorted({stage.stage for layer in layers for stage in layer.stages})
    summaries = [_summary(layers, number) for number in numbers]
    failing = [
        (layer.layer, stage.stage)
        for layer in layers
        for stage in layer.stages
        if any(c.kind == 'conclusion' and c.verdict == FAILS for c in stage.checks)
    ]
    return Report(
        layers=layers,
        stages=summaries,
        verdict=_sentence(summaries, failing, known),
        exit_code=int(bool(failing)),
        theory=known,
    )


def _summary(layers: list[LayerReport], number: int) -> StageSummary:
    stages = [s for layer in layers for s in layer.stages if s.stage == number]
    states = [stage.state for stage in stages]
    return StageSummary(
        stage=number,
        first_iter=min(stage.first_iter for stage in stages),
        last_iter=max(stage.last_iter for stage in stages),
        lr=float(np.mean([stage.lr for stage in stages])),
        layers=len(stages),
        in_equilibrium=states.count(IN_EQUILIBRIUM),
        states={state: states.count(state) for state in dict.fromkeys(states)},
        median_angular_update_ratio=_median(s.angular_update_ratio for s in stages),
        median_transient_ratio=_median(s.transient_ratio for s in stages),
    )


def _median(values) -> float | None:
    kept = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.median(kept)) if kept else None


def _sentence(
    summaries: list[StageSummary], failing: list[tuple[str, int]], known: str
) -> str:
    if not summaries:
        return 'no layer was measured'
    if known not in ('sgd', 'adamw'):
        return 'no theory for this optimizer: nothing to hold the records against'
    last = summaries[-1]
    parts = [
        f'{last.in_equilibrium} of {last.layers} layers in equilibrium at the end of '
        f'stage {last.stage}'
    ]
    parts += [
        f'{count} {state}'
        for state, count in last.states.items()
        if state != IN_EQUILIBRIUM
    ]
    if failing:
        count = len({layer for layer, _ in failing})
        parts.append(f'the theory fails in {count} layer{"s" * (count != 1)}')
    else:
        parts.append('no conclusion of the theory fails')
    return '; '.join(parts)


def _shapes(records: Records) -> dict[str, list[int]]:
    """Shape of each layer, from its first row."""
    table, shapes = records.table, {}
    if 'shape' not in table.column_names:
        return shapes
    # The first window holds every layer, so a few rows tell.
    head = table.slice(0, 4096)
    for name, shape in zip(
        head['layer'].to_pylist(), head['shape'].to_pylist(), strict=True
    ):
        shapes.setdefault(name, shape)
    return shapes


def _plain(value):
    """JSON-able: NaN and infinity become None, numpy numbers Python's."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value
