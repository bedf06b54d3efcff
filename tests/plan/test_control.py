"""Plans of configs whose angular update is set."""

import numpy as np
import pytest
from schedules import STEP, WARM, config_by_iteration, config_of, rescaled_config

from smd_mmdet.config.errors import SettingError
from smd_mmdet.plan import plan
from smd_mmdet.records import RecordWriter
from smd_mmdet.report.planning import render_plan

DROP = dict(type='MultiStepLR', by_epoch=False, milestones=[2000], gamma=0.1)


def controlled(angular_update, schedulers=(DROP,), iters=3000, every=20, **optimizer):
    hook = dict(angular_update=angular_update, every=every)
    config = rescaled_config(schedulers, iters, **hook)
    config.optim_wrapper.optimizer.update(optimizer)
    return config


def control(found):
    return [stage['control'] for stage in found['stages']]


def text_of(found):
    from rich.console import Console

    console = Console(width=140)
    with console.capture() as kept:
        console.print(render_plan(found))
    return kept.get()


def test_a_number_is_wanted_in_every_stage_whatever_the_rate():
    # Δ* = √(2·0.05·5e-3/1.9) = 0.016222; from 3 w*, Δ is a ninth of that.
    found = plan(controlled(0.02))
    first, second = control(found)
    assert (first['start'], first['end'], second['start']) == (0.02, 0.02, 0.02)
    assert first['start_ratio'] == pytest.approx(0.02 / 0.0162221, rel=1e-5)
    # Under SGD Δ ∝ η/‖w‖²: at 3 w* Δ is 0.0018, so that ‖w‖ is divided by √11.1, and at
    # the drop by √10. Only what is known ahead is followed by more than a factor of 2.
    assert first['factor'] == pytest.approx((0.0162221 / 9 / 0.02) ** 0.5, rel=1e-4)
    assert second['factor'] == pytest.approx(10**-0.5)
    assert (first['controls'], second['controls']) == (2, 1)
    assert found['exit_code'] == 0
    assert [s['reaches'] for s in found['stages']] == [None, None]
    assert not [w for w in found['warnings'] if 'stage' in w]
    assert 'is set in 2 of 2 stages' in found['verdict']
    assert any('SMDRescaleHook sets Δ to 0.02 rad' in note for note in found['notes'])
    shown = text_of(found)
    assert '× 0.316' in shown and 'Δ wanted' in shown and 'climb' not in shown


def test_what_fewer_steps_have_shown_moves_a_norm_by_less():
    first, _ = control(plan(controlled(0.02, every=1)))
    # By the fourth root of 2 each: √11.1 = 2^(6.9 / 4).
    assert first['controls'] == 7


def test_the_same_schedule_without_control_is_warned_of():
    found = plan(config_by_iteration([DROP], 3000))
    assert found['exit_code'] == 1 and control(found) == [None, None]
    assert [w for w in found['warnings'] if w.startswith('stage 1 lasts')]


def test_under_adamw_the_norm_follows_the_rate_itself():
    config = controlled(0.01)
    config.optim_wrapper.optimizer = dict(type='AdamW', lr=1e-3, weight_decay=0.05)
    assert control(plan(config))[1]['factor'] == pytest.approx(0.1)
    assert control(plan(config))[1]['controls'] == 2  # 10 is more than 4


def test_a_schedule_of_the_angle_is_that_of_mmengine():
    wanted = dict(
        value=0.02,
        param_scheduler=[
            dict(type='CosineAnnealingLR', by_epoch=False, T_max=2999, eta_min=2e-3)
        ],
    )
    first, second = control(plan(controlled(wanted)))
    assert first['start'] == 0.02 and second['end'] == pytest.approx(2e-3)
    cosine = 2e-3 + 0.018 * (1 + np.cos(np.pi * 2000 / 2999)) / 2
    assert second['start'] == pytest.approx(cosine)
    # The norm that has Δ = 0.02·η/‖w‖² goes on from the end of the stage before.
    before = 2e-3 + 0.018 * (1 + np.cos(np.pi * 1999 / 2999)) / 2
    assert second['factor'] == pytest.approx((0.1 * before / cosine) ** 0.5)


