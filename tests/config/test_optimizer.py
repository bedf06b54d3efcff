"""What is read of a config's optimizer."""

import pytest
from schedules import config_of
from torch import nn

from smd_mmdet.config.optimizer import read_optimizer
from smd_mmdet.engine import SettingError, SMDOptimWrapperConstructor
from smd_mmdet.plan import plan


def test_the_keys_of_our_constructor():
    for keys, decay in (
        (dict(scale_invariant_decay_mult=10.0), 5e-2),
        (dict(angular_update=0.01), 0.01**2 * 1.9 / (2 * 0.05)),
    ):
        config = config_of(
            [], constructor='SMDOptimWrapperConstructor', paramwise_cfg=keys
        )
        found = plan(config, iters_per_epoch=100)
        assert found['weight_decay'] == pytest.approx(decay)


@pytest.mark.parametrize(
    'optimizer',
    [
        dict(type='AdamW', lr=1e-3, weight_decay=0.05),
        dict(type='SGD', lr=0.05, momentum=0.9, nesterov=True),
        dict(type='RMSprop', lr=1e-3, momentum=0.9),
    ],
    ids=lambda settings: settings['type'],
)
def test_an_angular_update_is_refused_where_it_is_not_derived(optimizer):
    wrapper = dict(
        constructor='SMDOptimWrapperConstructor',
        paramwise_cfg=dict(angular_update=0.01),
    )
    with pytest.raises(SettingError, match='angular_update is derived for SGD'):
        plan(config_of([], optimizer=optimizer, **wrapper), iters_per_epoch=100)


def test_an_angular_update_is_the_same_whatever_the_multipliers():
    keys = {'0': dict(lr_mult=0.1), '1': dict(decay_mult=3.0)}
    paramwise = dict(angular_update=0.01, custom_keys=keys)
    config = config_of(
        [], constructor='SMDOptimWrapperConstructor', paramwise_cfg=paramwise
    )
    planned = read_optimizer(config)
    assert planned.assumptions == ()
    layers = [m for _ in '012' for m in (nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))]
    model = nn.ModuleDict({f'{i // 2}{"cn"[i % 2]}': m for i, m in enumerate(layers)})
    built = SMDOptimWrapperConstructor(
        dict(type='OptimWrapper', optimizer=config.optim_wrapper.optimizer),
        dict(paramwise, include=['*c.weight']),
    )(model).optimizer
    names = {id(p): name for name, p in model.named_parameters()}
    marked = [g for g in built.param_groups if g['scale_invariant']]
    for group in marked:
        for p in group['params']:
            rate, decay = planned.multipliers(names[id(p)])
            assert planned.lr * rate == pytest.approx(group['lr'])
            assert planned.weight_decay * decay == pytest.approx(group['weight_decay'])
    assert {round(g['lr'], 9) for g in marked} == {0.05, 0.005}


def test_layers_with_multipliers_are_told():
    config = config_of(
        [], paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.25)))
    )
    found = plan(config, iters_per_epoch=100)
    assert any("'backbone' have lr × 0.25" in line for line in found['assumptions'])
