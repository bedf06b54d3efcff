"""A fault of ours, wherever it strikes, neither ends a run nor changes its weights."""

import pytest
import torch
import tiny
from mmengine.optim import OptimWrapper, OptimWrapperDict
from rescaled import rescaling
from tiny import log_of, rows_of, tiny_config, train, weights

from smd_mmdet.engine import SettingError
from smd_mmdet.engine import hook as smd_hook
from smd_mmdet.engine import rescale_hook
from smd_mmdet.engine import rescaling as rescaling_room
from smd_mmdet.engine.recording import Recording
from smd_mmdet.monitor.monitor import SphericalMotionMonitor

ITERATIONS = 30


class Trouble(Exception):
    """No kind of error that anyone expects."""


def breaks(*args, **kwargs):
    raise Trouble('out of luck')


def stock(work_dir, **changes):
    """No constructor of ours, so that the groups are those of MMEngine."""
    changes['optim_wrapper.constructor'] = 'DefaultOptimWrapperConstructor'
    return changes


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """Weights after a run without the hooks, with a validation of nothing."""
    config = tiny_config(tmp_path_factory.mktemp('plain'), ITERATIONS)
    return weights(train(config))


# The part that is broken; what the log says of it; whether records are kept.
MEASURING = {
    'choosing': (smd_hook, 'layers_to_measure', 'monitoring stopped at iteration 1,'),
    'the model': (smd_hook, 'scale_invariance_of', 'monitoring stopped at iteration 1'),
    'the lock': (smd_hook.lock, 'hold', 'monitoring stopped at iteration 1,'),
    'the proof': (smd_hook, 'proved', 'monitoring stopped at iteration 1,'),
    'the group': (smd_hook, 'ddp_group', 'monitoring stopped at iteration 1,'),
    'the monitor': (
        smd_hook, 'SphericalMotionMonitor', 'monitoring stopped at iteration 1,'
    ),
    'the records': (smd_hook, 'begin_recording', 'monitoring stopped at iteration 1,'),
    'an iteration': (Recording, 'collect', 'monitoring stopped at iteration 1,'),
    'a checkpoint': (Recording, 'state_dict', 'monitoring stopped at iteration 25,'),
    'groups of a checkpoint': (
        smd_hook, 'join_checkpoint', 'without SMDOptimWrapperConstructor cannot resume'
    ),
    'the end': (Recording, 'end', 'monitoring stopped at iteration 31,'),
    'detaching': (SphericalMotionMonitor, 'detach', 'monitoring stopped at'),
    'the report': (smd_hook, 'report_now', 'monitoring stopped at iteration 31,'),
}  # fmt: skip


@pytest.mark.parametrize('what', MEASURING)
def test_a_fault_in_measuring_leaves_the_run_as_it_is(
    tmp_path, monkeypatch, plain, what
):
    owner, name, said = MEASURING[what]
    monkeypatch.setattr(owner, name, breaks)
    runner = train(tiny_config(tmp_path, ITERATIONS, dict(window=7, report=True)))
    log = log_of(runner)
    assert said in log and 'Trouble: out of luck' in log
    assert log.count('out of luck') == 1
    assert runner.iter == ITERATIONS
    for key, value in weights(runner).items():
        assert torch.equal(value, plain[key]), key
