"""docs/control_evidence.md, from whatever is finished."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

from smd_mmdet.report.canvas import STYLE

from ..documents import write_document
from ..markdown import table
from ..origin import origin
from ..reproduction.results import Results, read_results
from ..reproduction.score_tables import score_table
from .experiments import BLOCKS, DETECTORS, TITLES
from .figures import decay_figure, replay_figure, schedule_figure, sweep_figure
from .results import Block, ratios_to_wanted, read_blocks, read_cost
from .runs import BASE, QUESTIONS, STEPS
from .tables import (
    best_table,
    cost_table,
    decay_claim,
    decay_table,
    replay_claim,
    replay_table,
    schedule_claim,
    schedule_table,
    sweep_claim,
)
from .training import WINDOW

__all__ = ['write_page']

# The folder of the figures, beside the page.
IMAGES = Path('images', 'control')

INTRODUCTION = f"""\
[control.md](control.md) tells how the angular update is set. This page measures what
that changes. One command, `python -m studies.control`, trains, measures and writes it;
an interrupted call goes on the next time, `--list` tells what there is, `--only`
chooses, `--quick` does the first seed, `--page` writes the page from what is finished.

Most runs are of a small network in plain torch: four convolutions of 16 to 32 channels,
each with batch norm, and a linear layer, on crops of 32 × 32 pixels. They last {STEPS}
iterations. *Nuclei* tells background, edge and inside of a nucleus apart (6,000 crops
to train, 1,500 to validate); *shapes* has five drawn shapes (2,000 and 1,000). The
reference is SGD with a rate of {BASE.lr:g}, momentum 0.9, weight decay
{BASE.weight_decay:g} and batches of {BASE.batch}, under a warm-up and a cosine: Δ* =
1.3e-2 rad at its peak, and ‖w‖⁴ relaxes within 156 iterations.

Runs of one seed start from the same directions and, where the batch is the same, see
the same images in the same order. Only the convolutions are controlled. So only their
rate, decay and optimizer are changed; the linear layer and the parameters of the norms
are trained as in the reference, without decay, but for the rows that say *heads too*.
Intervals are 95 % t intervals over seeds, of differences seed by seed. With three seeds
they are wide, and what they cannot tell is called so. They are many, and not corrected
for that: one in twenty misses by chance."""

REPLAY = """\
The reference's recorded Δ is repeated by runs that differ from it. The distance of a
run from the reference of its seed is the mean over time of |ln loss − ln loss|, of
losses in training averaged over 25 iterations, divided by the mean distance of two
seeds of the reference. So 1 means as far as another seed. *Nothing* is the reference
with its own Δ replayed: what the control itself disturbs. AdamW has a rate of 1e-3 and
a decay of 0.05.

Replays are controlled every 20 steps, which gives Δ its mean and leaves the steps as
different as their gradients are. *At every step* each has the same angle, which is
another training (as under *weight decay*) and not a better copy of the first."""

DECAY = """\
Controlled runs have the same Δ whatever their weight decay: a peak of 1.3e-2 rad with
the schedule of the rate. Bars reach from the lowest seed to the highest. Five values of
one and the same accuracy would differ too, by the noise of their runs.

