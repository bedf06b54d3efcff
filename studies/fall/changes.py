"""Does the score fall as Δ climbs back within a long second stage?

After the rate is divided by ten, Δ of a plain run is 0.32 of its new equilibrium and
climbs to it within some relaxation times of ‖w‖⁴. The paper holds that this climb makes
accuracy fall. The score in the first relaxation time after the drop is compared here
with that in the last one of the stage, seed by seed.

A network that still learns may gain more in the stage than the climb costs. Rescaled
runs, whose Δ is at its equilibrium all the while, are the control: what the climb costs
is how much of their lead over them the plain runs lose.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from scipy import stats

from smd_mmdet.report.canvas import COLOURS, INK, entry, head, new_figure, save

from ..markdown import table
from ..reproduction.cells import METRICS, metrics_of, number, per_cent_of
from ..reproduction.results import Result, Results

__all__ = [
    'Change',
    'changes',
    'fall_claim',
    'fall_figure',
    'fall_table',
    'leads',
    'read_losses',
]

LOSS = 'loss'
STAGE = 1


@dataclass(frozen=True)
class Change:
    """A quantity early and late in the second stage, one value per seed.

    Args:
        model: Name of the model.
        title: What was done to it.
        metric: Name of a score in per cent, or 'loss' for the loss in training.
        seeds: The seeds.
        early: Means over the first relaxation time after the drop.
        late: Means over the last one of the stage.
        angles: Δ_rms/Δ* in the two, medians over layers and seeds.
    """

    model: str
    title: str
    metric: str
    seeds: tuple[int, ...]
    early: tuple[float, ...]
    late: tuple[float, ...]
    angles: tuple[float, float]

    @property
    def mean(self) -> float:
        """Late minus early, the mean over seeds."""
        return float(np.mean(np.subtract(self.late, self.early)))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % t interval of :attr:`mean`; NaN for fewer than two seeds."""
        differences = np.subtract(self.late, self.early)
        if len(differences) < 2:
            return np.nan, np.nan
        if np.allclose(differences, self.mean, rtol=1e-9, atol=0):
            return self.mean, self.mean
        test = stats.ttest_1samp(differences, 0.0)
        low, high = test.confidence_interval(0.95)
        return float(low), float(high)

    @property
    def verdict(self) -> str:
        """'falls', 'rises', or that it cannot be told."""
        low, high = self.interval
        if high < 0:
            return 'falls'
        if low > 0:
            return 'rises'
        return 'one seed: no interval' if np.isnan(low) else 'cannot be told'


def relaxation_time(result: Result) -> tuple[int, int, float]:
    """The second stage of a run.

    Returns:
        Its first and last iteration, and the relaxation time (1−α)/(4λη) of ‖w‖⁴ in
        iterations, the median over layers.

    Raises:
        ValueError: If the run has no second stage.
    """
    reports = [report for _, report in result.stages(STAGE)]
    if not reports:
        raise ValueError(f'{result.task.folder} has no second stage')
    folds = []
    for layer in result.run.layers:
        part = layer.stage == STAGE
        rate = 4 * layer.decay[part] * layer.lr[part] / (1 - layer.momentum[part])
        folds.append(1 / np.mean(rate))
    return reports[0].first_iter, reports[0].last_iter, float(np.median(folds))


def changes(results: Results) -> list[Change]:
    """Change of every score, and of the loss, in an experiment with finished runs."""
    metrics = [*metrics_of(results), LOSS]
    found = []
    for metric in metrics:
        pairs = {r.task.seed: _early_and_late(r, metric) for r in results.runs}
        known = {seed: pair for seed, pair in pairs.items() if pair}
        if known:
            early, late = zip(*known.values(), strict=True)
            experiment = results.experiment
            names = experiment.group, experiment.title, metric
            found.append(
                Change(*names, tuple(known), early, late, _angles(results.runs))
            )
    return found


