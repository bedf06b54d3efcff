"""What the theorems say of a layer in equilibrium."""

import numpy as np
from simulation import LR, failing, last_stages, records_of, small_walk

from smd_mmdet.checks import HOLDS, IN_EQUILIBRIUM, NOT_APPLICABLE, check


def test_after_a_cut_the_corollary_holds_and_rescaled_it_is_not_applicable():
    lr = np.repeat([LR, LR / 4], [1500, 1500])
    plain, rescaled = (
        check(records_of(small_walk(lr=lr, rescale=rescale)))
        for rescale in (False, True)
    )
    for stage in last_stages(plain):
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
