"""What the page advises."""

import re

import numpy as np
import pytest
from runs import simulated, with_columns

from smd_mmdet.report.advice import advice, next_steps
from smd_mmdet.report.run import run_of


def test_layers_are_advised_on(run):
    text = ' '.join(advice(run.report))
    assert 'In stage 1, 3 layers did not reach equilibrium' in text
    assert 'k^(−1/4)' in text
    undecided = run_of(simulated(metadata={'theory': 'adamw'}), 'adamw')
    assert advice(undecided.report)[0].startswith('No verdict on 3 layers in stage 1: ')


def _figures(pattern, text):
    """The figures that stand for the X of a pattern."""
    found = re.search(re.escape(pattern).replace('X', r'([\d,]+)'), text)
    return [float(figure.replace(',', '')) for figure in found.groups()]


def in_equilibrium(lr=0.05, decay=2e-3, momentum=0.8):
    records = simulated(
        lr=np.full(4000, lr),
        weight_decay=decay,
        momentum=momentum,
        norm=None,
        noise=0.02,
    )
    return run_of(records, 'well').report


def test_a_run_without_fault_is_told_what_may_be_next():
    """Each figure against its closed form: Δ*² = 2λη/(1+α), (1−α)/(4λη) to 1/e."""
    report = in_equilibrium()
    assert {s.state for each in report.layers for s in each.stages} == {
        'in equilibrium'
    }
    assert advice(report) == []
    well, other, drop, plan = next_steps(report)
    assert 'smd plan' in plan
    angle = np.sqrt(2 * 2e-3 * 0.05 / 1.8)
    assert well.startswith(
        'Nothing is wrong: 3 of 3 layers are in equilibrium in stage'
    )
    assert f'Δ* is {angle:.3g} rad' in well
    assert f'doubled to 0.004 Δ* is {angle * 2**0.5:.3g}' in other
    # The second order of λη takes some parts in a thousand off.
    assert _figures('in X iterations in place of X; halved', other) == pytest.approx(
        [250, 500], rel=5e-3
    )
    assert _figures(f'halved, {angle / 2**0.5:.3g} and X', other) == pytest.approx(
        [1000], rel=5e-3
    )
    assert f'Δ* falls to {angle / 10**0.5:.3g}' in drop
    # ‖w‖⁴ is at 10 times its new equilibrium, and has to come to 1.2 times.
    needed = np.log(9 / 0.2) * 5000
    assert _figures('again after X iterations', drop) == pytest.approx(
        [needed], rel=5e-3
    )


def test_what_a_stage_lacks_is_told_in_figures():
    """‖w‖⁴ is 10 w*⁴ at the drop, and comes nearer by 1/e in 5,000 iterations."""
    lr = np.repeat([0.05, 0.005], [600, 2000])
    report = run_of(simulated(lr=lr, norm=None), 'short').report
    told = advice(report)[0]
    needed = float(re.search(r'A stage of ([\d,]+) iter', told)[1].replace(',', ''))
    assert needed == pytest.approx(np.log(9 / 0.2) * 5000, rel=0.1)
    # Where no layer has come to its equilibrium, the next drop is not the question.
    assert not any('divided' in step for step in next_steps(report))
    # Nine times the decay would be another training.
    assert 'weight decay' not in told
    lr = np.repeat([0.05, 0.025], [600, 400])
    told = advice(run_of(simulated(lr=lr, norm=None), 'short').report)[0]
    needed = float(re.search(r'A stage of ([\d,]+) iter', told)[1].replace(',', ''))
    decay = float(re.search(r'a weight decay of ([\d.]+) in', told)[1])
    assert decay == pytest.approx(2e-3 * needed / 400, rel=1e-2)


def test_a_conclusion_that_fails_is_told_whatever_the_state():
    report = in_equilibrium()
    stage = report.layers[1].stages[-1]
    check = next(c for c in stage.checks if c.name == 'linear_convergence')
    check.verdict, check.cause = 'fails', 'another momentum would explain it'
    assert advice(report) == [
        f'In stage {stage.stage}, linear convergence fails in '
        f'{report.layers[1].layer}: another momentum would explain it.'
    ]


def test_a_run_without_theory_is_promised_nothing():
    report = run_of(simulated(metadata={'theory': 'none'}), 'none').report
    assert next_steps(report) == []
    report = run_of(simulated(metadata={'theory': 'adamw'}), 'adamw').report
    where, other, *_ = next_steps(report)
    # Δ*² = 2ηλ(1−β₁)/(1+β₁), and ‖w‖² comes nearer by 1/e in 1/(2ηλ) iterations.
    assert f'In stage 1 Δ* is {np.sqrt(2e-5 * 0.2 / 1.8):.3g} rad' in where
    found = _figures('‖w‖² comes nearer by 1/e in X iterations in place of X;', other)
    assert found == pytest.approx([25_000, 50_000], rel=5e-3)


def test_a_diverged_run_is_told_what_it_is():
    records = simulated(lr=np.full(400, 0.05))
    late = records.table['iter'].to_numpy() > 300
    names = ('angular_update_mean', 'unit_h_mean', 'cosine_mean')
    lost = {name: np.where(late, np.nan, records.table[name]) for name in names}
    records = with_columns(records, **lost)
    for warming in (False, True):
        if warming:
            records = with_columns(records, stage=np.full(len(late), -1))
        report = run_of(records, 'diverged').report
        assert {stage.state for each in report.layers for stage in each.stages} == {
            'diverged'
        }
        assert advice(report)[0].endswith(': the training diverged.')


def test_accumulated_steps_are_told_in_iterations():
    lr = np.repeat([0.05, 0.005], [600, 300])
    told = []
    for every in (1, 4):
        records = simulated(lr=lr, norm=None)
        stretched = records.table['iter'].to_numpy() * every
        records = with_columns(records, {}, iter=stretched)
        told.append(advice(run_of(records, 'accumulated').report)[0])
    # (1−α)/(4λη) = 5,000 steps, in a stage of 300.
    for text, every in zip(told, (1, 4), strict=True):
        found = _figures('1/e in X iterations, and the stage has X.', text)
        assert found == pytest.approx([5000 * every, 300 * every], rel=5e-3)
