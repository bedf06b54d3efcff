"""Lemma 1, the transient law and the rate of relaxation."""

import re

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

from smd_mmdet.checks import HOLDS, NOT_APPLICABLE, check


def test_the_fitted_rate_is_that_of_theory_far_from_equilibrium():
    walk = small_walk(600, norm=9.0)
    for stage in last_stages(check(records_of(walk, window=20))):
        found = next(c for c in stage.checks if c.name == 'linear_convergence')
        rate = 4 * DECAY * LR / (1 - MOMENTUM)
        assert found.value == pytest.approx(rate, rel=0.04)
        assert found.bound == pytest.approx(rate / 2)
        assert found.interval[0] <= found.value <= found.interval[1]


_THREE = 'a weight decay of 0.003'


@pytest.mark.parametrize(
    ('true', 'claimed', 'cause'),
    [
        ({}, dict(weight_decay=0.9 * DECAY), _THREE),
        ({}, dict(weight_decay=1.1 * DECAY), _THREE),
        ({}, dict(weight_decay=2 * DECAY), _THREE),
        (dict(norm=5.0), dict(weight_decay=0.9 * DECAY), _THREE),
        (dict(norm=5.0), dict(weight_decay=1.1 * DECAY), _THREE),
        (dict(momentum=0.88), dict(momentum=0.9), 'a momentum of 0.88'),
        (dict(momentum=0.91), dict(momentum=0.9), 'a momentum of 0.91'),
    ],
)
def test_the_cause_is_the_setting_that_is_wrong(true, claimed, cause):
    walk = small_walk(4000, size=1024, layers=1, **true)
    report = check(records_of(walk, **claimed))
    assert report.exit_code == 1
    assert f'{cause} would explain it' in report.verdict
    stage = last_stages(report)[0]
    assert stage.diagnosis == 'linear_convergence'
    assert 'linear_convergence' in report.verdict
    assert f'{cause} would explain it' in stage.note


def test_where_two_settings_are_wrong_neither_is_blamed_alone():
    walk = small_walk(4000, size=1024, layers=1, momentum=0.88)
    claims = dict(momentum=0.9, weight_decay=DECAY * 0.85)
    report = check(records_of(walk, **claims))
    assert 'neither a weight decay nor a momentum alone' in report.verdict


@pytest.mark.parametrize('cosine', [8e-3, -8e-3])
def test_a_steady_cosine_is_told_as_the_decay_that_it_is(cosine):
    # At the equilibrium of λ' the cosine adds c·√(2λ'/η_e) to λ, to first order
    # c·√(2/(λη_e)) of it: 29 % here.
    half = cosine * np.sqrt((1 - MOMENTUM) / (2 * LR))
    decay = (half + np.sqrt(half**2 + DECAY)) ** 2
    walk = small_walk(4000, size=1024, layers=1, radial=cosine)
    report = check(records_of(walk))
    stage = last_stages(report)[0]
    assert (report.exit_code, stage.diagnosis) == (1, 'lemma_1')
    told = float(re.search(r'as if λ were (\S+) ', stage.note)[1])
    assert told == pytest.approx(decay, rel=0.04)
    assert 'the gradient is not orthogonal' in report.verdict
    (rate,) = (c for c in stage.checks if c.name == 'linear_convergence')
    assert 'would explain it' not in rate.reason
    assert rate.cause.startswith('the gradient is not orthogonal')


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
    # It would be 11 % of λ, were it steady.
    rounding = np.full(records.table.num_rows, 3e-3**2)
    stage = last_stages(check(with_columns(records, cosine_var=rounding)))[0]
    assert stage.verdict_of('lemma_1') == HOLDS
