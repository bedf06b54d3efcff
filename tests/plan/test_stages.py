"""What a plan says of stages that are no steps of the rate, and of other optimizers."""

import io
import json
import re

import numpy as np
import pytest
from rich.console import Console
from schedules import STEP, WARM, config_by_iteration, config_of
from simulation import Walk
from zoo_walks import adam, sgd, walk

from smd_mmdet.config.errors import SettingError
from smd_mmdet.config.schedule import learning_rates
from smd_mmdet.plan import plan
from smd_mmdet.report.planning import render_plan

# Of tests/schedules.py: SGD with lr 0.05, momentum 0.9 and weight decay 5e-3, so that
# ‖w‖⁴ relaxes in 100 iterations.
RATE = 4 * 5e-3 * 0.05 / 0.1
DROP = dict(type='MultiStepLR', by_epoch=False, gamma=0.1)


def drop(at: int) -> dict:
    return DROP | dict(milestones=[at])


# ------------------------------------------------------------- annealing


def linear(iters: int) -> dict:
    return dict(type='LinearLR', start_factor=1.0, end_factor=0.0, by_epoch=False) | (
        dict(begin=0, end=iters + 1)
    )


def test_a_decay_to_zero_is_no_fault_and_tells_when_norms_freeze():
    iters = 20_000
    found = plan(config_by_iteration([linear(iters)], iters))
    [stage] = found['stages']
    # s = 1 − √((1−α)/(4λη₀T)) of the way: κ = 1 there.
    expected = 1 - np.sqrt(1 / (RATE * iters))
    assert stage['frozen_from'] / iters == pytest.approx(expected, abs=1e-3)
    assert stage['frozen_to'] == stage['last_iter']
    assert (stage['reaches'], stage['anneals'], found['exit_code']) == (None, True, 0)
    assert stage['warning'] is None
    assert 'decay' not in ' '.join(found['warnings'])
    assert any('norms cannot follow' in line for line in found['notes'])


def test_a_norm_is_frozen_in_a_walk_when_the_plan_says_so():
    iters = 6000
    config = config_by_iteration([linear(iters)], iters)
    lr, _ = learning_rates(config, iters, None, by_epoch=False)
    walk = Walk(lr=lr, weight_decay=5e-3, momentum=0.9, layers=16, size=64)
    norm = walk.series['weight_norm'].mean(1)
    [stage] = plan(config)['stages']
    frozen = stage['frozen_from'] - 1
    # While the norm follows it falls with η^(1/4); frozen, by 1 − 2^(−1/4) at most.
    assert norm[0] / norm[frozen] > 1.4
    assert norm[frozen] / norm[-1] < 1.19
    angle = np.sqrt((walk.series['angular_update'] ** 2).mean(1))
    late = (frozen + iters) // 2
    assert angle[late : late + 200].mean() / angle[frozen : frozen + 200].mean() == (
        pytest.approx(
            lr[late : late + 200].mean() / lr[frozen : frozen + 200].mean(), rel=0.1
        )
    )


def test_what_follows_an_annealing_at_its_last_rate_belongs_to_it():
    cosine = dict(type='CosineAnnealingLR', by_epoch=False, T_max=2000, eta_min=1e-4)
    found = plan(config_by_iteration([cosine | dict(end=2000)], 2500))
    assert [s['anneals'] for s in found['stages']] == [True, True]
    assert found['exit_code'] == 0
    # Long enough, it comes to its equilibrium all the same.
    found = plan(config_by_iteration([cosine | dict(end=2000)], 600_000))
    assert [s['reaches'] for s in found['stages']] == [None, True]


