"""Verdicts on walks whose truth is known."""

import io
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from rich.console import Console
from simulation import BROKEN, OBEYING, Scenario, Walk, records_of, simulate

from smd_mmdet.checks import (
    FAILS,
    HOLDS,
    IN_EQUILIBRIUM,
    LEVEL,
    NOT_APPLICABLE,
    UNDECIDED,
    Report,
    StageReport,
    check,
)
from smd_mmdet.checks.live import standing
from smd_mmdet.records import Records
from smd_mmdet.report.tables import render_report

ALL = {**OBEYING, **BROKEN}
LR, DECAY, MOMENTUM = 0.05, 3e-3, 0.9


def _walk(steps: int = 1200, **changes) -> Walk:
    settings = dict(lr=np.full(steps, LR), weight_decay=DECAY, momentum=MOMENTUM)
    return Walk(**(settings | dict(layers=2) | changes))


def _last(report: Report) -> list[StageReport]:
    return [layer.stages[-1] for layer in report.layers]


def _failing(stage: StageReport, kind: str) -> set[str]:
    return {c.name for c in stage.checks if c.verdict == FAILS and c.kind == kind}


def _judge(scenario: Scenario, report: Report) -> list[str]:
    """What a report says that it should not, or misses."""
    wrong = []
    for layer in report.layers:
        for stage in layer.stages:
            for found in (
                _failing(stage, 'conclusion') if not scenario.diagnosis else ()
            ):
                wrong.append(f'{layer.layer}: {found} fails')
        stage = layer.stages[-1]
        if stage.diagnosis != scenario.diagnosis:
            wrong.append(f'{layer.layer}: diagnosis {stage.diagnosis!r}')
        failing = _failing(stage, 'assumption')
        if scenario.assumptions is not None and failing != scenario.assumptions:
            wrong.append(f'{layer.layer}: assumptions {failing} fail')
        if scenario.state and stage.state != scenario.state:
            wrong.append(f'{layer.layer}: state {stage.state!r}')
    return wrong


@pytest.mark.parametrize('name', ALL)
def test_what_is_broken_is_named_and_nothing_else(name):
    for seed in range(2):
        report = check(simulate(ALL[name], layers=3, seed=seed))
        assert _judge(ALL[name], report) == []
        assert report.exit_code == int(bool(ALL[name].diagnosis))


@pytest.mark.slow
@pytest.mark.parametrize('name', OBEYING)
def test_false_alarms_over_200_seeds_stay_under_the_level(name):
    alarms = sum(
        check(simulate(OBEYING[name], layers=5, seed=seed)).exit_code
        for seed in range(200)
    )
    assert alarms <= 200 * LEVEL


@pytest.mark.slow
@pytest.mark.parametrize('name', BROKEN)
def test_what_is_broken_is_named_in_nine_of_ten_runs(name):
    wrong = sum(
        bool(_judge(BROKEN[name], check(simulate(BROKEN[name], layers=1, seed=seed))))
        for seed in range(200)
    )
    assert wrong <= 20


def test_at_equilibrium_every_conclusion_that_can_be_tested_holds():
    report = check(records_of(_walk(3000)))
    assert report.exit_code == 0
    for stage in _last(report):
        assert stage.state == IN_EQUILIBRIUM
        for name in ('transient_law', 'linear_convergence', 'lemma_1'):
            assert stage.verdict_of(name) == HOLDS
        assert stage.verdict_of('angular_update') == HOLDS
        assert stage.verdict_of('weight_norm') == HOLDS
        assert stage.angular_update_ratio == pytest.approx(1, abs=0.05)
        assert stage.transient_ratio == pytest.approx(1, abs=0.02)


def test_the_fitted_rate_is_that_of_theory_far_from_equilibrium():
    walk = _walk(600, norm=9.0)
    for stage in _last(check(records_of(walk, window=20))):
        found = next(c for c in stage.checks if c.name == 'linear_convergence')
        rate = 4 * DECAY * LR / (1 - MOMENTUM)
        assert found.value == pytest.approx(rate, rel=0.04)
        assert found.bound == pytest.approx(rate / 2)
        assert found.interval[0] <= found.value <= found.interval[1]


def test_the_cause_comes_with_the_setting_that_would_explain_it():
    report = check(records_of(_walk(3000), weight_decay=2 * DECAY))
    found = next(c for c in _last(report)[0].checks if c.name == 'linear_convergence')
    assert found.verdict == FAILS
    assert 'weight decay of 0.003 would explain it' in found.reason


