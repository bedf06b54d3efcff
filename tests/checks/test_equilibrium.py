"""What the theorems say of a layer in equilibrium."""

import numpy as np
import pytest
from simulation import (
    BROKEN,
    LR,
    Walk,
    failing,
    last_stages,
    records_of,
    simulate,
    small_walk,
)

from smd_mmdet.checks import (
    HOLDS,
    IN_EQUILIBRIUM,
    LEVEL,
    NOT_APPLICABLE,
    UNDECIDED,
    check,
)


def test_after_a_cut_the_corollary_holds_and_rescaled_it_is_not_applicable():
    lr = np.repeat([LR, LR / 4], [1500, 1500])
    plain, rescaled = (
        check(records_of(small_walk(lr=lr, rescale=rescale)))
        for rescale in (False, True)
    )
    for stage in last_stages(plain):
        # It says 1,848 iterations, and the stage has 1,500: nothing was tried.
        assert stage.verdict_of('corollary_3_1') == UNDECIDED
        (found,) = (c for c in stage.checks if c.name == 'corollary_3_1')
        assert '1,500' in found.reason and '1,849' in found.reason
    long = small_walk(lr=np.repeat([LR, LR / 4], [1500, 4000]))
    for stage in last_stages(check(records_of(long))):
        assert stage.verdict_of('corollary_3_1') == HOLDS
    for stage in last_stages(rescaled):
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