Δ is given to every step. So a batch with a large gradient turns the weights no further
than another, as it would plain, and at ×1, where both have the same mean Δ*, the two
columns tell what that alone does."""

SCHEDULE = """\
*Constant, then cosine* falls in the last 40 % of the run. In *rate ÷10* the second
stage lasts 200 iterations where ‖w‖⁴ would need 1,560 to relax once: plain runs do not
come to their new Δ*, rescaled and controlled ones are there at once."""

SWEEP = """\
The peak of a cosine is swept over two decades, once in the rate and once in Δ, at
weight decays ÷4 and ×4 of the usual and with batches of 16 and 64, for the same number
of iterations. The best peak of a seed is that of a parabola through the three lowest
losses; the sweep has five points, so factors below 1.5 or so mean little. In the
figure losses above 2.5 times the lowest are left out: at the largest Δ SGD diverges.
What Δ the decay would lead to is of no importance where Δ is set, so that the best Δ
hardly *can* depend on the decay; on batch and optimizer it can."""

COST = """\
Time of the processor, medians of turns of 20 iterations, taken in turn in one process
on one thread, with a control at every step. The network is small and its iteration
short, and what the control costs grows with the number of layers, not with that of the
images: on a detector its share is smaller."""

DETECTOR = """\
RetinaNet with a small ResNet-18 on drawn shapes, one seed: enough to see that it works,
not to tell which is better."""


def write_page(root: Path, out: Path) -> None:
    """Write the page and its figures.

    Args:
        root: Folder of the runs.
        out: File of the page; figures go to images/control beside it.

    Raises:
        OSError: If a result cannot be read, or a file not be written.
        ValueError: If a result is damaged.
    """
    blocks = read_blocks(root)
    detectors = read_results(DETECTORS, root)
    images: dict[str, bytes] = {}
    with mpl.rc_context(STYLE):
        parts = _parts(blocks, images)
    where = parts.index(INTRODUCTION) + 1
    parts.insert(where, what_was_run(blocks, detectors))
    if (cost := read_cost(root)) is not None:
        parts += ['## What it costs', COST, cost_table(cost)]
    if done := [each for each in detectors if each.runs]:
        parts += ['## A detector', DETECTOR, score_table(done)]
    write_document(out, parts, IMAGES, images)


def _parts(blocks: Sequence[Block], images: dict[str, bytes]) -> list[str]:
    """What the small runs show; the figures go into ``images``."""
    by_question = {
        question: [b for b in blocks if b.question == question and b.done]
        for question in QUESTIONS
    }
    sweeps = [*by_question['sweep-sgd'], *by_question['sweep-adamw']]
    claims = [
        decay_claim(by_question['decay']),
        replay_claim(by_question['replay']),
        schedule_claim(by_question['schedule']),
        sweep_claim(sweeps),
        _followed(blocks),
    ]
    return [
        '# Setting Δ: the evidence',
        origin('python -m studies.control'),
        *filter(None, claims),
        *_decay(by_question['decay'], images),
        '## What was run',
        INTRODUCTION,
        *_replay(by_question['replay'], images),
        *_schedule(by_question['schedule'], images),
        *_sweep(sweeps, images),
    ]


def what_was_run(blocks: Sequence[Block], detectors: Sequence[Results]) -> str:
    """How many runs the page rests on, and how many are not done."""
    rows = []
    for block, experiment in zip(blocks, BLOCKS, strict=True):
        wanted = len(QUESTIONS[block.question]) * experiment.seeds
        rows.append((block.data, TITLES[block.question], f'{block.done} of {wanted}'))
    runs = sum(len(each.runs) for each in detectors)
    rows.append(('RetinaNet', 'schedules, weight decay', f'{runs} of {len(detectors)}'))
    seconds = [
        found['seconds']
        for block in blocks
        for seeds in block.runs.values()
        for found in seeds.values()
    ]
    text = table(('data', 'runs', 'done'), rows)
    if seconds:
        mean, total = sum(seconds) / len(seconds), sum(seconds) / 60
        text += (
            f'\n\nA small run took {mean:.1f} s of one core on average, validation and '
            f'measurement included; all that are done took {total:.0f} minutes.'
        )
    return text


def _followed(blocks: Sequence[Block]) -> str:
    told = []
    for every, when in ((1, 'at every step'), (20, 'every 20 steps')):
        ratios = ratios_to_wanted(blocks, every)
        if not len(ratios):
            continue
        near = [np.mean(np.abs(ratios - 1) <= share) for share in (0.1, 0.2)]
        told.append(
            f'Controlled {when}, measured Δ_rms over the wanted one had a median of '
            f'{np.median(ratios):.2f}; of {len(ratios):,} pairs of layer and window of '
            f'{WINDOW} iterations, the first {WINDOW} left out, it was within 10 % in '
            f'{near[0]:.0%} and within 20 % in {near[1]:.0%}.'
        )
    return ' '.join(['**How well Δ followed.**', *told]) if told else ''


def _image(name: str, text: str) -> str:
    return f'![{text}]({(IMAGES / name).as_posix()})'


def _decay(blocks: Sequence[Block], images: dict[str, bytes]) -> list[str]:
    if not blocks:
        return []
    # A line of some of its points tells nothing.
    whole = [b for b in blocks if len(b.runs) == len(QUESTIONS['decay'])]
    images['decay.png'] = decay_figure(whole or blocks)
    parts = [
        _image('decay.png', 'Accuracy over weight decay, plain and controlled'),
        '## Over weight decay',
        DECAY,
    ]
    for block in blocks:
        parts += [f'### Weight decay, {block.data}', decay_table(block)]
    return parts


def _replay(blocks: Sequence[Block], images: dict[str, bytes]) -> list[str]:
    parts = ['## Replay', REPLAY] if blocks else []
    for block in blocks:
        name = f'replay_{block.data}.png'
        images[name] = replay_figure(block)
        parts += [f'### Replay, {block.data}', replay_table(block)]
        parts.append(_image(name, f'Loss with and without replay, {block.data}'))
    return parts


def _schedule(blocks: Sequence[Block], images: dict[str, bytes]) -> list[str]:
    parts = ['## Schedules', SCHEDULE] if blocks else []
    for block in blocks:
        name = f'schedule_{block.data}.png'
        images[name] = schedule_figure(block)
        parts += [f'### Schedules, {block.data}', schedule_table(block)]
        parts.append(_image(name, f'Δ and loss of the schedules, {block.data}'))
    return parts


def _sweep(blocks: Sequence[Block], images: dict[str, bytes]) -> list[str]:
    parts = ['## The best rate and the best Δ', SWEEP] if blocks else []
    for data in dict.fromkeys(block.data for block in blocks):
        of_data = [block for block in blocks if block.data == data]
        name = f'sweep_{data}.png'
        images[name] = sweep_figure(of_data)
        parts += [f'### Best peaks, {data}', best_table(of_data)]
        parts.append(_image(name, f'Loss over the peak of rate and Δ, {data}'))
    return parts