def test_no_verdict_from_a_handful_of_samples():
    for steps in (1, 3, 60, 150):
        for stage in _last(check(records_of(_walk(steps, norm=2.5)))):
            for name in ('angular_update', 'weight_norm', 'transient_law'):
                assert stage.verdict_of(name) in (UNDECIDED, NOT_APPLICABLE)
            assert stage.state != IN_EQUILIBRIUM


@pytest.mark.parametrize('window', [1, 7, 20, 100])
def test_the_window_does_not_matter(window):
    stage = _last(check(records_of(_walk(2000, layers=1), window=window)))[0]
    assert stage.state == IN_EQUILIBRIUM
    assert stage.verdict_of('transient_law') == HOLDS
    assert not _failing(stage, 'conclusion')


def test_warm_up_and_cosine_never_hold_equilibrium():
    lr = np.concatenate(
        [np.linspace(1e-4, LR, 400), LR / 2 * (1 + np.cos(np.linspace(0, 3.1, 1600)))]
    )
    report = check(records_of(_walk(lr=lr)))
    for layer in report.layers:
        for stage in layer.stages:
            assert stage.verdict_of('angular_update') in (UNDECIDED, NOT_APPLICABLE)
            assert stage.verdict_of('transient_law') != FAILS


def test_a_schedule_slow_against_relaxation_is_followed():
    lr = np.linspace(0.05, 0.045, 4000)
    walk = _walk(lr=lr, weight_decay=2e-2, momentum=0.0)
    for stage in _last(check(records_of(walk))):
        assert stage.state == IN_EQUILIBRIUM


def test_after_a_cut_the_corollary_holds_and_rescaled_it_is_not_applicable():
    lr = np.repeat([LR, LR / 4], [1500, 1500])
    plain, rescaled = (
        check(records_of(_walk(lr=lr, rescale=rescale))) for rescale in (False, True)
    )
    for stage in _last(plain):
        assert stage.verdict_of('corollary_3_1') == HOLDS
    for stage in _last(rescaled):
        assert stage.verdict_of('corollary_3_1') == NOT_APPLICABLE
        assert stage.state == IN_EQUILIBRIUM


def test_a_snap_to_equilibrium_within_a_stage_is_no_failure():
    first, second = _walk(400, norm=9.0), _walk(2000)
    joined = {
        k: np.concatenate([first.series[k], second.series[k]]) for k in first.series
    }
    first.series, first.steps, first.lr = joined, 2400, np.full(2400, LR)
    for stage in _last(check(records_of(first))):
        assert stage.state == IN_EQUILIBRIUM
        assert not _failing(stage, 'conclusion')


# ------------------------------------------------------------------ odd records


def _with(records: Records, **columns) -> Records:
    table = records.table
    for name, values in columns.items():
        index = table.column_names.index(name)
        table = table.set_column(index, name, pa.array(values))
    return Records(table, records.metadata)


def test_a_layer_without_gradient_is_named_so():
    records = records_of(_walk(layers=1))
    rows = records.table.num_rows
    nothing = {
        name: np.full(rows, np.nan)
        for name in records.table.column_names
        if name.endswith(('_mean', '_var', '_min', '_max'))
    }
    report = check(_with(records, count=np.zeros(rows, int), **nothing))
    assert _last(report)[0].state == 'no gradient'
    json.dumps(report.to_dict(), allow_nan=False)
    nothing = {f'{q}_max': np.zeros(rows) for q in ('unit_grad_sq', 'grad_norm')}
    assert _last(check(_with(records, **nothing)))[0].state == 'no gradient'


def test_a_stage_with_learning_rate_0_is_named_so():
    records = records_of(_walk(layers=1))
    report = check(_with(records, lr=np.zeros(records.table.num_rows)))
    assert _last(report)[0].state == 'learning rate 0'
    assert _last(report)[0].lr == 0
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_negative_mean_of_h_is_undecided_not_an_error():
    records = records_of(_walk(layers=1))
    rows = records.table.num_rows
    columns = dict(
        unit_h_mean=np.full(rows, -1.0), weight_norm_eq=np.full(rows, np.nan)
    )
    report = check(_with(records, **columns))
    assert report.exit_code == 0
    json.dumps(report.to_dict(), allow_nan=False)


def test_windows_with_negative_h_take_part():
    walk = _walk(3000, size=8, noise=20.0, layers=1)
    records = records_of(walk, window=10)
    assert pc.min(records.table['unit_h_mean']).as_py() < 0
    stage = _last(check(records))[0]
    assert stage.verdict_of('transient_law') == HOLDS


