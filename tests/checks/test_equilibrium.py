"""What the theorems say of a layer in equilibrium."""

import re

import numpy as np
import pytest
from simulation import (
    BROKEN,
    DECAY,
    LR,
    Walk,
    failing,
    last_stages,
    records_of,
    simulate,
    small_walk,
    with_columns,
)

from smd_mmdet.checks import (
    FAILS,
    HOLDS,
    IN_EQUILIBRIUM,
    LEVEL,
    NOT_APPLICABLE,
    check,
)


def _corollary(walk):
    """What is found of Corollary 3.1 in the last stage of each layer."""
    stages = last_stages(check(records_of(walk)))
    return [c for s in stages for c in s.checks if c.name == 'corollary_3_1']


def _decay_alone(walk, drop):
    """Steps in which decay alone takes ‖w‖ over the drop to 1.1 of the new ‖w*‖⁴."""
    norm, steps = drop**0.25, 0
    eta = walk.lr[-1] / (1 - walk.momentum)
    while norm > 1.1**0.25:
        norm, steps = norm * (1 - eta * walk.weight_decay), steps + 1
    return steps


@pytest.mark.parametrize('drop', [4, 30])
def test_after_a_cut_the_bound_is_judged_and_the_estimate_told(drop):
    """The paper's estimate is ln k (1−α)/(2λη), decay alone takes half of it."""
    length = 1500 if drop == 4 else 9000
    settings = dict(norm=1.4, size=384, weight_decay=1e-2)
    lr = np.repeat([LR, LR / drop], [900, length])
    plain = small_walk(lr=lr, **settings)
    bound = _decay_alone(plain, drop)
    estimate = int(np.ceil(np.log(drop) * 0.1 / (2 * 1e-2 * LR / drop)))
    for found in _corollary(plain):
        assert found.verdict == HOLDS
        assert found.bound == pytest.approx(bound, rel=0.05)
        assert bound <= found.value <= 4 * bound
        assert f"the paper's estimate is {estimate:,}" in found.reason
    # Too short for what decay alone takes, nothing is tried.
    short = small_walk(lr=np.repeat([LR, LR / drop], [900, bound // 3]), **settings)
    for found in _corollary(short):
        assert found.verdict == NOT_APPLICABLE
        assert 'too short to tell' in found.reason


def test_a_norm_that_falls_faster_than_decay_fails_the_corollary():
    walk = small_walk(lr=np.repeat([LR, LR / 4], [1500, 1500]), size=384)
    table = records_of(walk).table
    # The weights jump 3/4 of the way, some windows into the stage.
    norm = table['weight_norm_mean'].to_numpy().copy()
    late = (table['iter'].to_numpy() > 1650) & (table['iter'].to_numpy() <= 3000)
    norm[late] = np.median(norm[:20]) * 4**-0.25
    report = check(with_columns(records_of(walk), weight_norm_mean=norm))
    for stage in last_stages(report):
        assert stage.verdict_of('corollary_3_1') == FAILS


def test_a_rescaled_cut_has_no_way_to_go():
    lr = np.repeat([LR, LR / 4], [1500, 1500])
    for stage in last_stages(check(records_of(small_walk(lr=lr, rescale=True)))):
        assert stage.verdict_of('corollary_3_1') == NOT_APPLICABLE
        assert stage.state == IN_EQUILIBRIUM


def test_a_snap_to_equilibrium_within_a_stage_is_no_failure():
    first, second = small_walk(400, norm=9.0), small_walk(2000)
    joined = {
        k: np.concatenate([first.series[k], second.series[k]]) for k in first.series
    }
    first.series, first.steps, first.lr = joined, 2400, np.full(2400, LR)
    for stage in last_stages(check(records_of(first))):
        assert stage.state == IN_EQUILIBRIUM
        assert not failing(stage, 'conclusion')


def test_an_equilibrium_that_is_passed_through_does_not_hold():
    for window in (20, 100):
        report = check(simulate(BROKEN['equilibrium passed'], 2, 0, window))
        for stage in last_stages(report):
            # The mean over the end is what it should be.
            assert stage.angular_update_ratio == pytest.approx(1, abs=0.1)
            assert stage.state == 'approaching from above'
            assert 'did not hold still' in stage.note
            assert stage.verdict_of('angular_update') != HOLDS
            assert stage.verdict_of('weight_norm') != HOLDS
        assert report.exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize('noise', [0.2, 20.0])
@pytest.mark.parametrize('steps', [600, 3000])
def test_a_layer_in_equilibrium_seldom_seems_to_pass_through(noise, steps):
    moved = 0
    for seed in range(200):
        walk = small_walk(steps, size=384, noise=noise, layers=1, seed=seed)
        stage = last_stages(check(records_of(walk)))[0]
        moved += 'did not hold still' in stage.note
    assert moved <= 200 * LEVEL


@pytest.mark.parametrize('noise', [0.0, 0.2])
def test_windows_of_one_iteration_show_the_noise_between_them(noise):
    lr = np.full(2000, 0.05)
    walk = Walk(lr, weight_decay=1e-2, noise=noise)
    by_one, by_fifty = (
        last_stages(check(records_of(walk, window=window)))[0] for window in (1, 50)
    )
    for name in ('bounded_noise', 'weight_norm_spread', 'slow_drift'):
        one, fifty = (
            next(c for c in stage.checks if c.name == name)
            for stage in (by_one, by_fifty)
        )
        assert one.verdict == fifty.verdict
        if noise and name != 'slow_drift':
            assert one.value == pytest.approx(fifty.value, rel=0.15)
    assert not failing(by_one, 'conclusion')
    assert by_one.state == IN_EQUILIBRIUM


def test_the_spread_of_the_angle_is_a_figure():
    """Theorem 3 bounds it up to a constant that it does not state."""
    walk = small_walk(2000, momentum=0.0, lr=np.full(2000, 0.5), noise=0.01, layers=1)
    stage = last_stages(check(records_of(walk)))[0]
    found = next(c for c in stage.checks if c.name == 'angular_update_probability')
    assert found.verdict == NOT_APPLICABLE
    late = slice(len(walk.lr) * 2 // 3, None)
    g, angle = walk.series['unit_h'][:, 0], walk.series['angular_update'][late, 0]
    least = g[late].min()
    allowed = (g.var() / g.mean() / least) ** (1 / 3)
    assert found.bound == pytest.approx(allowed, rel=0.05)
    off = np.abs(angle / np.sqrt(2 * DECAY * 0.5) - 1) > found.bound
    assert off.mean() <= found.value
    assert 'a constant that is not stated' in found.reason


def test_a_drift_tells_the_variance_that_it_needs():
    growth, decay = np.linspace(1, 1.4, 6000), 2e-3
    settings = dict(weight_decay=decay, momentum=0.8, noise=0.05, size=384)
    walk = small_walk(6000, unit_grad_sq=growth, layers=1, **settings)
    stage = last_stages(check(records_of(walk)))[0]
    found = next(c for c in stage.checks if c.name == 'slow_drift')
    assert found.verdict == HOLDS
    root = 0.4 / 6000 / 1.2 / (4 * (LR * decay) ** 1.5)  # of the V that is needed
    told = re.search(r'V must be (\S+) L².* within (\d+)%', found.reason)
    assert float(told[1]) == pytest.approx(root**2, rel=0.15)
    floor = root * np.sqrt(LR * decay / 0.2 / 2)
    assert float(told[2]) / 100 == pytest.approx(floor, rel=0.1, abs=0.01)
