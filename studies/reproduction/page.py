"""docs/reproduction.md, from whatever is finished."""

from collections.abc import Sequence
from pathlib import Path

from ..documents import write_document
from ..markdown import table
from ..origin import origin
from . import theorems
from .experiments import EXPERIMENTS, Experiment
from .model_section import IMAGES, model_section
from .results import Results, grouped, read_results
from .summary import summaries, summary
from .theorem_section import theorem_section

__all__ = ['what_was_run', 'write_page']

TITLE = "# The paper's claims, in miniature"

INTRODUCTION = """\
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
    parts = [TITLE, origin('bash tools/reproduce.sh')]
    if any(each.runs for each in results):
        parts += summary(summaries(results))
    parts += ['## What was run', INTRODUCTION, what_was_run(results)]
    if any(each.runs for each in results):
        parts += ['## How to read it', READING]
    images: dict[str, bytes] = {}
    for name, members in grouped(results).items():
        if any(each.runs for each in members):
            section = model_section(members)
            parts += [f'## {name}', *section.paragraphs]
            images.update(section.images)
    if walks:
        found, dropped = theorems.equilibria(walks), theorems.drops(walks)
        parts += theorem_section(found, dropped, walks)
    write_document(out, parts, IMAGES, images)


def what_was_run(results: Sequence[Results]) -> str:
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
