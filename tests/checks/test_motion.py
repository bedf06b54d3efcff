"""Lemma 1, the transient law and the rate of relaxation."""

import numpy as np
import pyarrow.compute as pc
import pytest
from simulation import (
    BROKEN,
    DECAY,
    LR,
    MOMENTUM,
    Walk,
    last_stages,
    records_of,
    small_walk,
    with_columns,
)

from smd_mmdet.checks import FAILS, HOLDS, NOT_APPLICABLE, check


def test_the_fitted_rate_is_that_of_theory_far_from_equilibrium():
    walk = small_walk(600, norm=9.0)
    for stage in last_stages(check(records_of(walk, window=20))):
        found = next(c for c in stage.checks if c.name == 'linear_convergence')
        rate = 4 * DECAY * LR / (1 - MOMENTUM)
        assert found.value == pytest.approx(rate, rel=0.04)
        assert found.bound == pytest.approx(rate / 2)
        assert found.interval[0] <= found.value <= found.interval[1]


def test_the_cause_comes_with_the_setting_that_would_explain_it():
    report = check(records_of(small_walk(3000), weight_decay=2 * DECAY))
    found = next(
        c for c in last_stages(report)[0].checks if c.name == 'linear_convergence'
    )
    assert found.verdict == FAILS
    assert 'weight decay of 0.003 would explain it' in found.reason


def test_windows_with_negative_h_take_part():
    walk = small_walk(3000, size=8, noise=20.0, layers=1)
    records = records_of(walk, window=10)
    assert pc.min(records.table['unit_h_mean']).as_py() < 0
    stage = last_stages(check(records))[0]
    assert stage.verdict_of('transient_law') == HOLDS


def test_a_starved_layer_is_told_of_its_eps():
    scenario = BROKEN['left the regime']
    walk = Walk(**scenario.settings, layers=1)
    facts = {'layer0': {'invariant': True, 'eps': 1e-5, 'output_variance': 2e-5}}
    stage = last_stages(check(records_of(walk, metadata={'layers': facts})))[0]
    assert stage.state == 'left the scale-invariant regime'
    assert 'ε = 1e-05' in stage.note and 'output variance 2e-05' in stage.note
    assert stage.verdict_of('lemma_1') == NOT_APPLICABLE


def test_float32_rounding_is_no_loss_of_scale_invariance():
    records = records_of(small_walk(layers=1))
    rounding = np.full(records.table.num_rows, 1e-3**2)
    stage = last_stages(check(with_columns(records, cosine_var=rounding)))[0]
    assert stage.verdict_of('lemma_1') == HOLDS
