"""docs/reproduction.md, from whatever is finished."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from smd_mmdet import checks
from smd_mmdet.report import write_files
from smd_mmdet.report.words import plural

from ..markdown import table
from . import theorems
from .cells import METRICS, metrics_of, per_cent_of, spread
from .comparison import Paired, compared_with, paired
from .experiments import EXPERIMENTS, Experiment
from .model_section import IMAGES, model_section
from .results import Results, read_results
from .spread import Spread
from .theorem_section import theorem_section

__all__ = ['write_page']

INTRODUCTION = """\
# The paper's claims, in miniature

Every number and figure here is made by one command from runs that it trains itself,
on two CPU cores:

```bash
bash tools/reproduce.sh
```

An interrupted call goes on the next time; `--quick` does the first seed of the main
runs only; `--page` writes this page from what is finished. The models are small and
see few pictures, so their scores say nothing about detectors on COCO. What is tested is
the motion of their weights, by the same code that measures large ones. Scale-invariant
weights decay faster than usual, so that equilibrium comes within hundreds of
iterations (the configs tell how fast); Δ* is that much larger."""

READING = """\
Δ_rms/Δ*, ‖w‖/w* and the transient law Δ_rms/Δ*·(‖w‖/w*)² are those of the last third
of each stage (of 200 iterations at least, of half the stage at most), as `smd check`
computes them: median, and lowest to highest, over all layers of all seeds. Scores are
in per cent, mean ± standard deviation over seeds. Paired differences are seed by seed;
plain and rescaled runs of a seed are the same run until the first drop of the rate.
Their intervals are 95 % t intervals, each on its own: among many, one in twenty is
beyond 0 by chance."""


def write_page(
    root: Path,
    out: Path,
    experiments: Sequence[Experiment] = EXPERIMENTS,
    walks: int = 400,
) -> None:
    """Write the page and its figures.

    Args:
        root: Folder of the runs.
        out: File of the page; figures go to images/reproduction beside it.
        experiments: Experiments that belong on the page.
        walks: Random walks in each row of the theorems' tables; 0 leaves them out.

    Raises:
        RecordsError: If the records of a finished run cannot be read.
        OSError: If a file cannot be written.
    """
    results = read_results(experiments, root)
    groups: dict[str, list[Results]] = {}
    for each in results:
        groups.setdefault(each.experiment.group, []).append(each)
    parts = [INTRODUCTION, _done(results)]
    if any(each.runs for each in results):
        parts += ['## In short', _in_short(results), '## How to read it', READING]
    images: dict[str, bytes] = {}
    for name, members in groups.items():
        if any(each.runs for each in members):
            section = model_section(members)
            parts += [f'## {name}', *section.paragraphs]
            images.update(section.images)
    if walks:
        found, dropped = theorems.equilibria(walks), theorems.drops(walks)
        parts += theorem_section(found, dropped, walks)
    write_files(out.parent / IMAGES, images)
    write_files(out.parent, {out.name: ('\n\n'.join(parts) + '\n').encode()})


def _done(results: Sequence[Results]) -> str:
    """Which runs the page rests on, and which are not done."""
    wanted = sum(each.experiment.seeds for each in results)
    done = sum(len(each.runs) for each in results)
    rows = [
        (
            each.experiment.group,
            each.experiment.title,
            f'`{each.experiment.config}`',
            f'{len(each.runs)} of {each.experiment.seeds}' if each.runs else 'not done',
        )
        for each in results
    ]
    head = f'{done} of {wanted} runs are done.'
    if not done:
        return head
    return f'{head}\n\n' + table(('model', 'run', 'config', 'seeds done'), rows)


def _in_short(results: Sequence[Results]) -> str:
    """A list of what the comparisons and the first stages came to."""
    items = []
    for each in results:
        other = compared_with(each, results)
        if other is not None:
            items += _compared(other, each)
    items += [_reached(each) for each in results if each.runs]
    return '\n'.join(f'- {item}' for item in items)


def _reached(results: Results) -> str:
    """A sentence on an experiment's first stage, and on the theory over all stages."""
    first = results.stage_numbers[0] if results.stage_numbers else 0
    reports = [report for _, report in results.stages(first)]
    there = sum(report.state == checks.IN_EQUILIBRIUM for report in reports)
    failing = sum(bool(report.failing) for _, report in results.stages())
    law = Spread.of(report.transient_ratio for _, report in results.stages())
    angle = Spread.of(report.angular_update_ratio for report in reports)
    experiment = results.experiment
    layers, seeds = plural(len(reports), 'layer'), plural(len(results.runs), 'seed')
    return (
        f'{experiment.group}, {experiment.title}: in stage {first}, {there} of '
        f'{layers} ({seeds}) in equilibrium, Δ_rms/Δ* {spread(angle)}; over all stages '
        f'the transient law at {spread(law)}, and a conclusion of the theory fails in '
        f'{failing} of {len(results.stages())} layer stages.'
    )


def _compared(first: Results, second: Results) -> list[str]:
    """Sentences on the angular update and the final scores of two experiments."""
    group = second.experiment.group
    titles = first.experiment.title, second.experiment.title
    common = [n for n in second.stage_numbers if n in first.stage_numbers]
    later = common[1:] or common
    items = []
    for stage in later:
        angles = [
            Spread.of(report.angular_update_ratio for _, report in each.stages(stage))
            for each in (first, second)
        ]
        items.append(
            f'{group}, stage {stage}: Δ_rms/Δ* {spread(angles[0])} ({titles[0]}), '
            f'{spread(angles[1])} ({titles[1]}).'
        )
    pairs = paired(first, second)
    for metric in metrics_of(second):
        known = [pair for pair in pairs if pair.metric == metric]
        if known:
            last = max(known, key=lambda pair: pair.iteration)
            items.append(
                f'{group}, {METRICS[metric]} at the end, {titles[1]} against '
                f'{titles[0]}: {_difference(last)}.'
            )
    return items


def _difference(pair: Paired) -> str:
    per_cent = per_cent_of(pair.metric)
    text = f'{per_cent * pair.mean:+.1f} over {plural(len(pair.differences), "seed")}'
    if np.isfinite(pair.p_value):
        low, high = (per_cent * bound for bound in pair.interval)
        text += f' (95 %: {low:+.1f} to {high:+.1f}, p = {pair.p_value:.2g})'
    return f'{text}, {pair.verdict}'