def leads(found: Sequence[Change]) -> list[Change]:
    """How far plain runs are ahead of rescaled ones, of the seeds that both have.

    Args:
        found: Changes of both.

    Returns:
        For each score the difference, early and late; the angles are the plain runs'.
    """
    rescaled = {(c.model, c.metric): c for c in found if c.title == 'rescaled'}
    differences = []
    for plain in found:
        other = rescaled.get((plain.model, plain.metric))
        if plain.title != 'plain' or other is None:
            continue
        common = [seed for seed in plain.seeds if seed in other.seeds]
        if common:
            early, late = (
                tuple(
                    getattr(plain, span)[plain.seeds.index(seed)]
                    - getattr(other, span)[other.seeds.index(seed)]
                    for seed in common
                )
                for span in ('early', 'late')
            )
            names = plain.model, 'plain − rescaled', plain.metric
            differences.append(Change(*names, tuple(common), early, late, plain.angles))
    return differences


def _spans(result: Result) -> tuple[tuple[float, float], tuple[float, float]]:
    """The first and the last relaxation time of the second stage, in iterations."""
    first, last, fold = relaxation_time(result)
    return (first - 1, first - 1 + fold), (last - fold, last)


def _early_and_late(result: Result, metric: str) -> tuple[float, float] | None:
    """A quantity of one run in the two spans; None where one holds no value."""
    series = _series(result, metric)
    means = []
    for low, high in _spans(result):
        inside = [value for i, value in series.items() if low < i <= high]
        if not inside:
            return None
        means.append(float(np.mean(inside)))
    return means[0], means[1]


def _series(result: Result, metric: str) -> dict[int, float]:
    """A quantity by iteration: a score in per cent, or the loss."""
    if metric == LOSS:
        return read_losses(result.task.folder)
    scores = result.scores.get(metric, {})
    return {i: value * per_cent_of(metric) for i, value in scores.items()}


def _angles(runs: Sequence[Result]) -> tuple[float, float]:
    """Median Δ_rms/Δ* of all layers and runs in the two spans."""
    medians = []
    for which in (0, 1):
        ratios = []
        for result in runs:
            low, high = _spans(result)[which]
            for layer in result.run.layers:
                inside = (layer.iter > low) & (layer.iter <= high) & (layer.count > 0)
                if inside.any():
                    ratios.append(np.sqrt(np.nanmean(layer.ratio[inside] ** 2)))
        medians.append(float(np.median(ratios)) if ratios else np.nan)
    return medians[0], medians[1]


def read_losses(work_dir: Path) -> dict[int, float]:
    """The loss in training by iteration, as MMEngine logs it: means of an interval.

    Args:
        work_dir: Folder of the run. Where it was resumed, what was logged last counts.
    """
    found: dict[int, float] = {}
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for text in file.read_text('utf-8').splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue  # the last line of a run that was killed
            if LOSS in line and 'iter' in line:
                found[int(line['iter'])] = float(line[LOSS])
    return dict(sorted(found.items()))


# ------------------------------------------------------------------ what is written


def fall_table(found: Sequence[Change]) -> str:
    """Early against late, a row for each run and quantity."""
    rows = []
    for change in found:
        low, high = change.interval
        early, late = (np.mean(values) for values in (change.early, change.late))
        digits = 3 if change.metric == LOSS else 1
        rows.append(
            (
                *(change.model, change.title, _name(change.metric), len(change.early)),
                ' → '.join(number(angle) for angle in change.angles),
                f'{early:.{digits}f} → {late:.{digits}f}',
                f'{change.mean:+.{digits}f}',
                '–' if np.isnan(low) else f'{low:+.{digits}f} to {high:+.{digits}f}',
                change.verdict,
            )
        )
    head = ('model', 'run', 'quantity', 'seeds', 'Δ_rms/Δ*', 'early → late', 'change')
    return table((*head, '95 %', 'verdict'), rows)


