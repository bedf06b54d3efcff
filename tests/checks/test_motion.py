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

from smd_mmdet.checks import FAILS, HOLDS, NOT_APPLICABLE, check


def test_the_fitted_rate_is_that_of_theory_far_from_equilibrium():
    walk = small_walk(600, norm=9.0)
    for stage in last_stages(check(records_of(walk, window=20))):
        found = next(c for c in stage.checks if c.name == 'linear_convergence')
        # What decay and momentum alone leave of a weight per iteration.
        left = np.roots([1, DECAY * LR - 1 - MOMENTUM, MOMENTUM]).max()
        assert found.value == pytest.approx(-4 * np.log(left), rel=0.03)
        assert found.bound == pytest.approx(2 * DECAY * LR / (1 - MOMENTUM))
        assert found.interval[0] <= found.value <= found.interval[1]


_THREE = 'a weight decay of 0.003'
_NESTEROV = dict(optimizer='nesterov', momentum=0.88)
_CLIPPED = dict(max_norm=0.1, norm=1.0)


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
        # On the way the rate is too low by it, at equilibrium too high.
        (dict(momentum=0.88, norm=10.0), dict(momentum=0.9), 'a momentum of 0.88'),
        (dict(optimizer='nesterov'), dict(weight_decay=0.9 * DECAY), _THREE),
        (dict(optimizer='nesterov'), dict(weight_decay=1.1 * DECAY), _THREE),
        (_NESTEROV, dict(momentum=0.9), 'a momentum of 0.88'),
        (_CLIPPED, dict(weight_decay=0.9 * DECAY), _THREE),
        (_CLIPPED | dict(momentum=0.88), dict(momentum=0.9), 'a momentum of 0.88'),
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


def _adamw(**changes):
    settings = dict(lr=np.full(6000, 1e-3), weight_decay=0.2, momentum=0.9, layers=1)
    return Walk(**(settings | dict(size=384, optimizer='adamw') | changes))


@pytest.mark.parametrize(
    ('claims', 'cause'),
    [
        (dict(weight_decay=0.18), 'a weight decay of 0.2 would explain it'),
        (dict(weight_decay=0.22), 'a weight decay of 0.2 would explain it'),
        (dict(momentum=0.88), 'a β₁ of 0.9 would explain it too'),
        (dict(momentum=0.92), 'a β₁ of 0.9 would explain it too'),
    ],
)
def test_under_adamw_decay_and_beta_are_told_apart(claims, cause):
    report = check(records_of(_adamw(), **claims))
    assert report.exit_code == 1
    assert cause in report.verdict
    stage = last_stages(report)[0]
    assert stage.diagnosis == 'linear_convergence'
    fails = stage.verdict_of('update_along_weight') == FAILS
    assert fails == ('momentum' in claims)


@pytest.mark.parametrize('cosine', [2e-3, -1e-3])
def test_under_adamw_updates_along_the_weight_are_told_as_decay(cosine):
    walk = _adamw(radial=cosine)
    stage = last_stages(check(records_of(walk)))[0]
    found = next(c for c in stage.checks if c.name == 'update_along_weight')
    assert (found.kind, found.verdict) == ('assumption', FAILS)
    # What d‖w‖² = −2ηλ'‖w‖² + η²U(1+β₁)/(1−β₁) says of λ', step by step.
    lr, norm_sq = walk.lr[0], walk.series['weight_norm'][:, 0] ** 2
    late = slice(500, None)
    grown = lr**2 * 19 * walk.series['update_sq'][late, 0].sum()
    moved = norm_sq[-1] - norm_sq[500]
    decay = (grown - moved) / (2 * lr * norm_sq[late].sum())
    assert found.value == pytest.approx(decay / 0.2 - 1, rel=0.1)
    told = float(re.search(r'as if λ were (\S+) ', stage.note)[1])
    assert told == pytest.approx(decay, rel=0.05)


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