def test_a_cosine_in_stairs_is_one_annealing():
    cosine = dict(type='CosineAnnealingLR', by_epoch=True, T_max=100)
    found = plan(config_of([WARM, cosine], epochs=100), iters_per_epoch=50)
    stages = [stage for stage in found['stages'] if stage['stage'] >= 0]
    assert len(stages) == 100 and found['exit_code'] == 0
    assert {stage['stairs'] for stage in stages[:95]} == {0}
    assert not any(stage['warning'] for stage in stages)
    assert any('in stairs' in line for line in found['notes'])
    console = Console(file=io.StringIO(), width=80)
    console.print(render_plan(found))
    assert console.file.getvalue().count('\n') < 60
    # Changes of the momentum are none,
    moving = dict(type='StepMomentum', step_size=1, gamma=0.9)
    stages = plan(config_of([moving], epochs=6), iters_per_epoch=50)['stages']
    assert len(stages) == 6 and {stage['stairs'] for stage in stages} == {None}
    # nor are drops.
    steps = dict(type='MultiStepLR', milestones=[1, 2, 3, 4, 5], gamma=0.1)
    stages = plan(config_of([steps], epochs=6), iters_per_epoch=50)['stages']
    assert {stage['stairs'] for stage in stages} == {None}


def test_a_rate_that_rises_faster_than_norms_can_follow_is_warned_of():
    steps = dict(type='MultiStepLR', by_epoch=False, milestones=[2000], gamma=0.01)
    rises = dict(type='LinearLR', by_epoch=False, start_factor=0.01) | (
        dict(begin=2000, end=2050)
    )
    config = config_by_iteration([rises], 2050)
    config.param_scheduler = [steps, rises]
    assert plan(config)['exit_code'] == 1


def test_a_rate_that_is_zero_from_the_beginning_is_refused():
    nothing = dict(type='ConstantLR', factor=0.0, by_epoch=False, end=10_000)
    with pytest.raises(SettingError, match='the learning rate is 0 at iteration 1'):
        plan(config_by_iteration([nothing], 100))


# ------------------------------------------------------------------ plateaus


def test_a_rate_that_waits_for_scores_is_said_to_be_unknown():
    plateau = dict(type='ReduceOnPlateauLR', monitor='coco/bbox_mAP')
    found = plan(config_of([plateau]), iters_per_epoch=5000)
    assert 'the rate is not known in advance (ReduceOnPlateauLR)' in found['verdict']
    assert any('nobody knows in advance' in line for line in found['warnings'])
    found = plan(config_of([]), iters_per_epoch=5000)
    assert 'in advance' not in found['verdict']


# ------------------------------------------------------------------ climbs


def test_a_climb_within_a_stage_is_a_risk_of_its_own():
    found = plan(config_by_iteration([drop(1000)], 8000))
    first, second = found['stages']
    assert second['reaches'] is True
    # From Δ*/√10 to Δ*.
    assert second['plain']['climb'] == pytest.approx(np.sqrt(10), rel=0.01)
    assert re.search(r'climbs 3\.[12]-fold within stage 1', second['warning'])
    assert first['warning'] is None and found['exit_code'] == 0
    short = plan(config_by_iteration([drop(1000)], 1050))['stages'][1]
    assert 'climbs' not in short['warning']


def test_rescaling_at_the_drop_leaves_nothing_to_climb():
    config = config_by_iteration([drop(1000)], 8000)
    config.custom_hooks = [dict(type='SMDRescaleHook')]
    second = plan(config)['stages'][1]
    assert second['rescaled']['climb'] == pytest.approx(1, abs=1e-3)
    assert second['warning'] is None


# ------------------------------------------------------- other endings


def test_the_angle_at_the_end_is_told_for_what_might_be_done():
    found = plan(config_by_iteration([drop(2000)], 3000))
    second = found['stages'][1]
    outcomes = second['outcomes']
    assert outcomes['equilibrium_start'] == second['plain']['end']
    assert outcomes['rescaling'] == pytest.approx(second['angular_update_eq'], rel=1e-3)
    # From 3 w* the first stage forgets its start: 20 e-folds.
    assert outcomes['usual_start'] == pytest.approx(second['plain']['end'], rel=1e-3)
    config = config_by_iteration([], 1000)
    config.optim_wrapper.optimizer.weight_decay = 5e-4
    short = plan(config)['stages'][0]['outcomes']
    # One e-fold of ‖w‖⁴ from 81 w*⁴.
    expected = (1 + 80 * np.exp(-1)) ** -0.5
    share = short['usual_start'] / short['equilibrium_start']
    assert share == pytest.approx(expected, rel=0.01)