def fall_claim(found: Sequence[Change]) -> str:
    """What the experiment says of the paper's third claim; '' without plain runs."""
    scores = [c for c in found if c.title == 'plain' and c.metric != LOSS]
    if not scores:
        return ''
    fell = [change for change in scores if change.verdict == 'falls']
    verdict = f'seen in {len(fell)} of {len(scores)} scores' if fell else 'did not show'
    if all(np.isnan(change.interval[0]) for change in scores):
        verdict = 'one seed: not decided'
    text = (
        '**Without rescaling the score falls within the second stage, as Δ climbs: '
        f'{verdict}.**'
    )
    ahead = {(lead.model, lead.metric): lead for lead in leads(found)}
    for change in scores:
        text += (
            f' {change.model}: Δ_rms/Δ* climbs from {number(change.angles[0])} to '
            f'{number(change.angles[1])}, {_name(change.metric)} changes by '
            f'{change.mean:+.1f} points{_within(change)}'
        )
        lead = ahead.get((change.model, change.metric))
        if lead is not None:
            early, late = np.mean(lead.early), np.mean(lead.late)
            text += (
                '; its lead over rescaled runs, whose Δ is at the new Δ* all the '
                f'while, goes from {early:+.1f} to {late:+.1f} points, a change of '
                f'{lead.mean:+.1f}{_within(lead)}'
            )
        text += '.'
    return text


def _within(change: Change) -> str:
    low, high = change.interval
    return '' if np.isnan(low) else f' (95 %: {low:+.1f} to {high:+.1f})'


def _name(metric: str) -> str:
    return METRICS.get(metric, metric)


def fall_figure(pair: Sequence[Results]) -> bytes:
    """Δ, score and loss of a plain and a rescaled experiment over one axis of time.

    Args:
        pair: The two, with finished runs; or one of them.

    Returns:
        A PNG. Lines are means over seeds (Δ: medians over layers and seeds), bands
        reach from the lowest seed to the highest.
    """
    figure = new_figure(height=6.5)
    panels: list[Axes] = list(figure.subplots(3, sharex=True))
    # The second stage, and a quarter of its length before it: losses of the first
    # iterations would squeeze all others.
    first, last, _ = relaxation_time(pair[0].runs[0])
    begin = first - (last - first) / 4
    for results in pair:
        colour = _colour(results)
        _draw_angles(panels[0], results.runs, colour, begin)
        for axes, metric in zip(panels[1:], [_score(pair), LOSS], strict=True):
            series = [_series(result, metric) for result in results.runs]
            _draw_band(axes, [s for s in series if s], colour, begin)
    _draw_equilibrium(panels[0], pair[0].runs[0])
    labels = ('Δ, rad per iteration', _name(_score(pair)), 'loss in training')
    for axes, label in zip(panels, labels, strict=True):
        axes.set_ylabel(label)
        axes.axvline(first, color=INK, lw=0.6, ls=':')
    panels[0].set_yscale('log')
    panels[0].set_xlim(begin, last)
    panels[-1].set_xlabel('iteration')
    lines = [entry(each.experiment.title, _colour(each)) for each in pair]
    head(figure, pair[0].experiment.group, [*lines, entry('Δ*', INK, style='--')])
    return save(figure, dpi=90)


def _colour(results: Results) -> str:
    return COLOURS[0] if results.experiment.against else COLOURS[1]


def _score(pair: Sequence[Results]) -> str:
    return metrics_of(pair[0])[0]


def _draw_band(
    axes: Axes, series: Sequence[dict[int, float]], colour: str, begin: float
) -> None:
    """The mean over seeds, and their range, where all seeds have a value."""
    if not series:
        return
    common = set.intersection(*map(set, series))
    shown = sorted(i for i in common if i >= begin)
    values = np.array([[each[i] for i in shown] for each in series])
    axes.plot(shown, values.mean(0), color=colour, lw=1.3)
    axes.fill_between(shown, values.min(0), values.max(0), color=colour, alpha=0.15)


def _draw_angles(axes: Axes, runs: Iterable[Result], colour: str, begin: float) -> None:
    medians = []
    for result in runs:
        layers = [layer for layer in result.run.layers if len(layer.iter)]
        angles = np.array([layer.angle for layer in layers])
        medians.append(
            dict(zip(layers[0].iter.tolist(), np.nanmedian(angles, 0), strict=True))
        )
    _draw_band(axes, medians, colour, begin)


def _draw_equilibrium(axes: Axes, result: Result) -> None:
    layer = result.run.layers[0]
    axes.step(layer.iter, layer.angle_eq, color=INK, ls='--', lw=0.8, where='pre')
