"""A fault of ours, wherever it strikes, neither ends a run nor changes its weights."""

import copy

import pytest
import torch
from mmengine.hooks import Hook
from rescaled import rescaling
from tiny import log_of, rows_of, tiny_config, train, weights
from versions import load

from smd_mmdet.engine import hook as smd_hook
from smd_mmdet.engine import layers, rescalable, rescale_hook
from smd_mmdet.engine.recording import Recording
from smd_mmdet.engine.start import EquilibriumStart
from smd_mmdet.monitor.monitor import SphericalMotionMonitor

ITERATIONS = 43  # the rate drops after 40


class Trouble(Exception):
    """No kind of error that anyone expects."""


def breaks(*args, **kwargs):
    raise Trouble('out of luck')


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """Weights after a run without the hooks."""
    config = tiny_config(tmp_path_factory.mktemp('plain'), ITERATIONS)
    return weights(train(config))


# The part that is broken; what the log says of it; whether records are kept.
MEASURING = {
    'looking at the model': (
        layers, 'find_scale_invariant', 'monitoring stopped at iteration 1,'
    ),
    'choosing': (smd_hook, 'layers_to_measure', 'monitoring stopped at iteration 1,'),
    'the lock': (smd_hook.lock, 'hold', 'monitoring stopped at iteration 1,'),
    'the proof': (smd_hook, 'proved', 'monitoring stopped at iteration 1,'),
    'the group': (smd_hook, 'measuring_group', 'monitoring stopped at iteration 1,'),
    'the monitor': (
        smd_hook, 'SphericalMotionMonitor', 'monitoring stopped at iteration 1,'
    ),
    'the records': (smd_hook, 'begin_recording', 'monitoring stopped at iteration 1,'),
    'an iteration': (Recording, 'collect', 'monitoring stopped at iteration 1,'),
    'a checkpoint': (Recording, 'state_dict', 'monitoring stopped at iteration 25,'),
    'groups of a checkpoint': (
        smd_hook, 'join_checkpoint', 'without SMDOptimWrapperConstructor cannot resume'
    ),
    'the end': (Recording, 'end', 'monitoring stopped at iteration 44,'),
    'detaching': (SphericalMotionMonitor, 'detach', 'monitoring stopped at'),
    'the report': (smd_hook, 'report_now', 'monitoring stopped at iteration 44,'),
}  # fmt: skip


@pytest.mark.parametrize('what', MEASURING)
def test_a_fault_in_measuring_leaves_the_run_as_it_is(
    tmp_path, monkeypatch, plain, what
):
    owner, name, said = MEASURING[what]
    monkeypatch.setattr(owner, name, breaks)
    runner = train(tiny_config(tmp_path, ITERATIONS, dict(window=7, report=True)))
    assert_told_once(runner, said)
    assert_same_weights(runner, plain)


def assert_told_once(runner, said):
    assert runner.iter == ITERATIONS
    log = log_of(runner)
    assert said in log and 'Trouble: out of luck' in log
    assert log.count('out of luck') == 1


def assert_same_weights(runner, expected):
    for key, value in weights(runner).items():
        assert torch.equal(value, expected[key]), key


class Replace(Hook):
    """A copy takes the place of the optimizer."""

    priority = 'HIGHEST'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 12:
            wrapper = runner.optim_wrapper
            wrapper.optimizer = copy.copy(wrapper.optimizer)


def test_a_fault_at_another_optimizer_leaves_the_run_as_it_is(
    tmp_path, monkeypatch, plain
):
    monkeypatch.setattr(SphericalMotionMonitor, 'follow', breaks)
    runner = train(tiny_config(tmp_path, ITERATIONS, dict(window=7)), Replace())
    assert_told_once(runner, 'monitoring stopped at iteration 13,')
    assert_same_weights(runner, plain)
    assert rows_of(tmp_path)['iter'].max() == 12


@pytest.mark.parametrize('saved', [3, {}, {'iteration': 'x'}, {'iteration': 25}])
def test_what_is_wrong_with_a_checkpoint_of_ours_leaves_the_resume_as_it_is(
    tmp_path, plain, saved
):
    path = tmp_path / 'iter_25.pth'
    train(tiny_config(tmp_path, 25, dict(window=7)))
    checkpoint = load(path)
    checkpoint['smd_monitor'] = checkpoint['smd_rescale'] = saved
    torch.save(checkpoint, path)
    config = tiny_config(tmp_path, ITERATIONS, dict(window=7), resume=True)
    config.load_from = str(path)
    runner = train(config)
    assert_same_weights(runner, plain)
    assert 'monitoring stopped at iteration 26,' in log_of(runner)


def test_a_fault_with_the_groups_of_a_checkpoint_is_told(tmp_path, monkeypatch, plain):
    train(tiny_config(tmp_path, 25))
    monkeypatch.setattr(smd_hook, 'split_checkpoint', breaks)
    config = tiny_config(tmp_path, ITERATIONS, dict(window=7), resume=True)
    config.load_from = str(tmp_path / 'iter_25.pth')
    runner = train(config)
    assert_told_once(runner, 'the checkpoint is taken as it is')
    assert_same_weights(runner, plain)


RESCALING = {
    'looking at the model': (
        layers, 'find_scale_invariant', 'rescaling stopped at iteration 1,'
    ),
    'choosing': (rescale_hook, 'find_groups', 'rescaling stopped at iteration 1,'),
    'what follows': (
        rescalable, 'find_dependents', 'rescaling stopped at iteration 1,'
    ),
    'rates': (rescale_hook, 'RateHistory', 'rescaling stopped at iteration 1,'),
    'phases': (rescale_hook, 'EquilibriumStart', 'rescaling stopped at iteration 1,'),
    'a phase': (EquilibriumStart, 'begin', 'rescaling stopped at iteration 11,'),
    'the next phase': (EquilibriumStart, 'go_on', 'rescaling stopped at iteration 31,'),
}  # fmt: skip


@pytest.mark.parametrize('what', RESCALING)
def test_a_fault_in_rescaling_leaves_the_run_as_it_is(
    tmp_path, monkeypatch, plain, what
):
    owner, name, said = RESCALING[what]
    monkeypatch.setattr(owner, name, breaks)
    start = dict(measure=20)
    runner = train(rescaling(tmp_path, ITERATIONS, start_at_equilibrium=start))
    assert_told_once(runner, said)
    assert_same_weights(runner, plain)


def test_a_fault_in_a_checkpoint_leaves_the_rescaling_as_it_is(tmp_path, monkeypatch):
    whole = weights(train(rescaling(tmp_path / 'whole', ITERATIONS)))
    monkeypatch.setattr(rescale_hook.SMDRescaleHook, '_state', breaks)
    runner = train(rescaling(tmp_path / 'broken', ITERATIONS))
    assert 'saved without the state of SMDRescaleHook' in log_of(runner)
    assert_same_weights(runner, whole)
