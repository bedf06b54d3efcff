"""Verdicts under clipping and under optimizers other than SGD with momentum."""

import numpy as np
import pytest
from simulation import LR, Walk, last_stages, records_of, small_walk, with_columns

from smd_mmdet.checks import (
    HOLDS,
    IN_EQUILIBRIUM,
    NOT_APPLICABLE,
    UNDECIDED,
    check,
)
from smd_mmdet.records import Records

# Limits of the norm with which no step is clipped, about half are, and all are, at the
# equilibrium of LR, and the norm there.
LIMITS = {0.0: (9.0, 3.02), 0.5: (0.335, 2.82), 1.0: (0.1, 0.913)}
NORM = dict(type='norm', max_norm=1.0)


def _clipped(share: float, steps: int = 3000, **changes) -> Walk:
    limit, norm = LIMITS[share]
    settings = dict(max_norm=limit, norm=norm, noise=0.5, size=384) | changes
    return small_walk(steps, **settings)


@pytest.mark.parametrize('share', LIMITS)
def test_verdicts_hold_whatever_share_of_steps_is_clipped(share):
    walk = _clipped(share)
    measured = walk.series['clipped_share'].mean()
    assert measured == pytest.approx(share, abs=0.2 * (share == 0.5))
    report = check(records_of(walk, metadata=dict(clipping=NORM)))
    assert report.exit_code == 0
    assert report.stages[0].clipped_share == pytest.approx(measured)
    for stage in last_stages(report):
        assert stage.state == IN_EQUILIBRIUM
        for name in ('transient_law', 'linear_convergence', 'lemma_1'):
            assert stage.verdict_of(name) == HOLDS
        assert stage.verdict_of('angular_update') == HOLDS
        assert stage.verdict_of('weight_norm') == HOLDS
        # p is the share of what is applied that comes from clipped steps, times two.
        clipped, squares = (walk.series[k][:, 0] for k in ('clipped_share', 'applied'))
        power = 2 * (clipped * squares).sum() / squares.sum()
        assert (0.2 < power < 1.8) == (share == 0.5)
        assert stage.norm_power == pytest.approx(1 / (4 - power), rel=0.02)
        # A distance is lost at (4−p)λη/(1−α).
        per_fold = 0.1 / (LR * 3e-3 * (4 - power))
        assert stage.relaxation_iterations == pytest.approx(per_fold, rel=0.04)
    # Records that have the share alone give about the same.
    table = records_of(walk).table.drop_columns(['clipping_power'])
    (stage, *_) = last_stages(check(Records(table, {})))
    assert stage.norm_power == pytest.approx(1 / (4 - 2 * measured), rel=0.02)


@pytest.mark.parametrize('share', [0.0, 1.0])
def test_the_iterations_left_are_those_that_it_takes(share):
    """From 3 w*, whose L is nine times that at w* where every step is clipped."""
    norm = 3 * LIMITS[share][1]
    told = last_stages(check(records_of(_clipped(share, 300, norm=norm))))
    walk = _clipped(share, 300 + 2 * int(told[0].iterations_left), norm=norm)
    # E‖w‖^(4−p) has to come within 0.2 of w*^(4−p), as Δ within 0.1 of Δ*.
    power = 4 - 2 * share
    left = (walk.series['weight_norm'].mean(1) / LIMITS[share][1]) ** power
    taken = np.argmax(left < 1.2) - 300
    for stage in told:
        assert stage.iterations_left == pytest.approx(taken, rel=0.15)


@pytest.mark.parametrize('share', [0.0, 1.0])
def test_after_a_drop_the_norm_follows_as_clipping_has_it(share):
    """By k^(1/2) where every step is clipped; k^(1/4) is for none."""
    drop = 4
    lr = LR * np.repeat([1.0, 1 / drop], [1500, 4000])
    walk = _clipped(share, lr=lr)
    for stage in last_stages(check(records_of(walk))):
        found = next(c for c in stage.checks if c.name == 'corollary_3_1')
        assert found.verdict == HOLDS
        # Decay alone: from k^(1/(4−p)) w* at λη/(1−α) per iteration.
        power = 4 - 2 * share
        alone = np.log(drop / 1.1) / power * 0.1 / (3e-3 * LR / drop)
        assert found.bound == pytest.approx(alone, rel=0.1)
        assert ("the paper's estimate" in found.reason) == (share == 0)


