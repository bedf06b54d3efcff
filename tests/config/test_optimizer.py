"""What is read of a config's optimizer."""

import pytest
from schedules import config_of

from smd_mmdet.engine import SettingError
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
        dict(type='Adam', lr=1e-3, weight_decay=0.05),
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


@pytest.mark.parametrize(
    ('clip', 'key'),
    [
        (dict(type='foo', max_norm=1), 'clip_grad.type'),
        (dict(norm_type=2), 'clip_grad.max_norm'),
        (dict(max_norm='35'), 'clip_grad.max_norm'),
        ([35], 'clip_grad must be a dict'),
    ],
)
def test_a_wrong_clip_grad_is_named(clip, key):
    with pytest.raises(SettingError, match=key):
        plan(config_of([], clip_grad=clip), iters_per_epoch=100)


def test_an_optimizer_that_is_not_here_is_known_by_its_name():
    settings = dict(type='Lion', lr=1e-4, weight_decay=0.1, betas=(0.9, 0.99))
    found = plan(config_of([], optimizer=settings), iters_per_epoch=100)
    assert (found['theory'], found['momentum']) == ('lion', 0.9)
    found = plan(config_of([], optimizer=settings | dict(type='Other')), 100)
    assert (found['theory'], found['optimizer']) == ('none', 'Other')
