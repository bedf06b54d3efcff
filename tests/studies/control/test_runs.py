"""The list of the small runs and of the blocks they are trained in."""

import math
import sys
from pathlib import Path

import pytest

from smd_mmdet import theory
from studies.control.__main__ import main
from studies.control.experiments import BLOCKS, DATA, DETECTORS, EXPERIMENTS
from studies.control.runs import (
    ANGLE,
    BASE,
    DECAYS,
    QUESTIONS,
    SETTINGS,
    SHAPES,
    STEPS,
    swept,
)
from studies.control.training import FOLDERS
from studies.reproduction.training import Task

ROOT = Path(__file__).resolve().parents[3]


def test_every_run_and_block_can_be_told_apart():
    assert len({each.name for each in EXPERIMENTS}) == len(EXPERIMENTS)
    for experiment in EXPERIMENTS:
        assert (ROOT / experiment.config).is_file(), experiment.config
        assert experiment.data in DATA or not experiment.data
    for block in BLOCKS:
        question, data = block.name.split('_')
        assert question in QUESTIONS
        assert DATA[block.data].folder == FOLDERS[data]
    for runs in QUESTIONS.values():
        assert len({run.name for run in runs}) == len(runs)


def test_a_block_is_a_process_of_its_own():
    task = Task(BLOCKS[0], 2, Path('runs'))
    module, *arguments = task.command()[task.command().index('-m') + 1 :]
    assert task.command()[0] == sys.executable
    assert module == 'studies.control.training'
    assert arguments == [BLOCKS[0].name, '2', f'runs/{BLOCKS[0].name}-seed2']


def test_the_angle_is_the_equilibrium_of_the_reference():
    found = theory.angular_update(BASE.lr, BASE.weight_decay, 0.9)
    assert pytest.approx(float(found)) == ANGLE


@pytest.mark.parametrize('shape', SHAPES)
def test_a_schedule_begins_at_its_peak_and_stays_below_it(shape):
    values = [SHAPES[shape](step / STEPS) for step in range(STEPS)]
    assert values[0] == max(values) == 1
    assert min(values) > 0
    ends = {'constant': 1, 'drop': 0.1}
    assert values[-1] == pytest.approx(ends.get(shape, 0.01), rel=0.01)


def test_weight_decay_is_all_that_the_headline_changes():
    runs = {run.name: run for run in QUESTIONS['decay']}
    plain = [runs[f'decay_{factor:g}'] for factor in DECAYS]
    assert max(DECAYS) == 1 / min(DECAYS) == 16
    for factor, run in zip(DECAYS, plain, strict=True):
        assert run.weight_decay == factor * BASE.weight_decay and not run.control
        controlled = runs[f'{run.name}-set']
        assert controlled.weight_decay == run.weight_decay
        assert controlled.angle == ANGLE


def test_sweeps_span_two_decades_around_the_usual():
    for question in ('sweep-sgd', 'sweep-adamw'):
        names = set()
        for setting in SETTINGS:
            for by_angle in (False, True):
                found, peaks = swept(question, setting, by_angle)
                names |= set(found)
                assert peaks == sorted(peaks)
                assert max(peaks) / min(peaks) == pytest.approx(100)
            assert math.sqrt(peaks[0] * peaks[-1]) == pytest.approx(ANGLE)
        assert names == {run.name for run in QUESTIONS[question]}


def test_the_list_tells_what_there_is(tmp_path, capsys, monkeypatch):
    for variable in ('NUCLEI_ROOT', 'COCO_ROOT'):
        monkeypatch.setenv(variable, 'none')
    (tmp_path / f'{BLOCKS[0].name}-seed0').mkdir()
    only = ['--only', BLOCKS[0].name, '--work-dir', str(tmp_path)]
    assert main(['--list', *only]) == 0
    states = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert states == ['interrupted', 'not', 'not']


def test_detectors_differ_by_the_control():
    pytest.importorskip('mmdet', reason='mmdet is missing')
    from smd_mmdet.config.load import load_config

    pairs = [('drop_plain', 'drop_controlled')]
    pairs += [(f'decay_{d:g}', f'decay_{d:g}-controlled') for d in (0.25, 4)]
    by_name = {each.name: each for each in DETECTORS}
    for names in pairs:
        plain, controlled = (
            load_config(str(ROOT / each.config), each.options).to_dict()
            for each in (by_name[f'retinanet_{name}'] for name in names)
        )
        hooks = controlled.pop('custom_hooks')
        assert hooks[:-1] == plain.pop('custom_hooks')
        assert hooks[-1]['angular_update']
        assert plain == controlled
    decay = plain['optim_wrapper']['paramwise_cfg']['scale_invariant_decay_mult']
    assert decay == 600
    # The wanted Δ is that of the config's own decay.
    config = load_config(str(ROOT / by_name['retinanet_decay_1'].config))
    optimizer = config.optim_wrapper.optimizer
    decay = optimizer.weight_decay * 150
    found = theory.angular_update(optimizer.lr, decay, optimizer.momentum)
    assert hooks[-1]['angular_update']['value'] == pytest.approx(float(found), rel=1e-3)
