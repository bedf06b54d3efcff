"""The list of what is trained on real images, and the configs it names."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

from smd_mmdet.config.load import load_config
from smd_mmdet.launch.arguments import OneLineParser, add_cfg_options
from studies.fall import experiments as fall
from studies.real_images.__main__ import main
from studies.real_images.data import point_to_data, root_of
from studies.real_images.experiments import COCO, EXPERIMENTS
from studies.reproduction.training import Task

ROOT = Path(__file__).resolve().parents[3]
ALL = [*EXPERIMENTS, *fall.EXPERIMENTS]
BY_NAME = {experiment.name: experiment for experiment in ALL}


def test_every_entry_can_be_told_apart_and_compared():
    assert len(BY_NAME) == len(ALL)
    for experiment in ALL:
        assert (ROOT / experiment.config).is_file(), experiment.config
        assert experiment.data in fall.DATA or not experiment.data
        if experiment.against:
            other = BY_NAME[experiment.against]
            assert (other.group, other.seeds) == (experiment.group, experiment.seeds)
            assert other.config != experiment.config


def load(experiment):
    if 'classification' in experiment.config:
        pytest.importorskip('mmpretrain', reason='mmpretrain is missing')
    return load_config(str(ROOT / experiment.config), experiment.options)


@pytest.mark.parametrize('name', [e.name for e in ALL if e.against])
def test_runs_that_are_compared_differ_by_one_hook(name):
    one, other = load(BY_NAME[name]), load(BY_NAME[BY_NAME[name].against])
    one, other = one.to_dict(), other.to_dict()
    hooks = one.pop('custom_hooks')
    assert hooks[:-1] == other.pop('custom_hooks')
    assert hooks[-1]['type'] == 'SMDRescaleHook'
    assert one == other


@pytest.mark.parametrize('name', [e.name for e in fall.EXPERIMENTS])
def test_the_second_stage_of_the_fall_is_five_relaxation_times_long(name):
    config = load(BY_NAME[name])
    optimizer = config.optim_wrapper.optimizer
    decay = config.optim_wrapper.paramwise_cfg.scale_invariant_decay_mult
    rate = 4 * decay * optimizer.weight_decay * optimizer.lr / (1 - optimizer.momentum)
    (drop,) = config.param_scheduler[1].milestones
    fold = 1 / (0.1 * rate)
    assert config.train_cfg.max_iters - drop == pytest.approx(5 * fold, rel=0.05)
    # The first stage is long enough to come to equilibrium, from 5 w* or so.
    assert drop * rate > np.log(5**4) + 5
    # Each relaxation time has three validations at least.
    assert config.train_cfg.val_interval < fold / 3
    assert config.train_cfg.val_begin <= drop


def test_the_data_are_found_by_variables(tmp_path, monkeypatch):
    for name in ('SMD_DATA', 'NUCLEI_ROOT', 'COCO_ROOT'):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / 'nuclei').mkdir()
    monkeypatch.setenv('SMD_DATA', str(tmp_path))
    assert root_of('NUCLEI_ROOT') == tmp_path / 'nuclei'
    assert root_of('COCO_ROOT') == ROOT / 'data' / 'coco'
    monkeypatch.setenv('NUCLEI_ROOT', '/sets/nuclei')
    monkeypatch.setenv('COCO_ROOT', '/sets/coco')
    point_to_data()
    for name, root in (('mask-rcnn_bn_fixed', 'nuclei'), ('coco_retinanet_gn', 'coco')):
        config = Config.fromfile(ROOT / BY_NAME[name].config)
        assert config.train_dataloader.dataset.data_root == f'/sets/{root}/'
        assert config.val_dataloader.dataset.data_root == f'/sets/{root}/'


def test_the_list_tells_what_is_done(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('NUCLEI_ROOT', 'a')
    monkeypatch.setenv('COCO_ROOT', 'b')
    folder = tmp_path / f'{EXPERIMENTS[0].name}-seed0'
    folder.mkdir()
    (folder / 'finished').touch()
    only = ['--only', EXPERIMENTS[0].name, '--work-dir', str(tmp_path)]
    assert main(['--list', *only]) == 0
    states = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert states == ['finished'] + ['not'] * (EXPERIMENTS[0].seeds - 1)


def test_the_options_mean_the_same_on_the_command_line():
    """Lists and tuples go through text and come back as they are."""
    parser = OneLineParser(prog='train')
    add_cfg_options(parser)
    command = Task(BY_NAME['coco_retinanet_gn'], 3, ROOT / 'none').command()
    found = parser.parse_args(command[command.index('--cfg-options') :]).cfg_options
    expected = {'randomness.seed': 3} | COCO
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == value, key
