"""The page, written from results whose numbers are known."""

import json
import math
import re
from dataclasses import asdict
from itertools import pairwise

import pytest

from studies.control.experiments import BLOCKS
from studies.control.page import write_page
from studies.control.results import ratios_to_wanted, read_blocks
from studies.control.runs import ANGLE, BASE, QUESTIONS, STEPS

SEEDS = 3
# A window ends with the warm-up.
ENDS = (20, *range(70, STEPS, 50), STEPS)
# ln(loss) of the seeds of the reference: the mean distance of two of them is 0.4/3.
OF_SEED = (0.0, 0.1, 0.2)


def result(run, seed):
    """The loss of a run: a plain change is 0.4 away, a replayed one 0.04."""
    away = 0.0
    if run.name != BASE.name:
        away = 0.04 if run.control == 'replay' else 0.4
    # A parabola whose least is at 2 % of a radian, whatever else is set.
    if run.control == 'angle':
        away = 0.1 * math.log(run.angle / 0.02) ** 2
    loss = math.exp(OF_SEED[seed] + away)
    angles = [(run.angle or ANGLE) * run.rate(t) for t in range(STEPS)]
    windows = [
        math.hypot(*angles[begin:end]) / math.sqrt(end - begin)
        for begin, end in pairwise([0, *ENDS])
    ]
    accuracy = 0.8
    if not run.control:
        accuracy -= 0.05 * abs(math.log(run.weight_decay / BASE.weight_decay, 16))
    return {
        'run': asdict(run),
        'seed': seed,
        'losses': [loss] * STEPS,
        'validations': [],
        'loss': loss,
        'accuracy': accuracy,
        'ends': list(ENDS),
        'angles': [[angle] * 4 for angle in windows],
        'norms': [[1.0] * 4 for _ in windows],
        'seconds': 4.0,
    }


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('runs')
    for block in BLOCKS:
        question, data = block.name.split('_')
        if data != 'nuclei':
            continue
        for seed in range(SEEDS):
            folder = root / f'{block.name}-seed{seed}'
            folder.mkdir()
            for run in QUESTIONS[question]:
                file = folder / f'{run.name}.json'
                file.write_text(json.dumps(result(run, seed)))
    times = dict(plain=[2.0, 4.0], monitored=[2.1, 4.2], controlled=[3.0, 6.0])
    (root / 'cost-seed0').mkdir()
    (root / 'cost-seed0' / 'cost.json').write_text(json.dumps(times))
    return root


@pytest.fixture(scope='module')
def page(root, tmp_path_factory):
    out = tmp_path_factory.mktemp('docs') / 'control_evidence.md'
    write_page(root, out)
    return out


def row(text, *beginning):
    """The cells of the first row that begins so."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip('| ').split('|')]
        if cells[: len(beginning)] == list(beginning):
            return cells
    raise AssertionError(beginning)


def test_distances_are_in_units_of_the_spread(page):
    text = page.read_text('utf-8')
    cells = row(text, 'AdamW', '3')
    assert cells[2].startswith('3.000') and cells[3].startswith('0.300')
    assert cells[4].startswith('+2.700')
    assert cells[5] == 'nearer, and within the spread'
    assert row(text, 'nothing')[3].startswith('0.300')
    # Every change is alike here, so that all of them together are as each is.
    assert 'nearer to its loss in 7 of 7 changes' in text
    assert 'the mean over changes: +2.700 (+2.700 to +2.700) on nuclei' in text


def test_what_weight_decay_costs_is_told(page):
    text = page.read_text('utf-8')
    cells = row(text, '×16', '3')
    assert cells[2].startswith('75.0') and cells[3].startswith('80.0')
    assert cells[-2].startswith('+5.0')
    assert 'differs by 5.0 points plain and by 0.0 controlled' in text


def test_the_best_angle_is_that_of_the_parabola(page):
    text = page.read_text('utf-8')
    for optimizer in ('SGD', 'AdamW'):
        cells = row(text, optimizer, '×0.25', '16')
        assert cells[5].startswith('0.02 (0.02 to 0.02)')
    assert 'SGD and AdamW together: the best Δ by ×1' in text


def test_a_difference_of_nothing_is_not_called_one(page):
    text = page.read_text('utf-8')
    assert 'Of 4 comparisons with the plain schedule accuracy is surely' in text
    assert row(text, 'rate ÷10, rescaled', '3')[4].startswith('+0.0')


def test_cost_and_number_of_runs_are_told(page):
    text = page.read_text('utf-8')
    assert row(text, 'controlled')[1:] == ['4.50', '1.500']
    assert row(text, 'nuclei', 'replay of a run')[2] == '51 of 51'
    assert row(text, 'shapes', 'replay of a run')[2] == '0 of 51'
    assert row(text, 'RetinaNet')[2] == '0 of 9'


def test_every_figure_is_there(page):
    names = re.findall(r'\]\((images/control/\w+\.png)\)', page.read_text('utf-8'))
    assert len(names) == 4
    for name in names:
        assert (page.parent / name).stat().st_size > 5000


@pytest.mark.parametrize('every', [1, 20])
def test_the_wanted_angle_is_that_of_the_windows(root, every):
    ratios = ratios_to_wanted(read_blocks(root), every)
    runs = [run for name in QUESTIONS for run in QUESTIONS[name] if run.every == every]
    told = sum(run.control in ('angle', 'replay') for run in runs)
    assert told
    assert len(ratios) == told * SEEDS * 4 * (len(ENDS) - 1)
    assert ratios == pytest.approx(1)


def test_without_runs_there_is_a_page_that_says_so(tmp_path):
    write_page(tmp_path / 'none', tmp_path / 'page.md')
    text = (tmp_path / 'page.md').read_text('utf-8')
    assert '0 of 30' in text and '**' not in text
    assert not list((tmp_path / 'images').rglob('*.png'))
