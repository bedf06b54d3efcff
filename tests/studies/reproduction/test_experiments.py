"""The list of the reproduction's experiments, and the configs it names."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from studies.reproduction.experiments import DATA, EXPERIMENTS

ROOT = Path(__file__).resolve().parents[3]
BY_NAME = {experiment.name: experiment for experiment in EXPERIMENTS}


def test_every_entry_can_be_told_apart_and_compared():
    assert len(BY_NAME) == len(EXPERIMENTS)
    for experiment in EXPERIMENTS:
        assert (ROOT / experiment.config).is_file()
        assert experiment.data in DATA or not experiment.data
        if experiment.against:
            other = BY_NAME[experiment.against]
            assert (other.group, other.seeds) == (experiment.group, experiment.seeds)


DETECTORS = [e for e in EXPERIMENTS if e.data == 'shapes']


@cache
def load(name):
    pytest.importorskip('mmdet', reason='mmdet is missing')
    from smd_mmdet.config.load import load_config

    return load_config(str(ROOT / BY_NAME[name].config), BY_NAME[name].options)


# One of each model.
@pytest.mark.parametrize('name', {e.group: e.name for e in DETECTORS}.values())
def test_the_model_builds_and_is_scale_invariant_throughout(name):
    from smd_mmdet.audit import build_untrained
    from smd_mmdet.invariance import find_scale_invariant

    model = build_untrained(load(name))
    convs = {
        name
        for name, weight in model.named_parameters()
        if weight.dim() == 4 and re.search(r'backbone|neck|convs', name)
    }
    found = {entry.name for entry in find_scale_invariant(model) if entry.invariant}
    assert len(convs) > 20
    assert convs <= found


def test_runs_that_are_compared_differ_by_one_hook():
    from mmengine.registry import HOOKS

    for experiment in DETECTORS:
        if experiment.against:
            names = experiment.name, experiment.against
            one, other = (load(name).to_dict() for name in names)
            hooks = one.pop('custom_hooks')
            assert hooks[:-1] == other.pop('custom_hooks')
            assert hooks[-1]['type'] == 'SMDRescaleHook'
            assert HOOKS.get('SMDRescaleHook') is not None
            assert one == other


@pytest.mark.parametrize('norm', ['bn', 'gn'])
def test_only_the_first_stage_is_long_enough(norm):
    config = load(f'mask-rcnn_{norm}_3stage')
    optimizer = config.optim_wrapper.optimizer
    decay = optimizer.weight_decay
    decay *= config.optim_wrapper.paramwise_cfg.scale_invariant_decay_mult
    steps = config.param_scheduler[1].milestones
    ends = [0, *steps, config.train_cfg.max_iters]
    assert all(end % config.train_cfg.val_interval == 0 for end in ends)
    for stage, length in enumerate(np.diff(ends)):
        fold = (1 - optimizer.momentum) / (4 * decay * optimizer.lr * 0.1**stage)
        assert (length > 10 * fold) if stage == 0 else (length < fold)
