"""Verdicts on walks whose truth is known."""

import json
from pathlib import Path

import numpy as np
import pytest
from simulation import (
    BROKEN,
    DECAY,
    LR,
    OBEYING,
    Scenario,
    failing,
    last_stages,
    records_of,
    simulate,
    simulate_many,
    small_walk,
)

from smd_mmdet.checks import (
    FAILS,
    HOLDS,
    IN_EQUILIBRIUM,
    LEVEL,
    NOT_APPLICABLE,
    UNDECIDED,
    Report,
    check,
)
from smd_mmdet.records import Records

ALL = {**OBEYING, **BROKEN}


def _judge(scenario: Scenario, report: Report) -> list[str]:
    """What a report says that it should not, or misses."""
    wrong = []
    for layer in report.layers:
        for stage in layer.stages:
            if not scenario.diagnosis:
                for name in failing(stage, 'conclusion'):
                    wrong.append(f'{layer.layer}: {name} fails')
        stage = layer.stages[-1]
        if stage.diagnosis != scenario.diagnosis:
            wrong.append(f'{layer.layer}: diagnosis {stage.diagnosis!r}')
        broken = failing(stage, 'assumption')
        if scenario.assumptions is not None and broken != scenario.assumptions:
            wrong.append(f'{layer.layer}: assumptions {broken} fail')
        if scenario.state and stage.state != scenario.state:
            wrong.append(f'{layer.layer}: state {stage.state!r}')
    return wrong


@pytest.mark.parametrize('name', ALL)
def test_what_is_broken_is_named_and_nothing_else(name):
    report = check(simulate(ALL[name], layers=3, seed=0))
    assert _judge(ALL[name], report) == []
    assert report.exit_code == int(bool(ALL[name].diagnosis))


@pytest.mark.slow
@pytest.mark.parametrize('name', OBEYING)
def test_false_alarms_over_200_seeds_stay_under_the_level(name):
    runs = simulate_many(OBEYING[name], layers=3, runs=200)
    alarms = sum(check(records).exit_code for records in runs)
    assert alarms <= 200 * LEVEL


@pytest.mark.slow
@pytest.mark.parametrize('name', BROKEN)
def test_what_is_broken_is_named_in_nine_of_ten_runs(name):
    runs = simulate_many(BROKEN[name], layers=1, runs=200)
    wrong = sum(bool(_judge(BROKEN[name], check(records))) for records in runs)
    assert wrong <= 20


def test_at_equilibrium_every_conclusion_that_can_be_tested_holds():
    walk = small_walk(3000)
    report = check(records_of(walk))
    assert report.exit_code == 0
    for stage in last_stages(report):
        assert stage.state == IN_EQUILIBRIUM
        for name in ('transient_law', 'linear_convergence', 'lemma_1'):
            assert stage.verdict_of(name) == HOLDS
        assert stage.verdict_of('angular_update') == HOLDS
        assert stage.verdict_of('weight_norm') == HOLDS
        assert stage.angular_update_ratio == pytest.approx(1, abs=0.05)
        assert stage.transient_ratio == pytest.approx(1, abs=0.02)
        assert stage.angular_update_eq == pytest.approx(np.sqrt(2 * DECAY * LR / 1.9))
    late = np.sqrt((walk.series['angular_update'][2000:] ** 2).mean(0))
    found = [stage.angular_update for stage in last_stages(report)]
    np.testing.assert_allclose(found, late, rtol=1e-6)
    assert report.stages[0].median_angular_update == pytest.approx(np.mean(late))


def test_no_verdict_from_a_handful_of_samples():
    for steps in (1, 3, 60, 150):
        for stage in last_stages(check(records_of(small_walk(steps, norm=2.5)))):
            for name in ('angular_update', 'weight_norm', 'transient_law'):
                assert stage.verdict_of(name) in (UNDECIDED, NOT_APPLICABLE)
            assert stage.state != IN_EQUILIBRIUM


@pytest.mark.parametrize('window', [1, 7, 20, 100])
def test_the_window_does_not_matter(window):
    stage = last_stages(check(records_of(small_walk(2000, layers=1), window=window)))[0]
    assert stage.state == IN_EQUILIBRIUM
    assert stage.verdict_of('transient_law') == HOLDS
    assert not failing(stage, 'conclusion')


def test_warm_up_and_cosine_never_hold_equilibrium():
    lr = np.concatenate(
        [np.linspace(1e-4, LR, 400), LR / 2 * (1 + np.cos(np.linspace(0, 3.1, 1600)))]
    )
    report = check(records_of(small_walk(lr=lr)))
    for layer in report.layers:
        for stage in layer.stages:
            assert stage.verdict_of('angular_update') in (UNDECIDED, NOT_APPLICABLE)
            assert stage.verdict_of('transient_law') != FAILS


def test_a_schedule_slow_against_relaxation_is_followed():
    lr = np.linspace(0.05, 0.045, 4000)
    walk = small_walk(lr=lr, weight_decay=2e-2, momentum=0.0)
    for stage in last_stages(check(records_of(walk))):
        assert stage.state == IN_EQUILIBRIUM


def test_metadata_may_be_empty_and_the_report_is_json():
    walk = small_walk(lr=np.repeat([LR, LR / 10], [600, 300]))
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


def test_the_page_on_checks_names_them_all():
    text = (Path(__file__).parents[2] / 'docs' / 'checks.md').read_text('utf-8')
    for optimizer in 'sgd', 'adamw':
        walk = small_walk(300, optimizer=optimizer, lr=np.full(300, 1e-3))
        for found in last_stages(check(records_of(walk)))[0].checks:
            assert f'`{found.name}`' in text
