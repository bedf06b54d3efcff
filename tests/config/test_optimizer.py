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
