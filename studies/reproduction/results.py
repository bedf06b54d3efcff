"""What finished runs came to: their records, verdicts and scores."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from smd_mmdet.checks import LayerReport, StageReport
from smd_mmdet.report.run import Run, read_run
from smd_mmdet.report.scores import read_scores

from .experiments import Experiment
from .spread import Spread
from .training import Task, tasks_of

__all__ = [
    'Result',
    'Results',
    'check_counts',
    'grouped',
    'kinds',
    'over_time',
    'read_results',
]


@dataclass
class Result:
    """A finished run.

    Args:
        task: Which run it is.
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
        """Numbers of the stages after warm-up that any run has."""
        stages = (s for result in self.runs for s in result.run.report.stages)
        return sorted({stage.stage for stage in stages if stage.stage >= 0})

    def stages(self, number: int | None = None) -> list[tuple[str, StageReport]]:
        """The same as :meth:`Result.stages`, of all runs together."""
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
        experiments: Experiments to look for.
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


def over_time(results: Results, edges: Sequence[int]) -> list[Spread]:
    """Δ_rms/Δ* of all layers and seeds in spans of iterations.

    Args:
        results: The finished runs of an experiment.
        edges: Iterations between which the spans lie. A span holds the windows that
            end above its lower edge and not above its upper one.

    Returns:
        A spread for each span, one fewer than there are edges.
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


def grouped(results: Sequence[Results]) -> dict[str, list[Results]]:
    """The experiments by model and data set."""
    groups: dict[str, list[Results]] = {}
    for each in results:
        groups.setdefault(each.experiment.group, []).append(each)
    return groups


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
