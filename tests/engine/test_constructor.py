"""The constructor: every key of MMEngine's, and scale-invariant weights apart."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from tiny import (
    SCALE_INVARIANT,
    TinyNet,
    log_of,
    tiny_config,
    train,
    weights,
)

from smd_mmdet import theory
from smd_mmdet.engine import SettingError


def settings_per_parameter(wrapper, model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(p)]: (group['lr'], group['weight_decay'], group['momentum'])
        for group in wrapper.optimizer.param_groups
        for p in group['params']
    }


PARAMWISE = [
    None,
    dict(norm_decay_mult=0.0, bias_lr_mult=2.0, bias_decay_mult=0.0),
    dict(custom_keys={'layers.3': dict(lr_mult=0.1, decay_mult=0.5)}),
    dict(flat_decay_mult=0.0, bypass_duplicate=True),
]


@pytest.mark.parametrize('paramwise_cfg', PARAMWISE)
def test_every_key_of_mmengine_works_as_before(paramwise_cfg):
    init_default_scope('mmengine')
    model = TinyNet()
    config = dict(
        optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-3),
        paramwise_cfg=paramwise_cfg,
    )
    stock = build_optim_wrapper(model, config)
    ours = build_optim_wrapper(
        model, dict(constructor='SMDOptimWrapperConstructor', **config)
    )
    expected = settings_per_parameter(stock, model)
    assert settings_per_parameter(ours, model) == expected
    names = {id(p): name for name, p in model.named_parameters()}
    for group in ours.optimizer.param_groups:
        for parameter in group['params']:
            invariant = names[id(parameter)] in SCALE_INVARIANT
            assert group['scale_invariant'] is invariant


def test_scale_invariant_weights_can_have_a_decay_of_their_own():
    model = TinyNet()
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor='SMDOptimWrapperConstructor',
            optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-3),
            paramwise_cfg=dict(scale_invariant_decay_mult=5.0, norm_decay_mult=0.0),
        ),
    )
    for name, (_, decay, _) in settings_per_parameter(wrapper, model).items():
        norm = name.startswith(('layers.1.', 'layers.4.'))
        expected = 5e-3 if name in SCALE_INVARIANT else 0 if norm else 1e-3
        assert decay == pytest.approx(expected, rel=1e-12), name


@pytest.mark.parametrize(
    ('optimizer', 'wanted'),
    [
        # λ = Δ²(1+α)/(2η), with what each optimizer has instead of (1+α)/η.
        (dict(type='SGD', lr=0.1, momentum=0.9), 1.9 / 0.2),
        (dict(type='SGD', lr=0.1, momentum=0.9, dampening=0.5), 1.9 / 0.1),
        (
            dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True),
            1.9 / (0.2 * (1 + 1.8 - 1.458)),
        ),
        (dict(type='AdamW', lr=1e-3), 1.9 / (2e-3 * 0.1)),
    ],
)
def test_the_angular_update_can_be_asked_for(optimizer, wanted):
    model = TinyNet()
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor='SMDOptimWrapperConstructor',
            optimizer=dict(optimizer, weight_decay=1e-3),
            paramwise_cfg=dict(angular_update=2e-3, exclude=['layers.0']),
        ),
    )
    groups = wrapper.optimizer.param_groups
    decays = {id(p): g['weight_decay'] for g in groups for p in g['params']}
    decay = decays.pop(id(model.layers[3].weight))
    assert decay == pytest.approx(2e-3**2 * wanted, rel=1e-12)
    assert set(decays.values()) == {1e-3}


def angular_updates(runner):
    """Δ* of every group of scale-invariant weights, at the rate of the config."""
    return [
        theory.angular_update(
            group.get('initial_lr', group['lr']),
            group['weight_decay'],
            group['momentum'],
        )
        for group in runner.optim_wrapper.optimizer.param_groups
        if group['scale_invariant']
    ]


@pytest.mark.parametrize('hook', [None, dict(window=5, verify=False)])
@pytest.mark.parametrize('schedule', [True, False])
def test_the_angular_update_is_that_of_the_rate_that_trains(tmp_path, hook, schedule):
    """MMEngine doubles the rate after the constructor has set the decay."""
    keys = {'layers.3': dict(lr_mult=0.5)}
    changes = {
        'auto_scale_lr': dict(enable=True, base_batch_size=4),
        'optim_wrapper.paramwise_cfg': dict(angular_update=2e-3, custom_keys=keys),
        'default_hooks.checkpoint.interval': 6,
    }
    config = tiny_config(tmp_path, 12, hook, **changes)
    if not schedule:
        config.param_scheduler = None
    runner = train(config)
    assert angular_updates(runner) == pytest.approx([2e-3, 2e-3], rel=1e-12)
    whole = weights(runner)
    decays = [g['weight_decay'] for g in runner.optim_wrapper.optimizer.param_groups]
    assert decays[0] != decays[1]
    config.resume, config.load_from = True, str(tmp_path / 'iter_6.pth')
    runner = train(config)
    assert angular_updates(runner) == pytest.approx([2e-3, 2e-3], rel=1e-12)
    assert 'is that of the checkpoint' not in log_of(runner)
    for name, value in weights(runner).items():
        assert torch.equal(value, whole[name]), name


def test_a_resumed_run_keeps_the_decay_of_its_checkpoint(tmp_path):
    changes = {'optim_wrapper.paramwise_cfg': dict(angular_update=2e-3)}
    train(tiny_config(tmp_path, 25, **changes))
    changes = {
        'optim_wrapper.paramwise_cfg': dict(angular_update=3e-3),
        'resume': True,
        'load_from': str(tmp_path / 'iter_25.pth'),
    }
    runner = train(tiny_config(tmp_path, 27, dict(window=5, verify=False), **changes))
    assert angular_updates(runner) == pytest.approx([2e-3], rel=1e-12)
    assert 'weight decay of scale-invariant weights is that of' in log_of(runner)


def test_a_constructor_without_an_optimizer_says_so():
    config = dict(
        constructor='SMDOptimWrapperConstructor',
        head=dict(optimizer=dict(type='SGD', lr=0.1)),
    )
    with pytest.raises(SettingError, match=r'optim_wrapper\.optimizer is missing'):
        build_optim_wrapper(TinyNet(), config)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            dict(angular_update='fast'),
            "angular_update must be a number >= 0, got 'fast'",
        ),
        (dict(angular_update=0.0), 'angular_update must be > 0'),
        (dict(scale_invariant_decay_mult=-1), 'scale_invariant_decay_mult must be'),
        (
            dict(angular_update=1e-3, scale_invariant_decay_mult=2),
            'both set the weight decay',
        ),
        (dict(include=['layers.9']), "include: 'layers.9' matches no parameter"),
        (
            dict(angular_update=1e-3, custom_keys={'layers.3': dict(lr_mult=0)}),
            r'^paramwise_cfg.angular_update: layers.3.weight has a learning rate of 0 '
            r'\(lr_mult=0\): no weight decay gives .*; leave it out by paramwise_',
        ),
    ],
)
def test_the_constructor_names_what_is_wrong(changes, message):
    with pytest.raises(SettingError, match=message):
        build_optim_wrapper(
            TinyNet(),
            dict(
                constructor='SMDOptimWrapperConstructor',
                optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-3),
                paramwise_cfg=changes,
            ),
        )


@pytest.mark.parametrize(
    ('optimizer', 'setting', 'message'),
    [
        ('Adam', 'angular_update', 'angular_update is derived for SGD'),
        ('RMSprop', 'angular_update', 'angular_update is derived for SGD'),
        ('Rprop', 'scale_invariant_decay_mult', 'the optimizer has no weight decay'),
    ],
)
def test_a_decay_is_refused_where_the_optimizer_has_none_of_its_kind(
    optimizer, setting, message
):
    with pytest.raises(SettingError, match=message):
        build_optim_wrapper(
            TinyNet(),
            dict(
                constructor='SMDOptimWrapperConstructor',
                optimizer=dict(type=optimizer, lr=0.1),
                paramwise_cfg={setting: 1e-3},
            ),
        )
