"""Plans of configs with SMDRescaleHook."""

from pathlib import Path

import pytest
from schedules import COSINE, STEP, config_by_iteration, config_of, rescaled_config
from simulation import Walk

from smd_mmdet.config.schedule import learning_rates
from smd_mmdet.plan import plan
from smd_mmdet.theory import equilibrium_norm

ROOT = Path(__file__).parents[2]


def warned(found) -> list[str]:
    """What is warned of stages; the angles of these configs are large for a plan."""
    return [stage['warning'] for stage in found['stages'] if stage['warning']]


def test_a_config_that_rescales_is_judged_by_the_rescaled_forecast():
    config = config_of([STEP], epochs=4)
    plain = plan(config, iters_per_epoch=1000)
    assert [s['reaches'] for s in plain['stages']] == [True, False, False]
    config.custom_hooks = [dict(type='SMDRescaleHook')]
    found = plan(config, iters_per_epoch=1000)
    assert found['exit_code'] == 0 and warned(found) == []
    assert all(s['reaches'] for s in found['stages'])
    assert found['stages'][1]['plain'] == plain['stages'][1]['plain']
    config.custom_hooks[0].update(at_lr_drops=False, start_at_equilibrium=True)
    found = plan(config, iters_per_epoch=1000)
    assert found['exit_code'] == 1
    assert found['verdict'].endswith('without rescaling: stage 1, 2')


def test_a_hook_that_follows_every_change_is_judged_so():
    config = rescaled_config([COSINE | dict(T_max=2000)], 2000)
    steps = plan(config)
    config.custom_hooks[0].continuous = True
    found = plan(config)
    [stage] = found['stages']
    # w* goes with η^(1/4) and so do the weights: they stay where they began.
    assert stage['rescaled']['farthest_in_last_third'] < 1e-3
    assert (found['exit_code'], warned(found)) == (0, [])
    assert any('at every change of the rate' in line for line in found['assumptions'])
    # A hook that follows steps only does nothing on a cosine, and is not asked for.
    assert steps['stages'][0]['rescaled'] == steps['stages'][0]['plain']
    assert steps['stages'][0]['anneals'] and steps['exit_code'] == 0


def test_a_hook_that_follows_steps_leaves_a_cosine_that_goes_flat():
    config = rescaled_config([COSINE | dict(T_max=1000, end=1000)], 1500)
    lr, _ = learning_rates(config, 1500, None, by_epoch=False)
    walk = Walk(lr=lr, weight_decay=5e-3, momentum=0.9, layers=60, size=64, noise=0.05)
    flat = plan(config)['stages'][1]
    first = flat['first_iter'] - 1
    norm_eq = equilibrium_norm(lr[first:], 5e-3, 1.0, 0.9)
    ratios = (norm_eq / walk.series['weight_norm'].mean(1)[first:]) ** 2
    assert flat['rescaled']['start_ratio'] == pytest.approx(ratios[0], rel=0.02)
    assert flat['rescaled']['end_ratio'] == pytest.approx(ratios[-1], rel=0.02)
    assert flat['anneals'] and flat['reaches'] is None


def test_a_start_at_equilibrium_makes_up_for_a_short_stage():
    def planned(iters: int, schedule=(), **settings) -> dict:
        start = settings or True
        return plan(
            rescaled_config(
                schedule, iters, start_at_equilibrium=start, at_lr_drops=False
            )
        )

    assert plan(config_by_iteration([], 150))['exit_code'] == 1
    found = planned(150)
    # It measures from the second iteration on, the first whose rate does not rise.
    assert any('front of iteration 102' in line for line in found['assumptions'])
    assert found['stages'][0]['iterations_to_equilibrium'] == 101
    assert (found['exit_code'], warned(found)) == (0, [])
    assert planned(150, begin=40)['stages'][0]['iterations_to_equilibrium'] == 140
    # A layer moves by a factor of 1.1 at most, twice: what began further off is not.
    close = planned(150, max_factor=1.1, measure=60)['stages'][0]
    assert close['reachable_from'] == pytest.approx(1.1**2)
    short = planned(100)
    assert short['exit_code'] == 1
    assert any('is not counted' in line for line in short['assumptions'])


def test_a_start_at_equilibrium_after_a_drop_ends_there():
    drop = dict(type='MultiStepLR', by_epoch=False, milestones=[1000], gamma=0.1)
    start = dict(begin=1100, measure=50)
    config = rescaled_config(
        [drop], 1200, start_at_equilibrium=start, at_lr_drops=False
    )
    stage = plan(config)['stages'][1]
    assert stage['plain']['start_ratio'] == pytest.approx(10**-0.5, rel=1e-2)
    assert stage['plain']['end_ratio'] == pytest.approx(1, abs=0.01)
    assert stage['iterations_to_equilibrium'] == 150
    assert stage['reaches']


def test_the_config_that_starts_at_equilibrium_is_not_told_to():
    name = 'mask-rcnn_r18_fpn_bn_slow-start-at-equilibrium_shapes.py'
    found = plan(f'{ROOT}/configs/shapes/{name}')
    assert found['exit_code'] == 0
    assert not any('start at equilibrium' in line for line in found['warnings'])
