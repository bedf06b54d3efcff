"""docs/real_images.md, from whatever is finished."""

from collections.abc import Sequence
from pathlib import Path

from ..documents import write_document
from ..markdown import table
from ..origin import origin
from ..reproduction.cells import score
from ..reproduction.check_tables import (
    assumption_table,
    check_table,
    conclusion_table,
    parting_table,
)
from ..reproduction.experiments import Experiment
from ..reproduction.model_section import gallery
from ..reproduction.motion_tables import noise_table, stage_table
from ..reproduction.page import what_was_run
from ..reproduction.results import Results, grouped, read_results
from ..reproduction.score_tables import paired_table, score_table
from ..reproduction.summary import summaries, summary
from .experiments import EXPERIMENTS

__all__ = ['write_page']

# The folder of the figures, beside the page.
IMAGES = Path('images', 'real_images')

INTRODUCTION = """\
One command, `python -m studies.real_images`, trains, measures and writes this page. An
interrupted call goes on the next time; `--list` tells what there is, `--only` chooses,
`--quick` does the first seed of the main runs, `--page` writes the page from what is
finished. `NUCLEI_ROOT` and `COCO_ROOT` say where the data are. The nuclei are those of
the 2018 Data Science Bowl (BBBC038, stage 1), of which
`python tools/dataset_converters/nuclei.py stage1_train data/nuclei` makes COCO
annotations; the runs here took a version whose annotations its community has corrected,
541 images to train and 100 to validate. COCO is taken as it is; here it was the first
128 images of train2017, 24 of which validate."""

LIMITS = """\
The models are ResNet-18s a quarter as wide as usual, or an eighth; they see a few
thousand crops on two CPU cores, and their scale-invariant weights decay 150 to 400
times as fast as COCO's, so that equilibrium takes hundreds of iterations in place of
tens of thousands. So Δ* is larger than in any detector that is used, and a score here
tells of noise at that Δ, not of the accuracy that rescaling brings or costs on COCO. On
COCO itself 128 images and 40 iterations show that the measurement works there: the
gradients are at right angles to the weights (Lemma 1) to the digits of float32. For
verdicts they are too few; an equilibrium takes 12,500 iterations an e-fold, and a
detector that has seen so little finds nothing, so that there is no AP. The paper's own
comparison needs COCO, eight GPUs and days; its configs are in [coco.md](coco.md)."""

CONCLUSIONS = """\
In how many layer stages of all runs each conclusion of the theory holds / fails / is
undecided / does not apply. Where a stage is too short, equilibrium does not apply."""

# The third claim has a study of its own.
FALL = (
    '**Without rescaling the score falls within the second stage, as Δ climbs:** these '
    'second stages are too short for it; [a page of its own](fall.md) has long ones.'
)


def write_page(
    root: Path, out: Path, experiments: Sequence[Experiment] = EXPERIMENTS
) -> None:
    """Write the page and its figures.

    Args:
        root: Folder of the runs.
        out: File of the page; figures go to images/real_images beside it.
        experiments: Experiments that belong on the page.

    Raises:
        RecordsError: If the records of a finished run cannot be read.
        OSError: If a file cannot be written.
    """
    results = read_results(experiments, root)
    done = [each for each in results if each.runs]
    coco = [each for each in done if each.experiment.name.startswith('coco_')]
    nuclei = [each for each in done if each not in coco]
    images: dict[str, bytes] = {}
    parts = ['# On real images', origin('python -m studies.real_images')]
    if nuclei:
        parts += summary(summaries(nuclei), FALL)
    parts += ['## What was run', INTRODUCTION, what_was_run(results)]
    parts += ['## What this cannot show', LIMITS]
    if done:
        parts += ['## Conclusions by model', CONCLUSIONS, conclusion_table(done)]
    for name, members in grouped([*nuclei, *coco]).items():
        parts += [f'## {name}', *_section(members, images)]
    write_document(out, parts, IMAGES, images)


def _section(members: Sequence[Results], images: dict[str, bytes]) -> list[str]:
    """What is shown of one model."""
    figures = gallery(members, IMAGES)
    images.update(figures.images)
    titled = {
        'Motion at the end of each stage': stage_table(members),
        'Scores': _with_ap50(members),
        'One against the other': paired_table(members),
        'Checks': check_table(members),
        'Assumptions that fail, and by how much': assumption_table(members),
        'Noise': noise_table(members),
        'Where theory and measurement part': parting_table(members),
    }
    parts = [paragraph for paragraph in figures.paragraphs if paragraph]
    for title, text in titled.items():
        if text:
            parts += [f'### {title}', text]
    return parts


def _with_ap50(members: Sequence[Results]) -> str:
    """The scores, and below them AP at an overlap of one half, at the end."""
    rows = []
    for each in members:
        for kind in ('bbox', 'segm'):
            metric = f'coco/{kind}_mAP_50'
            values = each.scores().get(metric)
            if values:
                last = max(values)
                name = {'bbox': 'box AP50', 'segm': 'mask AP50'}[kind]
                cells = name, f'{last:,}', score(metric, values[last])
                rows.append((each.experiment.title, *cells))
    tables = score_table(members), table(('run', 'score', 'iteration', 'value'), rows)
    return '\n\n'.join(filter(None, tables))
