"""Rates and decays of single weights, against the optimizer that a training builds."""

import pytest
from mmcv.ops import ModulatedDeformConv2dPack
from mmengine.optim import build_optim_wrapper
from schedules import config_by_iteration, config_of
from torch import nn

from smd_mmdet.config.errors import SettingError
from smd_mmdet.config.optimizer import read_optimizer
from smd_mmdet.config.training import read_training
from smd_mmdet.plan import plan
from smd_mmdet.theory import angular_update

OURS = 'SMDOptimWrapperConstructor'


def _model() -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)),
        nn.Sequential(nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8)),
        nn.Sequential(nn.Conv2d(8, 8, 3, groups=4), nn.GroupNorm(2, 8)),
        nn.Sequential(nn.Conv2d(8, 8, 1), nn.InstanceNorm2d(8)),
        nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.LayerNorm(4), nn.Linear(4, 2)),
    )


KEYS = {
    'bias_lr_mult': 2.0,
    'bias_decay_mult': 0.0,
    'norm_decay_mult': 0.0,
    'flat_decay_mult': 0.25,
    'dwconv_decay_mult': 3.0,
    'dcn_offset_lr_mult': 0.1,
    'bypass_duplicate': True,
    'custom_keys': {
        '0': dict(lr_mult=0.1),
        '1.0': dict(decay_mult=3.0, lr_mult=0.5),
        '2.0.w': dict(lr=0.3, weight_decay=0.2),
    },
}
WAYS = {key: {key: value} for key, value in KEYS.items()} | {
    'none': {},
    'all': KEYS,
    'all without custom keys': {k: v for k, v in KEYS.items() if k != 'custom_keys'},
    'flat and norm': dict(flat_decay_mult=0.25, norm_decay_mult=0.5),
}


def _groups(model: nn.Module, wrapper: dict):
    """Name, shape and group of every parameter, in the optimizer of a training."""
    built = build_optim_wrapper(model, wrapper).optimizer
    group_of = {id(p): group for group in built.param_groups for p in group['params']}
    for name, parameter in model.named_parameters():
        yield name, tuple(parameter.shape), group_of[id(parameter)]


@pytest.mark.parametrize('way', WAYS)
def test_every_key_sets_what_it_sets_in_training(way):
    config = config_of([], paramwise_cfg=WAYS[way])
    planned = read_optimizer(config)
    model = _model()
    model.add_module('5', ModulatedDeformConv2dPack(8, 8, 3))
    for name, shape, group in _groups(model, config.optim_wrapper):
        if name.endswith(('1.1.bias', '0.1.bias', '2.1.bias', '4.2.bias')):
            continue  # of a norm, which neither name nor shape tells
        rate, decay = planned.multipliers(name, shape)
        assert planned.lr * rate == pytest.approx(group['lr']), name
        decay *= planned.weight_decay
        assert decay == pytest.approx(group['weight_decay']), name


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize(
    'ours', [dict(scale_invariant_decay_mult=10.0), dict(angular_update=0.01)]
)
def test_our_keys_set_what_they_set_in_training(way, ours):
    paramwise = WAYS[way] | ours | dict(exclude=['1.0', '2.0.*'])
    config = config_of([], constructor=OURS, paramwise_cfg=paramwise)
    planned = read_optimizer(config)
    marked = []
    for name, shape, group in _groups(_model(), config.optim_wrapper):
        if len(shape) != 4:
            continue
        marked.append(group['scale_invariant'])
        rate, decay = planned.multipliers(name, shape)
        assert planned.lr * rate == pytest.approx(group['lr']), name
        decay *= planned.weight_decay
        assert decay == pytest.approx(group['weight_decay']), name
    assert marked == [True, False, False, True]


def test_an_angular_update_holds_at_the_rate_that_auto_scale_lr_makes():
    config = config_by_iteration([], 100)
    config.optim_wrapper.constructor = OURS
    config.optim_wrapper.paramwise_cfg = dict(angular_update=0.01)
    config.auto_scale_lr = dict(enable=True, base_batch_size=8)
    found = read_training(config, gpus=1)
    lr = 0.05 * 2 / 8
    assert found.optimizer.lr == pytest.approx(lr) == found.schedule.lr[0]
    angle = angular_update(lr, found.optimizer.weight_decay, 0.9)
    assert angle == pytest.approx(0.01)


def test_an_angular_update_without_a_rate_is_refused_as_in_training():
    def config(**others):
        keys = dict(angular_update=0.01, custom_keys={'0.0': dict(lr_mult=0.0)})
        return config_of([], constructor=OURS, paramwise_cfg=keys | others)

    with pytest.raises(SettingError, match=r'angular_update: 0.0 has a .* of 0 \(lr_m'):
        read_optimizer(config())
    with pytest.raises(SettingError):
        list(_groups(_model(), config().optim_wrapper))
    left = config(exclude=['0.0.weight'])
    read_optimizer(left)
    list(_groups(_model(), left.optim_wrapper))


@pytest.mark.parametrize(
    ('key', 'paramwise'),
    [
        ('norm_decay_mult', dict(norm_decay_mult=0.0)),
        ('dwconv_decay_mult', dict(dwconv_decay_mult=0.0)),
        ('bias_decay_mult', dict(bias_decay_mult=0.0)),
        ('custom_keys.0.decay_mult', dict(custom_keys={'0': dict(decay_mult=1.0)})),
    ],
)
def test_a_multiple_of_no_weight_decay_is_refused_as_in_training(key, paramwise):
    config = config_of([], optimizer=dict(type='SGD', lr=0.1), paramwise_cfg=paramwise)
    with pytest.raises(ValueError, match='base_wd'):
        build_optim_wrapper(_model(), config.optim_wrapper)
    with pytest.raises(SettingError, match=f'{key} needs'):
        read_optimizer(config)


def test_what_the_plan_is_not_for_is_told():
    paramwise = dict(
        dwconv_decay_mult=0.25,
        custom_keys=dict(head=dict(lr_mult=0.1), neck=dict(momentum=0.5)),
    )
    cosine = dict(type='CosineAnnealingLR', by_epoch=False, T_max=50, eta_min=1e-3)
    plateau = dict(type='ReduceOnPlateauLR', monitor='loss')
    config = config_by_iteration([cosine, plateau], 50)
    config.optim_wrapper.paramwise_cfg = paramwise
    said = ' | '.join(plan(config)['assumptions'])
    assert 'depthwise convolutions (dwconv_decay_mult) have' in said
    assert 'their Δ* is 0.5 times that below' in said
    assert "'neck' have settings of their own (momentum)" in said
    assert 'lr × 0.1 is only the beginning' in said


def test_a_weight_decay_that_moves_is_refused():
    moving = dict(type='LinearParamScheduler', param_name='weight_decay', end=9)
    moving |= dict(start_factor=0.1, by_epoch=False)
    with pytest.raises(SettingError, match='moves weight_decay'):
        plan(config_by_iteration([moving], 50))
