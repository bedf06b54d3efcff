"""docs/fall.md, from whatever is finished."""

from collections.abc import Sequence
from pathlib import Path

from ..documents import write_document
from ..origin import origin
from ..reproduction.check_tables import conclusion_table
from ..reproduction.experiments import Experiment
from ..reproduction.page import what_was_run
from ..reproduction.results import grouped, read_results
from .changes import changes, fall_claim, fall_figure, fall_table, leads
from .experiments import EXPERIMENTS

__all__ = ['write_page']

# The folder of the figures, beside the page.
IMAGES = Path('images', 'fall')

INTRODUCTION = """\
One command, `python -m studies.fall`, trains, measures and writes this page. An
interrupted call goes on the next time; `--list` tells what there is, `--only` chooses,
`--page` writes the page from what is finished. `NUCLEI_ROOT` says where the nuclei of
[the other runs on real images](real_images.md) are. The crops are 6,000 and 1,500
squares cut from them, which show background, border or inside of a nucleus in their
middle."""

FALL_TEXT = """\
The second stage lasts five relaxation times of ‖w‖⁴. *Early* is the first of them
after the drop, *late* the last. The change is that of each seed, its interval a 95 % t
interval over seeds.

Two things move the score: a larger Δ costs accuracy by its noise, and every iteration
adds what the network still learns. The second can hide the first in networks as small
and as short of training as these. Rescaled runs learn alike, with Δ at the new Δ* from
the drop on. So *plain − rescaled* tells what the climb alone does: where plain runs
lead early and no longer late, the climb has cost what the small Δ had brought."""

CONCLUSIONS = """\
In how many layer stages of all runs each conclusion of the theory holds / fails / is
undecided / does not apply. Linear convergence is held against the exact rate of decay.
At λη = 2e-3 that is 17 % above 4λη/(1−α), which is its first order."""


def write_page(
    root: Path, out: Path, experiments: Sequence[Experiment] = EXPERIMENTS
) -> None:
    """Write the page and its figures.

    Args:
        root: Folder of the runs.
        out: File of the page; figures go to images/fall beside it.
        experiments: Experiments that belong on the page.

    Raises:
        RecordsError: If the records of a finished run cannot be read.
        OSError: If a file cannot be written.
    """
    results = read_results(experiments, root)
    done = [each for each in results if each.runs]
    found = [change for each in done for change in changes(each)]
    images: dict[str, bytes] = {}
    parts = ['# Does the score fall as Δ climbs?', origin('python -m studies.fall')]
    parts += filter(None, [fall_claim(found)])
    parts += ['## What was run', INTRODUCTION, what_was_run(results)]
    if done:
        table = fall_table([*found, *leads(found)])
        parts += ['## Early and late in the second stage', FALL_TEXT, table]
    for name, pair in grouped(done).items():
        file = f'{pair[0].experiment.name}.png'
        images[file] = fall_figure(pair)
        parts.append(f'![Δ, score and loss of {name}]({(IMAGES / file).as_posix()})')
    if done:
        parts += ['## Conclusions by model', CONCLUSIONS, conclusion_table(done)]
    write_document(out, parts, IMAGES, images)
