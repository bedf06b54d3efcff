"""How long a config trains."""

import pytest
from mmengine.config import Config
from schedules import config_by_iteration, config_of
from torch.utils.data import DataLoader

from smd_mmdet.config.errors import SettingError
from smd_mmdet.plan import plan


@pytest.mark.parametrize('by', ['loader', 'batch_sampler'])
def test_an_epoch_may_drop_its_last_batch(by):
    config = config_of([])
    loader = dict(batch_size=3, dataset=dict(type='CIFAR10'))
    assert plan(Config(dict(config, train_dataloader=loader)))['iters_per_epoch'] == (
        16_667
    )
    drops = dict(drop_last=True)
    loader |= drops if by == 'loader' else dict(batch_sampler=drops)
    config.train_dataloader = loader
    truth = DataLoader(range(50_000), batch_size=3, drop_last=True)
    assert plan(config)['iters_per_epoch'] == len(truth)
    loader['dataset']['indices'] = 2
    config.train_dataloader = loader
    with pytest.raises(SettingError, match='drop_last'):
        plan(config)


def test_an_unknown_length_asks_for_it():
    with pytest.raises(SettingError, match='--iters-per-epoch'):
        plan(config_of([]))
    assert plan(config_by_iteration([], 50))['iterations'] == 50


@pytest.mark.parametrize('number', [0, -1, 2.5, True])
def test_a_bad_epoch_length_is_named(number):
    with pytest.raises(SettingError, match='iters_per_epoch'):
        plan(config_of([]), iters_per_epoch=number)


def test_auto_scale_lr_follows_the_number_of_processes():
    config = config_of([])
    config.auto_scale_lr = dict(enable=True, base_batch_size=16)
    found = plan(config, iters_per_epoch=100, gpus=4)
    assert found['stages'][0]['lr_start'] == pytest.approx(0.05 * 8 / 16)
