"""Compare runs: a plain and a rescaled one, say."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from smd_mmdet.checks import StageReport
from smd_mmdet.records import read_records

from . import write_files
from .run import Reader, Run, read_run

__all__ = ['Comparison', 'Row', 'RunSummary', 'StageComparison', 'compare']


@dataclass
class RunSummary:
    """One of the runs compared.

    Args:
        name: Name of the run's folder, after as many of its parents as it takes to
            tell the runs apart.
        work_dir: Path of the folder as it was given.
        verdict: What the checks say of the run, in one sentence.
        iterations: The last iteration that was measured.
        layers: Number of layers that were measured.
        scores: The last and the best value of each metric, with their iterations.
    """

    name: str
    work_dir: str
    verdict: str
    iterations: int
    layers: int
    scores: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass
class Row:
    """A number of every run, None where a run has none.

    Args:
        what: What the numbers are: a metric, or a layer.
        values: One number per run, in the order the runs were given.

    Attributes:
        differences: Each number less that of the first run.
    """

    what: str
    values: list[float | None]
    differences: list[float | None] = field(init=False)

    def __post_init__(self) -> None:
        first = self.values[0]
        self.differences = [
            None if first is None or value is None else value - first
            for value in self.values
        ]


@dataclass
class StageComparison:
    """What the runs did in one stage.

    Args:
        stage: Number of the stage.
        lr: Learning rate of each run in it.
        rows: The median of Δ/Δ* and of ‖w‖/w*, the number of layers in equilibrium;
            where Δ was set, of how many layers, and how often it came near; and where a
            run clipped gradients the share of clipped steps.
    """

    stage: int
    lr: list[float | None]
    rows: list[Row]


@dataclass
class Comparison:
    """Runs beside one another.

    Args:
        runs: The runs in the order they were given; differences are from the first.
        stages: What the runs did in each stage.
        scores: The last value of each metric.
        layers: Δ/Δ* of each layer at the end, the layers that differ most first.
        files: Paths of the figures that were written.
    """

    runs: list[RunSummary]
    stages: list[StageComparison]
    scores: list[Row]
    layers: list[Row]
    files: list[str] = field(default_factory=list)

    def to_dict(self) -> dict:
        """Plain values that JSON can hold: no NaN, and no arrays."""
        return asdict(self)


def compare(
    work_dirs: Sequence[str | os.PathLike],
    out: str | os.PathLike | None = None,
    read: Reader = read_records,
) -> Comparison:
    """Compare runs, and draw them over one another.

    Args:
        work_dirs: Folders of at least two runs, which have ``smd/*.parquet``.
        out: Folder for the figures. None is ``compare`` in the first run's folder.
        read: Reads the records of a folder.

    Returns:
        The comparison.

    Raises:
        RecordsError: If a run has no records, or they cannot be read.
        ValueError: If there are fewer than two runs, or one is given twice.
        OSError: If a figure cannot be written.
    """
    from .overlay import draw_overlays

    if len(work_dirs) < 2:
        raise ValueError('give at least two runs to compare')
    paths = [Path(work_dir) for work_dir in work_dirs]
    names = _names(paths)
    runs = [read_run(path, read) for path in paths]
    scores = [run.scores for run in runs]
    for run, name in zip(runs, names, strict=True):
        run.name = name
    comparison = Comparison(
        runs=[_summary(*each) for each in zip(runs, paths, scores, strict=True)],
        stages=_stages(runs),
        scores=_scores(scores),
        layers=_layers(runs),
    )
    figures = draw_overlays(runs, scores)
    folder = paths[0] / 'compare' if out is None else Path(out)
    comparison.files = [str(path) for path in write_files(folder, figures)]
    return comparison


def _names(paths: list[Path]) -> list[str]:
    """The ends of the paths, as long as it takes to tell them apart."""
    full = [path.resolve() for path in paths]
    for path in full:
        if full.count(path) > 1:
            raise ValueError(f'{path}: given twice')
    depth = 1
    while True:
        names = ['/'.join(path.parts[-depth:]) for path in full]
        if len(set(names)) == len(names):
            return names
        depth += 1


def _summary(run: Run, path: Path, scores: dict[str, dict[int, float]]) -> RunSummary:
    return RunSummary(
        name=run.name,
        work_dir=str(path),
        verdict=run.report.verdict,
        iterations=run.last_iter,
        layers=len(run.layers),
        scores={name: _score(values) for name, values in scores.items()},
    )


def _score(values: dict[int, float]) -> dict[str, float]:
    best = max(values, key=values.__getitem__)
    last = max(values)
    return {
        'last': values[last],
        'last_iter': last,
        'best': values[best],
        'best_iter': best,
    }


def _stages(runs: list[Run]) -> list[StageComparison]:
    numbers = sorted(
        {s.stage for run in runs for s in run.report.stages if s.stage >= 0}
    )
    return [_stage(runs, number) for number in numbers]


def _stage(runs: list[Run], number: int) -> StageComparison:
    found = [_stages_of(run, number) for run in runs]
    summaries = [
        next((s for s in run.report.stages if s.stage == number), None) for run in runs
    ]
    clipped = [_finite(each.clipped_share) if each else None for each in summaries]
    held: list[float | None] = [each.controlled if each else None for each in summaries]
    near = [_finite(each.wanted_share) if each else None for each in summaries]
    return StageComparison(
        stage=number,
        lr=[_finite(summary.lr) if summary else None for summary in summaries],
        rows=[
            Row('median Δ/Δ*', [_median(s, 'angular_update_ratio') for s in found]),
            Row('median ‖w‖/w*', [_median(s, 'weight_norm_ratio') for s in found]),
            Row(
                'layers in equilibrium',
                [summary.in_equilibrium if summary else None for summary in summaries],
            ),
            *([Row('layers whose Δ is set', held)] if any(held) else []),
            *([Row('share near the wanted Δ', near)] if any(held) else []),
            *([Row('share of clipped steps', clipped)] if any(clipped) else []),
        ],
    )


def _stages_of(run: Run, number: int) -> list[StageReport]:
    stages = (stage for layer in run.report.layers for stage in layer.stages)
    return [stage for stage in stages if stage.stage == number]


def _median(stages: list[StageReport], name: str) -> float | None:
    values = [v for s in stages if (v := _finite(getattr(s, name))) is not None]
    return float(np.median(values)) if values else None


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


def _scores(scores: list[dict[str, dict[int, float]]]) -> list[Row]:
    names = list(dict.fromkeys(name for each in scores for name in each))
    # The headline first: mAP before mAP_50 and mAP_s.
    names.sort(key=lambda name: not name.endswith('AP'))
    return [
        Row(
            name,
            [each[name][max(each[name])] if name in each else None for each in scores],
        )
        for name in names
    ]


def _layers(runs: list[Run]) -> list[Row]:
    ends = [
        {
            layer.layer: _finite(layer.stages[-1].angular_update_ratio)
            for layer in run.report.layers
        }
        for run in runs
    ]
    names = dict.fromkeys(name for end in ends for name in end)
    rows = [Row(name, [end.get(name) for end in ends]) for name in names]
    return sorted(rows, key=_spread, reverse=True)


def _spread(row: Row) -> float:
    return max((abs(d) for d in row.differences if d is not None), default=-1.0)