def test_another_optimizer_has_no_theory_and_no_numbers():
    report = check(records_of(_walk(), metadata={'theory': 'none'}))
    assert report.exit_code == 0
    for stage in _last(report):
        assert stage.state == 'no theory'
        assert stage.angular_update_ratio is None
        assert {c.verdict for c in stage.checks} == {NOT_APPLICABLE}


def test_adamw_has_the_angle_only():
    records = records_of(_walk(3000), metadata={'theory': 'adamw'})
    rows = records.table.num_rows
    columns = {f'unit_h_{s}': np.full(rows, np.nan) for s in ('mean', 'var', 'min')}
    report = check(_with(records, weight_norm_eq=np.full(rows, np.nan), **columns))
    for stage in _last(report):
        assert [c.name for c in stage.checks] == ['angular_update']
        assert stage.verdict_of('angular_update') == HOLDS
        assert stage.state == IN_EQUILIBRIUM
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_control_layer_is_outside_the_theory():
    facts = {'layer0': {'invariant': False, 'reason': 'its BN is frozen'}}
    report = check(records_of(_walk(radial=0.2), metadata={'layers': facts}))
    control, measured = _last(report)
    assert control.state == 'not scale-invariant'
    assert 'its BN is frozen' in control.note
    assert {c.verdict for c in control.checks} == {NOT_APPLICABLE}
    assert measured.diagnosis == 'lemma_1'


def test_a_starved_layer_is_told_of_its_eps():
    scenario = BROKEN['left the regime']
    walk = Walk(**scenario.settings, layers=1)
    facts = {'layer0': {'invariant': True, 'eps': 1e-5, 'output_variance': 2e-5}}
    stage = _last(check(records_of(walk, metadata={'layers': facts})))[0]
    assert stage.state == 'left the scale-invariant regime'
    assert 'ε = 1e-05' in stage.note and 'output variance 2e-05' in stage.note
    assert stage.verdict_of('lemma_1') == NOT_APPLICABLE


def test_float32_rounding_is_no_loss_of_scale_invariance():
    records = records_of(_walk(layers=1))
    rounding = np.full(records.table.num_rows, 1e-3**2)
    stage = _last(check(_with(records, cosine_var=rounding)))[0]
    assert stage.verdict_of('lemma_1') == HOLDS


def test_accumulated_gradients_count_optimizer_steps():
    records = records_of(_walk(2000))
    stretched = _with(records, iter=pc.multiply(records.table['iter'], 4).to_numpy())
    for stage in _last(check(stretched)):
        assert stage.verdict_of('linear_convergence') == HOLDS


def _stretched(records: Records, every: int) -> Records:
    """As if gradients had been accumulated."""
    return _with(records, iter=pc.multiply(records.table['iter'], every).to_numpy())


@pytest.mark.parametrize('every', [1, 4])
def test_stages_begin_where_their_first_window_does(every):
    walk = _walk(lr=np.repeat([LR, LR / 10], [600, 300]))
    records = _stretched(records_of(walk), every)
    later = Records(
        records.table.filter(pc.greater(records.table['iter'], 200 * every)), {}
    )
    counts = records.table['count'].to_numpy().copy()
    counts[:1] = 0  # of the first layer, in the first window
    for found, first in (
        (records, 1),
        (_with(records, count=counts), 1),
        (later, 200 * every + 1),
    ):
        report = check(found)
        for layer in report.layers:
            begins = [stage.first_iter for stage in layer.stages]
            assert begins == [first, 600 * every + 1]
        assert report.measured_iterations == 900 * every + 1 - first


def test_of_one_window_the_begin_is_that_of_the_run():
    records = _stretched(records_of(_walk(50)), 4)
    assert {stage.first_iter for stage in _last(check(records))} == {1}


def test_iterations_without_records_are_not_counted():
    table = records_of(_walk(1000)).table
    gap = pc.or_(pc.less_equal(table['iter'], 300), pc.greater(table['iter'], 450))
    report = check(Records(table.filter(gap), {}))
    assert report.measured_iterations == 850


@pytest.mark.parametrize('momentum', [0.0, 0.9])
@pytest.mark.parametrize('step', [0.5, 0.6, 1.5, 2.0, 2.4])
def test_a_weight_decay_out_of_all_bounds_is_told(momentum, step):
    # Without momentum the weight then grows by |1 − λη| a step.
    lr = np.ones(1000 if step < 2 else 200)
    walk = _walk(lr=lr, weight_decay=step, momentum=momentum, norm=1.0)
    for stage in _last(check(records_of(walk))):
        # 2λη ≥ 1, where 2Vη²/(l(1−2λη)) is no bound.
        assert stage.verdict_of('weight_norm_spread') == NOT_APPLICABLE
        if step >= 2:
            assert stage.state == 'no theory'
            assert f'λη is {step:.3g}' in stage.note