def test_equilibrium_is_wanted_at_each_rate():
    first, second = control(plan(controlled('equilibrium')))
    assert first['start_ratio'] == second['end_ratio'] == pytest.approx(1)
    assert first['factor'] == pytest.approx(1 / 3)
    assert second['factor'] == pytest.approx(10**-0.25)


def test_a_warm_up_of_the_rate_asks_for_small_norms():
    warm = WARM | dict(start_factor=0.001, end=500)
    found = control(plan(controlled(0.0162221, schedulers=[warm])))
    # At a rate of a thousandth, ‖w‖ has to be √1000 times smaller than w*.
    assert found[0]['factor'] == pytest.approx(1e-3**0.5 / 3, rel=1e-3)
    assert found[0]['controls'] == 7  # 2⁶ = 64 < 95
    assert found[1]['factor'] == pytest.approx(1, rel=2e-3)


def test_accumulated_gradients_make_fewer_steps():
    wanted = dict(value=0.02, param_scheduler=[DROP])
    config = controlled(wanted)
    config.optim_wrapper.accumulative_counts = 4
    found = plan(config)
    assert [s['first_iter'] for s in found['stages']] == [1, 501]
    assert [c['start'] for c in control(found)] == pytest.approx([0.02, 0.002])


@pytest.fixture
def recorded(tmp_path):
    """A run whose two layers turn by 0.01 and 0.03, then by a tenth of that."""
    rows = dict(iter=[], count=[], layer=[], stage=[], angular_update_mean=[])
    for end in range(50, 1001, 50):
        for layer, angle in (('a', 0.01), ('b', 0.03)):
            rows['iter'].append(end)
            rows['count'].append(50)
            rows['layer'].append(layer)
            rows['stage'].append(0)
            rows['angular_update_mean'].append(angle if end <= 500 else angle / 10)
    rows['angular_update_var'] = [0.0] * 40
    RecordWriter(tmp_path / 'run', {}).append(rows)
    return str(tmp_path / 'run')


def test_a_run_is_repeated_by_the_median_of_its_layers(recorded):
    found = plan(controlled(dict(run=recorded, scale_time=True)))
    first, second = control(found)
    assert first['start'] == pytest.approx(0.02)
    assert second['end'] == pytest.approx(0.002)
    assert any('median' in note for note in found['notes'])
    with pytest.raises(SettingError, match=r'1,000 iterations.*scale_time=True'):
        plan(controlled(recorded))


def test_bad_angles_and_optimizers_without_theory_are_told():
    wanted = dict(
        value=0.02,
        param_scheduler=[dict(type='CosineAnnealingLR', by_epoch=False, T_max=2999)],
    )
    with pytest.raises(SettingError, match=r'eta_min'):
        plan(controlled(wanted))
    config = controlled(0.01)
    config.optim_wrapper.optimizer = dict(type='RMSprop', lr=1e-3, weight_decay=0.05)
    found = plan(config)
    assert any('is refused under RMSprop' in line for line in found['warnings'])
    assert found['verdict'] == 'no theory for RMSprop'


def test_without_decay_the_angle_is_set_all_the_same():
    config = config_of([STEP], epochs=4)
    config.optim_wrapper.optimizer.weight_decay = 0
    config.custom_hooks = [dict(type='SMDRescaleHook', angular_update=0.01)]
    found = plan(config, iters_per_epoch=100)
    assert [c['start'] for c in control(found)] == [0.01, 0.01, 0.01]
    assert control(found)[0]['factor'] is None  # no w* to begin from
    assert control(found)[1]['factor'] == pytest.approx(10**-0.5)
    assert not any('weight_decay is 0' in line for line in found['warnings'])