def test_clipping_by_value_lets_nothing_be_predicted():
    clipping = dict(type='value', clip_value=0.1)
    records = records_of(small_walk(2000), metadata=dict(clipping=clipping))
    # It bends the gradient, which then is not orthogonal to the weight.
    bent = with_columns(records, cosine_mean=np.full(records.table.num_rows, 0.1))
    report = check(bent)
    assert report.exit_code == 0
    for stage in last_stages(report):
        assert 'clipped by value' in stage.note
        verdicts = {c.name: c.verdict for c in stage.checks if c.kind == 'conclusion'}
        assert verdicts.pop('transient_law') == HOLDS
        assert set(verdicts.values()) == {NOT_APPLICABLE}
        assert stage.iterations_left is None
    # Without that fact, no norm seems to take the scale out.
    assert check(Records(bent.table, {})).exit_code == 1


def test_where_clipping_is_not_known_no_time_is_told():
    clipping = dict(type='unknown', reason='a wrapper of its own')
    walk = small_walk(300, norm=9.0)
    unknown = np.full(12, np.nan)
    for metadata, told in ({}, True), (dict(clipping=clipping), False):
        records = records_of(walk, metadata=metadata)
        columns = dict(clipped_share=unknown, clipping_power=unknown)
        records = with_columns(records, **columns)
        for stage in last_stages(check(records)):
            assert (stage.iterations_left is not None) == told


def test_nesterov_takes_the_correlation_of_the_whole_stage():
    """Windows of ten iterations tell nearly nothing of it."""
    settings = dict(optimizer='nesterov', correlation=0.7, norm=2.4, size=384)
    walk = small_walk(3000, **settings)
    report = check(records_of(walk, window=10))
    late = slice(1000, None)
    for i, stage in enumerate(last_stages(report)):
        assert stage.state == IN_EQUILIBRIUM
        assert stage.verdict_of('angular_update') == HOLDS
        h, g = (walk.series[name][:, i].mean() for name in ('unit_h', 'unit_grad_sq'))
        assert stage.whiteness == pytest.approx(h / g, rel=1e-6)
        # Torch's step: Q = E⟨v₋₁, g⟩, H = E‖g‖² + 2αQ.
        q = (h - g) / (2 * 0.81)
        big = g + 1.8 * q
        turn = (1 + 1.8 - 2 * 0.729) * big / 0.19 - 2 * 0.9 * 1.9 * q
        angle_sq = 2 * 3e-3 * LR * turn / (big / 0.1 - 1.8 * q)
        measured = (walk.series['angular_update'][late, i] ** 2).mean()
        ratio = np.sqrt(measured / angle_sq)
        assert stage.angular_update_ratio == pytest.approx(ratio, rel=0.01)
        assert ratio == pytest.approx(1, abs=0.02)
    assert report.stages[0].median_whiteness > 2


def test_the_papers_assumptions_are_those_of_sgd():
    for optimizer, number in ('sgd', 5), ('nesterov', 5), ('adamw', 1):
        walk = small_walk(600, optimizer=optimizer, lr=np.full(600, 1e-3))
        stage = last_stages(check(records_of(walk)))[0]
        found = [c for c in stage.checks if c.kind == 'assumption']
        assert len(found) == number
        verdicts = {c.verdict for c in found}
        assert (verdicts == {NOT_APPLICABLE}) == (optimizer == 'nesterov')


def test_lion_gives_figures_and_no_verdict():
    settings = dict(lr=np.full(2000, 1e-3), weight_decay=0.2, momentum=0.9, layers=2)
    walk = Walk(**settings, size=64, optimizer='lion')
    for claims in {}, dict(weight_decay=0.1):
        report = check(records_of(walk, **claims))
        assert report.exit_code == 0
        assert 'indicative' in report.verdict
        for stage in last_stages(report):
            assert {c.verdict for c in stage.checks} <= {UNDECIDED, NOT_APPLICABLE}
            assert stage.state == 'undecided'
    assert stage.angular_update_ratio == pytest.approx(np.sqrt(2), rel=0.05)


def test_records_that_tell_nothing_of_clipping_say_so():
    records = records_of(small_walk(400))
    names = [n for n in records.table.column_names if not n.startswith('clip')]
    old = Records(records.table.select(names), records.metadata)
    assert 'whether gradients were clipped' in check(old).caveat
    for facts in (dict(clipping=None), dict(theory='adamw')):
        assert not check(Records(old.table, old.metadata | facts)).caveat
    assert not check(records).caveat