def test_the_suggested_decay_is_the_least_that_does():
    schedule, iters = [drop(2000)], 3000
    second = plan(config_by_iteration(schedule, iters))['stages'][1]
    assert second['reaches'] is False

    def reaches(decay: float) -> bool:
        config = config_by_iteration(schedule, iters)
        config.optim_wrapper.optimizer.weight_decay = decay
        stage = plan(config)['stages'][1]
        return abs(stage['plain']['end_ratio'] - 1) <= 0.1

    decay = second['suggested_decay']
    assert reaches(decay) and not reaches(decay / 1.2)
    assert f'{decay:.2g}' in second['warning']


# ------------------------------------------------------------------ clipping


def clipped(schedule, iters: int, **clip):
    config = config_by_iteration(schedule, iters)
    config.optim_wrapper.clip_grad = clip
    return plan(config)


def test_clipping_is_forecast_for_both_limits():
    iters = 6000
    found = clipped([drop(2000)], iters, max_norm=35, norm_type=2)
    second = found['stages'][1]
    assert found['clipping_power'] is None
    assert any('max_norm=35' in line for line in found['notes'])
    # Clipped at every step ‖w‖² relaxes at 2λη/(1−α), from 10 w*², and Δ ∝ 1/‖w‖.
    late = 1 + 9 * np.exp(-4000 * RATE / 10 / 2)
    ends = second['always_clipped']
    assert ends['start_ratio'] == pytest.approx(10**-0.5, rel=1e-3)
    assert ends['end_ratio'] == pytest.approx(late**-0.5, rel=2e-3)
    late = 1 + 9 * np.exp(-4000 * RATE / 10)
    assert second['plain']['end_ratio'] == pytest.approx(late**-0.5, rel=2e-3)
    # It is long enough without clipping only.
    assert second['plain']['end_ratio'] > 0.9 > ends['end_ratio']
    assert second['reaches'] is None and found['exit_code'] == 0
    assert (
        'for stage 1 it depends on how often the gradient is clipped'
        in (found['verdict'])
    )
    assert clipped([drop(2000)], 2100, max_norm=35)['exit_code'] == 1
    assert (
        plan(config_by_iteration([drop(2000)], iters))['stages'][1]['always_clipped']
        is None
    )


def test_clipping_by_value_leaves_nothing_to_forecast():
    found = clipped([], 1000, type='value', clip_value=1.0)
    assert found['verdict'] == 'no theory for gradients that are clipped by value'
    assert found['stages'][0]['plain'] is None and found['exit_code'] == 0


# ------------------------------------------------------------ optimizers


def by_optimizer(iters: int, schedule=(), **optimizer) -> dict:
    config = config_by_iteration(schedule, iters)
    config.optim_wrapper.optimizer = optimizer
    found = plan(config)
    json.dumps(found, allow_nan=False)
    return found


def test_adamw_is_forecast_from_the_usual_numbers():
    lr, decay, iters = 1e-3, 0.05, 8000
    [stage] = by_optimizer(iters, type='AdamW', lr=lr, weight_decay=decay)['stages']
    assert stage['angular_update_eq'] == pytest.approx(
        np.sqrt(2 * lr * decay * 0.1 / 1.9)
    )
    # Of white gradients a weight's mean square comes to η/2λ at 2ηλ an iteration.
    square = (lr / 2 / decay) + (0.03**2 - lr / 2 / decay) * np.exp(
        -2 * lr * decay * np.array([0, iters])
    )
    expected = np.sqrt(lr / 2 / decay / square)
    ends = stage['plain']
    assert (ends['start_ratio'], ends['end_ratio']) == pytest.approx(expected, rel=1e-3)
    assert stage['reaches'] is False and 'numbers near 0.03' in stage['warning']
    [stage] = by_optimizer(60_000, type='AdamW', lr=lr, weight_decay=decay)['stages']
    assert stage['reaches'] is True and stage['warning'] is None


def test_nesterov_is_planned_with_its_own_angle():
    sgd = dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-3)
    plain = by_optimizer(3000, [drop(2000)], **sgd)
    found = by_optimizer(3000, [drop(2000)], **sgd, nesterov=True)
    for stage, other in zip(found['stages'], plain['stages'], strict=True):
        ratio = stage['angular_update_eq'] / other['angular_update_eq']
        assert ratio == pytest.approx(np.sqrt(1 + 1.8 - 2 * 0.9**3), rel=1e-9)
        assert stage['plain']['end_ratio'] == pytest.approx(
            other['plain']['end_ratio'], rel=1e-3
        )


