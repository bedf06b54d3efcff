"""What finished runs came to: records, verdicts and scores, reduced to numbers."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from smd_mmdet.checks import LayerReport, StageReport
from smd_mmdet.report.run import Run, read_run
from smd_mmdet.report.scores import read_scores

from .experiments import Experiment
from .training import Task, tasks_of

LEVEL = 0.05


@dataclass
class Result:
    """A finished run.

    Args:
        task: Which run.
        run: Its records, and the verdicts on them.
        scores: For each metric its value by iteration.
    """

    task: Task
    run: Run
    scores: dict[str, dict[int, float]]

    def stages(self, number: int | None = None) -> Iterator[tuple[str, StageReport]]:
        """Name and report of every layer in a stage, or in all after warm-up."""
        for layer in self.run.report.layers:
            for stage in layer.stages:
                if stage.stage == number or (number is None and stage.stage >= 0):
                    yield layer.layer, stage


@dataclass
class Results:
    """All runs of an experiment that are finished, by seed."""

    experiment: Experiment
    runs: list[Result]

    @property
    def stage_numbers(self) -> list[int]:
        """After warm-up."""
        stages = (s for result in self.runs for s in result.run.report.stages)
        return sorted({stage.stage for stage in stages if stage.stage >= 0})

    def stages(self, number: int | None = None) -> list[tuple[str, StageReport]]:
        """Of all runs."""
        return [pair for result in self.runs for pair in result.stages(number)]

    def angle_eq(self, stage: int) -> float:
        """Δ* of a stage, the median over layers and windows; NaN without theory."""
        layers = (layer for result in self.runs for layer in result.run.layers)
        values = np.concatenate([each.angle_eq[each.stage == stage] for each in layers])
        known = values[np.isfinite(values)]
        return float(np.median(known)) if len(known) else np.nan

    def scores(self) -> dict[str, dict[int, list[float]]]:
        """For each metric its values by iteration, one per run that has one."""
        found: dict[str, dict[int, list[float]]] = {}
        for result in self.runs:
            for metric, values in result.scores.items():
                for iteration, value in values.items():
                    found.setdefault(metric, {}).setdefault(iteration, []).append(value)
        return found


def read_results(experiments: Sequence[Experiment], root: Path) -> list[Results]:
    """Read what is finished.

    Args:
        experiments: All of them.
        root: Folder of the runs.

    Returns:
        An entry per experiment, without runs where none is finished.

    Raises:
        RecordsError: If the records of a finished run cannot be read.
    """
    found = {experiment.name: Results(experiment, []) for experiment in experiments}
    for task in tasks_of(experiments, root):
        if task.state == 'finished':
            run = read_run(task.folder)
            scores = read_scores(task.folder, run.metadata.get('started'))
            result = Result(task, run, scores)
            found[task.experiment.name].runs.append(result)
    return list(found.values())


# ------------------ over layers and seeds


@dataclass(frozen=True)
class Spread:
    """Median and range of a ratio over layers and seeds; NaN where there is none."""

    median: float
    low: float
    high: float
    number: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> 'Spread':
        kept = [v for v in values if v is not None and np.isfinite(v)]
        if not kept:
            return cls(np.nan, np.nan, np.nan, 0)
        return cls(float(np.median(kept)), min(kept), max(kept), len(kept))


def over_time(results: Results, edges: Sequence[int]) -> list[Spread]:
    """Δ_rms/Δ* of all layers and seeds in spans of iterations.

    Args:
        results: Of an experiment.
        edges: Of the spans; each holds the windows that end above its lower edge and
            not above its upper.
    """
    spans = []
    for low, high in pairwise(edges):
        ratios = []
        for layer in (layer for result in results.runs for layer in result.run.layers):
            inside = (layer.iter > low) & (layer.iter <= high) & (layer.count > 0)
            if inside.any():
                weights = layer.count[inside]
                square = np.average(layer.ratio[inside] ** 2, weights=weights)
                ratios.append(np.sqrt(square))
        spans.append(Spread.of(ratios))
    return spans


# ------------------ against another


@dataclass(frozen=True)
class Paired:
    """A score in two experiments, seed by seed.

    Args:
        metric: Of the score.
        iteration: Of the validation.
        differences: One per seed that both have.
        mean: Of them.
        interval: 95 % t interval of the mean; NaN for fewer than two seeds.
        p_value: Of no difference, two-sided.
    """

    metric: str
    iteration: int
    differences: tuple[float, ...]
    mean: float
    interval: tuple[float, float]
    p_value: float

    @property
    def verdict(self) -> str:
        """In words, saying no more than the seeds allow."""
        if not any(self.differences):
            return 'identical'
        if len(self.differences) < 2:
            return 'one seed: no interval'
        if not np.isfinite(self.p_value):
            return 'alike in all seeds: no interval'
        return 'significant' if self.p_value < LEVEL else 'not significant'


def compared_with(results: Results, all_of_them: Sequence[Results]) -> Results | None:
    """What an experiment is compared with, if runs of both are finished."""
    for other in all_of_them:
        if other.experiment.name == results.experiment.against:
            return other if other.runs and results.runs else None
    return None


def paired(first: Results, second: Results) -> list[Paired]:
    """Differences of every score, second minus first, by metric and iteration."""
    by_seed = {result.task.seed: result for result in first.runs}
    pairs = [(by_seed[r.task.seed], r) for r in second.runs if r.task.seed in by_seed]
    found: dict[tuple[str, int], list[float]] = {}
    for before, after in pairs:
        for metric, values in after.scores.items():
            known = before.scores.get(metric, {})
            for iteration in values.keys() & known.keys():
                difference = values[iteration] - known[iteration]
                found.setdefault((metric, iteration), []).append(difference)
    return [_paired(*key, found[key]) for key in sorted(found)]


def _paired(metric: str, iteration: int, differences: list[float]) -> Paired:
    interval, p_value = (np.nan, np.nan), np.nan
    if len(differences) > 1 and np.ptp(differences) > 0:
        test = stats.ttest_1samp(differences, 0.0)
        p_value = float(test.pvalue)
        low, high = test.confidence_interval(1 - LEVEL)
        interval = float(low), float(high)
    mean = float(np.mean(differences))
    return Paired(metric, iteration, tuple(differences), mean, interval, p_value)


# ------------------ where theory and measurement part


@dataclass
class Parting:
    """A layer's stage in which a conclusion fails or the theory does not apply.

    Args:
        experiment: Title of the experiment.
        layer: Name.
        stage: Number.
        reports: Of the runs in which that is so.
        noise: Of the median of them.
    """

    experiment: str
    layer: str
    stage: int
    reports: list[StageReport]
    noise: 'Noise'

    @property
    def seeds(self) -> int:
        return len(self.reports)

    @property
    def distance(self) -> float:
        """|ln Δ/Δ*| of the furthest run."""
        return max(distance(report) for report in self.reports)


def distance(report: StageReport) -> float:
    """|ln Δ/Δ*| at the end of a stage; infinite where Δ is not known or 0."""
    ratio = report.angular_update_ratio
    return float(abs(np.log(ratio))) if ratio and np.isfinite(ratio) else np.inf


def partings(results: Results, states: Sequence[str]) -> list[Parting]:
    """Where a conclusion fails, or a layer is in one of some states.

    Args:
        results: Of an experiment.
        states: That count, whatever the verdicts.

    Returns:
        The furthest from equilibrium first.
    """
    found: dict[tuple[str, int], list] = {}
    for result in results.runs:
        for name, report in result.stages():
            if report.failing or report.state in states:
                noise = noise_of(result, name, report.stage)
                found.setdefault((name, report.stage), []).append((report, noise))
    rows = [
        Parting(
            results.experiment.title,
            layer,
            stage,
            [report for report, _ in entries],
            _middle([noise for _, noise in entries]),
        )
        for (layer, stage), entries in found.items()
    ]
    return sorted(rows, key=lambda row: -row.distance)


class Noise(NamedTuple):
    """How far a layer's stage is from what the theorems assume.

    Args:
        cosine: Root mean square cosine of w and g in a window at the stage's end.
        variance: V/L².
        touched: Share of windows in which h̃ was once below 0.
        negative: Share of windows whose mean h̃ is.
    """

    cosine: float
    variance: float
    touched: float
    negative: float


def _middle(noises: Sequence[Noise]) -> Noise:
    return Noise(*(Spread.of(values).median for values in zip(*noises, strict=True)))


def noise_of(result: Result, layer: str, stage: int) -> Noise:
    """The noise of a layer in a stage of a run; NaN where it had no gradient."""
    motion = result.run.layer(layer)
    part = (motion.stage == stage) & (motion.count > 0)
    if not part.any():
        return Noise(*[np.nan] * 4)
    weights, columns = motion.count[part], motion.columns
    mean = columns['unit_h_mean'][part]
    level = np.average(mean, weights=weights)
    end = motion.cosine[part][-max(1, len(mean) // 3) :]
    return Noise(
        float(np.median(end)),
        float(np.average(columns['unit_h_var'][part], weights=weights) / level**2),
        float((columns['unit_h_min'][part] < 0).mean()),
        float((mean < 0).mean()),
    )


def check_counts(results: Results) -> dict[str, Counter[str]]:
    """How often each check came to each verdict, over layers, stages and seeds."""
    counts: dict[str, Counter[str]] = {}
    for result in results.runs:
        for name, row in result.run.report.verdict_counts().items():
            counts.setdefault(name, Counter()).update(row)
    return counts


def kinds(layers: Sequence[LayerReport]) -> dict[str, str]:
    """Whether each check is an assumption or a conclusion."""
    return {
        check.name: check.kind
        for layer in layers
        for stage in layer.stages
        for check in stage.checks
    }