def test_warm_up_is_called_so():
    report = check(records_of(_walk(lr=np.linspace(1e-4, LR, 400))))
    assert report.stages[-1].stage == report.to_dict()['stages'][-1]['stage'] == -1
    assert 'at the end of warm-up' in report.verdict
    console = Console(width=200, file=io.StringIO())
    console.print(render_report(report, verbose=True))
    text = console.file.getvalue()
    assert 'Checks of warm-up: layers' in text
    assert 'stage -1' not in text and not re.search(r'^ *-1 ', text, re.MULTILINE)


def test_verdicts_are_counted_by_stage_and_after_warm_up():
    lr = np.concatenate([np.linspace(1e-4, LR, 100), np.repeat([LR, LR / 10], 400)])
    report = check(records_of(_walk(lr=lr)))
    assert [stage.stage for stage in report.stages] == [-1, 0, 1]
    for number, layers in ((-1, 2), (1, 2), (None, 4)):
        counts = report.verdict_counts(number)
        assert {sum(row.values()) for row in counts.values()} == {layers}


def test_metadata_may_be_empty_and_the_report_is_json():
    walk = _walk(lr=np.repeat([LR, LR / 10], [600, 300]))
    records = Records(records_of(walk).table, {})
    report = check(records)
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    stage = plain['layers'][0]['stages'][1]
    assert plain['exit_code'] == report.exit_code == 0
    assert plain['layers'][0]['shape'] == [32]
    assert (stage['stage'], stage['first_iter'], stage['last_iter']) == (1, 601, 900)
    assert {'angular_update_ratio', 'weight_norm_ratio', 'transient_ratio'} <= set(
        stage
    )
    wanted = {'name', 'value', 'bound', 'margin', 'verdict', 'reason'}
    assert all(wanted <= set(found) for found in stage['checks'])
    assert all(found['reason'] for found in stage['checks'])


def test_tables_render():
    report = check(records_of(_walk(lr=np.repeat([LR, LR / 10], [600, 300]))))
    console = Console(width=120, file=io.StringIO())
    for verbose in (False, True):
        console.print(render_report(report, verbose=verbose))
    text = console.file.getvalue()
    assert '0 of 2 layers in equilibrium' in text
    assert 'corollary_3_1' in text


# ------------------------------------------------------------------ live


def _newest(records: Records, windows: int = 1) -> dict[str, np.ndarray]:
    layers = len(records.layers())
    table = records.table.slice(records.table.num_rows - windows * layers)
    names = [name for name in table.column_names if name != 'shape']
    return {name: table[name].to_numpy(zero_copy_only=False) for name in names}


def test_live_standing_and_expected_iterations():
    above = standing(_newest(records_of(_walk(200, norm=9.0)), windows=4))
    assert set(above.state) == {'approaching from above'}
    # ‖w‖⁴ relaxes at 4λη/(1−α): what is expected is what it then takes.
    wait = int(200 + above.iterations.max())
    later = standing(_newest(records_of(_walk(wait, norm=9.0)), windows=4))
    np.testing.assert_allclose(later.angular_update_ratio, 0.9, atol=0.1)
    assert set(standing(_newest(records_of(_walk(200, norm=9.0))), 50).state) == {
        'unreachable in this stage'
    }
    below = standing(_newest(records_of(_walk(20, norm=1.0), window=10)))
    assert set(below.state) == {'approaching from below'}
    level = standing(_newest(records_of(_walk(1000, noise=0.01)), windows=8))
    assert level.counts() == {IN_EQUILIBRIUM: 2}
    assert (level.iterations == 0).all()


def test_live_knows_layers_it_cannot_judge():
    columns = _newest(records_of(_walk(100, layers=4)))
    columns['unit_h_mean'] = np.array([1.0, -1.0, 1.0, 1.0])
    columns['count'] = np.array([50, 50, 0, 50])
    columns['cosine_mean'] = np.array([0.3, 0.0, 0.0, 0.0])
    found = standing(columns)
    assert list(found.state[:3]) == [
        'left the scale-invariant regime',
        'undecided',
        'no gradient',
    ]
    assert np.isnan(found.iterations[:2]).all()
