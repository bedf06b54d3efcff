"""Runs beside one another: plain and rescaled, say."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from smd_mmdet.checks import StageReport
from smd_mmdet.stages import stage_name

from . import write_files
from .run import Run, read_run
from .scores import read_scores

__all__ = ['Comparison', 'compare', 'render_comparison']

_MOST_LAYERS = 12


@dataclass
class RunSummary:
    """One of the runs compared.

    Args:
        name: Its folder, with as many of its parents as tell the runs apart.
        verdict: Of its checks, in one sentence.
        iterations: Measured.
        layers: Measured.
        scores: For each metric its last value, its best, and where that was.
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
        what: What is compared.
        values: One per run, in the order they were given.
        differences: From the first run.
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
    """A stage of the runs; ``rows`` are Δ/Δ*, ‖w‖/w* and layers in equilibrium."""

    stage: int
    lr: list[float | None]
    rows: list[Row]


@dataclass
class Comparison:
    """Runs beside one another.

    Args:
        runs: In the order they were given; differences are from the first.
        stages: What the layers did in each stage.
        scores: The last value of each metric.
        layers: Δ/Δ* of each layer at the end, the layers that differ most first.
        files: The figures written.
    """

    runs: list[RunSummary]
    stages: list[StageComparison]
    scores: list[Row]
    layers: list[Row]
    files: list[str] = field(default_factory=list)

    def to_dict(self) -> dict:
        """Plain values, ready for JSON: no NaN, no numpy."""
        return asdict(self)


def compare(
    work_dirs: Sequence[str | os.PathLike], out: str | os.PathLike | None = None
) -> Comparison:
    """Compare runs, and draw them over one another.

    Args:
        work_dirs: Folders of the runs, which have ``smd/*.parquet``; at least two.
        out: Folder for the figures; ``compare`` in the first run's if none is given.

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
    runs = [read_run(path) for path in paths]
    scores = [
        read_scores(path, run.metadata.get('started'))
        for run, path in zip(runs, paths, strict=True)
    ]
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


# ------------------------------------------------------------------ as tables


def render_comparison(comparison: Comparison) -> RenderableType:
    """Verdicts, stages, scores, and the layers that differ most.

    Args:
        comparison: Of :func:`compare`.

    Returns:
        Something rich prints.
    """
    parts: list[RenderableType] = [
        Text.assemble((f'{run.name}: ', 'bold'), run.verdict) for run in comparison.runs
    ]
    for stage in comparison.stages:
        rates = dict.fromkeys(f'{lr:.3g}' for lr in stage.lr if lr is not None)
        title = f'{stage_name(stage.stage).capitalize()}, lr {" and ".join(rates)}'
        parts.append(_table(title, comparison.runs, stage.rows))
    if comparison.scores:
        title = 'Scores of the last validation'
        parts.append(_table(title, comparison.runs, comparison.scores))
    if comparison.layers:
        shown = comparison.layers[:_MOST_LAYERS]
        title = f'Δ/Δ* at the end: the {len(shown)} layers that differ most'
        parts.append(_table(title, comparison.runs, shown))
    parts += [Text(f'wrote {path}', style='dim') for path in comparison.files]
    return Group(*parts)


def _table(title: str, runs: list[RunSummary], rows: list[Row]) -> Table:
    table = Table(title=title, title_justify='left', title_style='bold')
    table.add_column('')
    for run in runs:
        table.add_column(escape(run.name), justify='right')
    for row in rows:
        cells = [
            _cell(*pair, first=i == 0)
            for i, pair in enumerate(zip(row.values, row.differences, strict=True))
        ]
        table.add_row(escape(row.what), *cells)
    return table


def _cell(value: float | None, difference: float | None, first: bool) -> str:
    if value is None:
        return '–'
    text = f'{value:.3g}'
    if first or difference is None:
        return text
    return (
        f'{text} ({difference:+.2g})' if f'{difference:.2g}' != '0' else f'{text} (±0)'
    )
