"""States of layers that the theory says nothing about, or only the angle."""

import json
import re

import numpy as np
import pytest
from simulation import LR, Walk, last_stages, records_of, small_walk, with_columns

from smd_mmdet.checks import (
    FAILS,
    HOLDS,
    IN_EQUILIBRIUM,
    NOT_APPLICABLE,
    UNDECIDED,
    check,
)
from smd_mmdet.records import Records


def test_a_layer_without_gradient_is_named_so():
    records = records_of(small_walk(layers=1))
    rows = records.table.num_rows
    nothing = {
        name: np.full(rows, np.nan)
        for name in records.table.column_names
        if name.endswith(('_mean', '_var', '_min', '_max'))
    }
    report = check(with_columns(records, count=np.zeros(rows, int), **nothing))
    assert last_stages(report)[0].state == 'no gradient'
    json.dumps(report.to_dict(), allow_nan=False)
    nothing = {f'{q}_max': np.zeros(rows) for q in ('unit_grad_sq', 'grad_norm')}
    assert (
        last_stages(check(with_columns(records, **nothing)))[0].state == 'no gradient'
    )


def test_a_stage_with_learning_rate_0_is_named_so():
    records = records_of(small_walk(layers=1))
    report = check(with_columns(records, lr=np.zeros(records.table.num_rows)))
    assert last_stages(report)[0].state == 'learning rate 0'
    assert last_stages(report)[0].lr == 0
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_negative_mean_of_h_is_undecided_not_an_error():
    records = records_of(small_walk(layers=1))
    rows = records.table.num_rows
    columns = dict(
        unit_h_mean=np.full(rows, -1.0), weight_norm_eq=np.full(rows, np.nan)
    )
    report = check(with_columns(records, **columns))
    assert report.exit_code == 0
    json.dumps(report.to_dict(), allow_nan=False)


def test_another_optimizer_has_no_theory_and_no_numbers():
    report = check(records_of(small_walk(), metadata={'theory': 'none'}))
    assert report.exit_code == 0
    for stage in last_stages(report):
        assert stage.state == 'no theory'
        assert stage.angular_update_ratio is None
        assert {c.verdict for c in stage.checks} == {NOT_APPLICABLE}


@pytest.mark.parametrize('optimizer', ['adamw', 'lamb', 'adam'])
def test_without_a_law_of_the_norm_there_is_the_angle_only(optimizer):
    settings = dict(lr=np.full(3000, 1e-3), weight_decay=0.2, momentum=0.9)
    if optimizer == 'adam':
        settings |= dict(weight_decay=0.02)
    walk = Walk(**settings, layers=2, size=384, optimizer=optimizer)
    records = records_of(walk)
    if optimizer == 'adamw':  # as an earlier version recorded it
        table = records.table
        names = [n for n in table.column_names if n.startswith('update_')]
        records = Records(table.drop_columns(names), records.metadata)
    report = check(records)
    for stage in last_stages(report):
        assert [c.name for c in stage.checks] == ['angular_update']
        assert stage.verdict_of('angular_update') == HOLDS
        assert stage.state == IN_EQUILIBRIUM
    json.dumps(report.to_dict(), allow_nan=False)
    claimed = with_columns(
        records, angular_update_eq=1.3 * records.table['angular_update_eq'].to_numpy()
    )
    # LAMB turns at once; another optimizer may be on its way.
    found = check(claimed)
    assert found.exit_code == int(optimizer == 'lamb')
    expected = FAILS if optimizer == 'lamb' else UNDECIDED
    assert {s.verdict_of('angular_update') for s in last_stages(found)} == {expected}


@pytest.mark.parametrize('optimizer', ['sgd', 'adamw'])
def test_windows_of_another_optimizer_are_no_divergence(optimizer):
    """Their drive was not measured, as what drives AdamW is not what drives SGD."""
    name = 'unit_h' if optimizer == 'sgd' else 'update_sq'
    lr = np.repeat([2e-3, 1e-3], [600, 1400])
    records = records_of(small_walk(optimizer=optimizer, lr=lr))
    early = records.table['iter'].to_numpy() <= 600
    for share, state in ((early, ''), (early | True, 'no theory')):
        columns = {
            f'{name}_{kind}': np.where(share, np.nan, records.table[f'{name}_{kind}'])
            for kind in ('mean', 'var', 'min', 'max')
        }
        for stage in last_stages(check(with_columns(records, **columns))):
            assert stage.state != 'diverged'
            if optimizer == 'sgd' and state:
                assert (stage.state, stage.checks[0].verdict) == (state, NOT_APPLICABLE)
            if not state:
                assert stage.verdict_of('corollary_3_1') == NOT_APPLICABLE
                assert stage.transient_ratio == pytest.approx(1, abs=0.02)


def test_a_control_layer_is_outside_the_theory():
    facts = {'layer0': {'invariant': False, 'reason': 'its BN is frozen'}}
    report = check(records_of(small_walk(radial=0.2), metadata={'layers': facts}))
    control, measured = last_stages(report)
    assert control.state == 'not scale-invariant'
    assert 'its BN is frozen' in control.note
    assert {c.verdict for c in control.checks} == {NOT_APPLICABLE}
    assert measured.diagnosis == 'lemma_1'


@pytest.mark.parametrize('momentum', [0.0, 0.9])
@pytest.mark.parametrize('step', [0.5, 0.6, 1.5, 2.0, 2.4])
def test_a_weight_decay_out_of_all_bounds_is_told(momentum, step):
    # Without momentum the weight then grows by |1 − λη| a step.
    lr = np.ones(1000 if step < 2 else 200)
    walk = small_walk(lr=lr, weight_decay=step, momentum=momentum, norm=1.0)
    for stage in last_stages(check(records_of(walk))):
        # 2λη ≥ 1, where 2Vη²/(l(1−2λη)) is no bound.
        assert stage.verdict_of('weight_norm_spread') == NOT_APPLICABLE
        if step >= 2:
            assert stage.state == 'no theory'
            assert f'λη is {step:.3g}' in stage.note


@pytest.mark.parametrize('steps', [1, 2, 3, 60, 400])
@pytest.mark.parametrize('window', [1, 50])
@pytest.mark.parametrize('momentum', [0.0, 0.9])
def test_no_reason_contains_what_is_not_a_number(steps, window, momentum):
    records = records_of(small_walk(steps, layers=1, momentum=momentum), window=window)
    rows = records.table.num_rows
    nothing, below = np.zeros(rows), np.full(rows, -1.0)
    part = np.arange(rows) % 2
    for changes in (
        {},
        dict(unit_h_mean=nothing, unit_h_var=nothing, unit_h_min=nothing),
        dict(unit_h_mean=below, unit_h_min=below),
        dict(unit_h_var=nothing, cosine_mean=nothing, cosine_var=nothing),
        dict(angular_update_mean=nothing, angular_update_var=nothing),
        dict(weight_norm_mean=np.full(rows, 1e-9), weight_norm_var=nothing),
        dict(cosine_mean=np.full(rows, 0.5)),
        dict(count=records.table['count'].to_numpy() * part),
        dict(lr=LR * (0.5 + part)),
    ):
        report = check(with_columns(records, **changes))
        json.dumps(report.to_dict(), allow_nan=False)
        texts = [report.verdict]
        for stage in last_stages(report):
            texts += [stage.note, *(c.reason for c in stage.checks)]
        for text in texts:
            assert not re.search(r'\b[-+]?(nan|inf)\b', text), (changes, text)
