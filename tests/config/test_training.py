"""What is read of a config, and what is refused."""

import copy

import numpy as np
import pytest
from mmengine.config import Config
from schedules import STEP, config_of

from smd_mmdet.config.errors import SettingError
from smd_mmdet.plan import plan


@pytest.mark.parametrize(
    ('text', 'change'),
    [
        ('optim_wrapper.optimizer', dict(optim_wrapper=dict())),
        ('NoSuchLR', dict(param_scheduler=[dict(type='NoSuchLR')])),
        ('param_scheduler', dict(param_scheduler=['MultiStepLR'])),
        ('max_epochs', dict(train_cfg=dict(type='EpochBasedTrainLoop'))),
    ],
)
def test_a_bad_config_is_named(text, change):
    config = config_of([])
    config.merge_from_dict({}, allow_list_keys=False)
    for key, value in change.items():
        config[key] = value
    with pytest.raises(SettingError, match=text):
        plan(config, iters_per_epoch=10)


def test_gradient_accumulation_counts_optimizer_steps():
    config = config_of([STEP], accumulative_counts=4)
    found = plan(config, iters_per_epoch=1000)
    assert [s['iterations'] for s in found['stages']] == [500, 250, 250]


WHOLE = dict(
    optim_wrapper=dict(
        optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-3),
        constructor='SMDOptimWrapperConstructor',
        paramwise_cfg=dict(
            custom_keys=dict(backbone=dict(lr_mult=0.5, lr=0.1)),
            dwconv_decay_mult=0.0,
            scale_invariant_decay_mult=2.0,
            exclude=['head'],
        ),
    ),
    param_scheduler=[
        dict(type='MultiStepLR', by_epoch=True, begin=0, milestones=[1], gamma=0.1),
        dict(type='StepLR', by_epoch=False, step_size=900, gamma=0.9),
    ],
    train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=2),
    train_dataloader=dict(
        batch_size=2,
        dataset=dict(type='CIFAR10', indices=40),
        sampler=dict(type='DefaultSampler'),
        batch_sampler=dict(type='AspectRatioBatchSampler', batch_size=2),
    ),
    auto_scale_lr=dict(enable=True, base_batch_size=2),
    custom_hooks=[dict(type='SMDRescaleHook', start_at_equilibrium=dict(measure=5))],
    model=dict(backbone=dict(frozen_stages=-1, norm_eval=False)),
)
KEYS = [
    *('optim_wrapper', 'optim_wrapper.optimizer', 'optim_wrapper.optimizer.lr'),
    *('optim_wrapper.optimizer.weight_decay', 'optim_wrapper.optimizer.momentum'),
    *('optim_wrapper.paramwise_cfg', 'optim_wrapper.paramwise_cfg.custom_keys'),
    'optim_wrapper.paramwise_cfg.custom_keys.backbone',
    'optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult',
    'optim_wrapper.paramwise_cfg.custom_keys.backbone.decay_mult',
    'optim_wrapper.paramwise_cfg.custom_keys.backbone.lr',
    *('optim_wrapper.constructor', 'optim_wrapper.paramwise_cfg.dwconv_decay_mult'),
    'optim_wrapper.paramwise_cfg.scale_invariant_decay_mult',
    'optim_wrapper.paramwise_cfg.exclude',
    'optim_wrapper.paramwise_cfg.bypass_duplicate',
    *('train_dataloader.num_batch_per_epoch', 'train_dataloader.sampler'),
    *('train_dataloader.sampler.type', 'train_dataloader.batch_sampler'),
    *('train_dataloader.batch_sampler.batch_size', 'train_dataloader.dataset.type'),
    *('optim_wrapper.accumulative_counts', 'param_scheduler', 'param_scheduler.0'),
    *('param_scheduler.0.begin', 'param_scheduler.0.end', 'param_scheduler.0.gamma'),
    *('param_scheduler.0.milestones', 'param_scheduler.1.step_size'),
    *('param_scheduler.0.by_epoch', 'param_scheduler.0.convert_to_iter_based'),
    *('train_cfg', 'train_cfg.by_epoch', 'train_cfg.max_epochs', 'train_dataloader'),
    *('train_dataloader.batch_size', 'train_dataloader.drop_last'),
    *('train_dataloader.dataset', 'train_dataloader.dataset.indices'),
    *('auto_scale_lr', 'auto_scale_lr.enable', 'auto_scale_lr.base_batch_size'),
    *('custom_hooks', 'custom_hooks.0.start_at_equilibrium', 'custom_hooks.0.exclude'),
    *('custom_hooks.0.start_at_equilibrium.measure', 'model', 'model.backbone'),
    *('model.backbone.frozen_stages', 'model.backbone.norm_eval'),
]
VALUES = [
    *('text', '', -1, 0, 1.5, True, None, [1], ['a'], {'a': 1}, {1: 2}, (), len),
    *(float('nan'), float('inf'), 10**400, 1e300, 5j, b'x', np.array([1, 2])),
]


@pytest.mark.parametrize('path', KEYS)
def test_whatever_a_key_holds_is_planned_or_refused_by_name(path):
    *above, key = (int(k) if k.isdigit() else k for k in path.split('.'))
    for value in VALUES:
        content = copy.deepcopy(WHOLE)
        found = content
        for step in above:
            found = found[step]
        found[key] = value
        try:
            plan(Config(content))
        except SettingError as error:
            named = [k for k in (*above, key) if isinstance(k, str)]
            text = str(error)
            assert '\n' not in text, text
            assert any(k in text for k in (*named, 'SMDRescaleHook', 'epoch')), text