def test_what_has_no_way_to_an_equilibrium_says_what_it_has():
    found = by_optimizer(100, type='Lamb', lr=5e-3, weight_decay=0.02)
    assert found['stages'][0]['angular_update_eq'] == pytest.approx(5e-3)
    assert 'Δ ≈ η' in found['verdict'] and found['exit_code'] == 0
    found = by_optimizer(100, type='Adam', lr=1e-3, weight_decay=1e-4)
    assert 'differs from layer to layer' in found['verdict']
    assert found['stages'][0]['angular_update_eq'] is None
    lion = dict(type='Lion', lr=1e-4, weight_decay=0.1, betas=(0.9, 0.99))
    found = by_optimizer(100, **lion)
    assert found['stages'][0]['reaches'] is None and found['exit_code'] == 0
    assert 'rough' in found['verdict']


def test_a_few_iterations_before_an_annealing_are_not_judged():
    cosine = dict(type='CosineAnnealingLR', by_epoch=False, begin=10, T_max=990)
    warm = WARM | dict(end=8)
    found = plan(config_by_iteration([warm, cosine], 1000))
    assert [s['stage'] for s in found['stages']] == [-1, 0, 1]
    assert found['stages'][1]['iterations'] < 10
    assert [s['reaches'] for s in found['stages']] == [None] * 3
    assert found['exit_code'] == 0


def test_epochs_of_a_step_schedule_are_judged_as_before():
    found = plan(config_of([STEP], epochs=4), iters_per_epoch=1000)
    assert [s['reaches'] for s in found['stages']] == [True, False, False]


# ------------------------------------------------------- weights that move


def seen(course, part: slice) -> float:
    """The root mean square of Δ in a walk."""
    return float(np.sqrt((course.angle[part] ** 2).mean()))


def test_a_flat_half_and_a_cosine_under_adamw_go_as_a_walk_does():
    lr, decay, half, size = 1e-3, 0.2, 5000, 64
    cosine = dict(type='CosineAnnealingLR', by_epoch=False, T_max=half) | (
        dict(begin=half, end=2 * half, eta_min=0.05 * lr)
    )
    config = config_by_iteration([cosine], 2 * half)
    config.optim_wrapper.optimizer = dict(
        type='AdamW', lr=lr, weight_decay=decay, betas=(0.9, 0.99)
    )
    rates, _ = learning_rates(config, 2 * half, None, by_epoch=False)
    course = walk(
        adam(beta2=0.99), rates, decay, 0.03 * size**0.5, size=size, layers=40
    )
    flat, annealed = plan(config)['stages']
    assert flat['reaches'] is True and annealed['anneals']
    for stage in (flat, annealed):
        last = stage['last_iter']
        assert seen(course, slice(last - 50, last)) == pytest.approx(
            stage['plain']['end'], rel=0.03
        )
    # The walk began at 0.6 w*.
    assert flat['plain']['start_ratio'] == pytest.approx(1 / 0.6, rel=1e-6)
    frozen = annealed['frozen_from']
    assert course.norm[frozen].mean() / course.norm[-1].mean() < 1.15


@pytest.mark.parametrize('nesterov', [False, True])
def test_always_clipped_steps_go_as_a_walk_does(nesterov):
    iters = 6000
    config = config_by_iteration([drop(3000)], iters)
    config.optim_wrapper.optimizer.nesterov = nesterov
    config.optim_wrapper.clip_grad = dict(max_norm=1e-3)
    second = plan(config)['stages'][1]
    rates = np.repeat([0.05, 0.005], 3000)
    # One layer alone, so that its norm is what clipping looks at.
    courses = [
        walk(sgd(nesterov=nesterov), rates, 5e-3, 0.1, layers=1, max_norm=1e-3, seed=s)
        for s in range(3)
    ]
    last = np.mean([seen(course, slice(-300, None)) ** 2 for course in courses]) ** 0.5
    assert last == pytest.approx(
        second['always_clipped']['end_ratio'] * second['angular_update_eq'], rel=0.05
    )
    assert second['plain']['end_ratio'] / second['always_clipped']['end_ratio'] > 1.2
