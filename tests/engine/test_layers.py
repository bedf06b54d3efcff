"""Which weights of a run are measured: those that are frozen or left out at first."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from tiny import TinyNet, log_of, rows_of, tiny_config, train, weights

from smd_mmdet.engine import SettingError
from smd_mmdet.records import read_records

LATER = 'layers.3.weight'


@MODELS.register_module(force=True)
class FrozenAtFirst(TinyNet):
    """The second convolution is frozen."""

    def __init__(self, norm='bn'):
        super().__init__(norm)
        self.layers[3].requires_grad_(False)


class Unfreeze(Hook):
    """It trains from iteration 21 on."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 20:
            runner.model.layers[3].requires_grad_(True)


class LeaveOut(Hook):
    """The optimizer does not train it."""

    priority = 'VERY_HIGH'

    def before_train(self, runner):
        left_out = runner.model.layers[3].weight
        for group in runner.optim_wrapper.optimizer.param_groups:
            group['params'] = [p for p in group['params'] if p is not left_out]


def config(work_dir, hook, **changes):
    changes = {'model.type': 'FrozenAtFirst', 'param_scheduler': None} | changes
    return tiny_config(work_dir, 40, hook, **changes)


@pytest.mark.parametrize('constructor', ['SMDOptimWrapper', 'DefaultOptimWrapper'])
def test_a_frozen_weight_is_measured_from_the_step_on_that_trains_it(
    tmp_path, constructor
):
    changes = {'optim_wrapper.constructor': f'{constructor}Constructor'}
    hook = dict(window=10, include=[LATER])
    plain = weights(train(config(tmp_path / 'plain', None, **changes), Unfreeze()))
    runner = train(config(tmp_path / 'ours', hook, **changes), Unfreeze())
    rows = rows_of(tmp_path / 'ours')
    later = rows[rows['layer'] == LATER]
    assert later[['iter', 'count']].values.tolist() == [
        *[[10, 0], [20, 0], [30, 10], [40, 10]]
    ]
    trained = later['angular_update_mean'].to_numpy() > 0
    assert trained.tolist() == [False, False, True, True]
    # The proof makes the weight trainable in a copy of the model.
    assert read_records(tmp_path / 'ours').metadata['layers'][LATER]['invariant']
    log = log_of(runner)
    assert f'{LATER} is frozen: measured from the step on that trains it' in log
    assert 'WARNING - smd' not in log
    for name, value in weights(runner).items():
        assert torch.equal(value, plain[name]), name


def test_a_frozen_weight_that_is_not_asked_for_is_not_measured(tmp_path):
    train(config(tmp_path, dict(window=10)))
    assert read_records(tmp_path).layers() == ['layers.0.weight']


def test_a_weight_that_the_optimizer_does_not_train_is_told(tmp_path):
    hook = dict(window=10, include=[LATER])
    runner = train(config(tmp_path / 'some', hook), LeaveOut())
    said = f'{LATER} is not among the parameters of the optimizer'
    assert f'smd: {said}: not measured' in log_of(runner)
    assert read_records(tmp_path / 'some').layers() == ['layers.0.weight']
    hook = dict(include=[LATER], exclude=['layers.0'])
    with pytest.raises(SettingError, match=f'no weight to measure: {said}$'):
        train(config(tmp_path / 'none', hook), LeaveOut())
