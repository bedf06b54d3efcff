"""What the page advises."""

import numpy as np
from runs import simulated, with_columns

from smd_mmdet.report.run import run_of
from smd_mmdet.report.words import advice


def test_layers_are_advised_on(run):
    text = ' '.join(advice(run.report))
    assert 'In stage 1, 3 layers did not reach equilibrium' in text
    assert 'k^(−1/4)' in text
    undecided = run_of(simulated(metadata={'theory': 'adamw'}), 'adamw')
    assert advice(undecided.report)[0].startswith('No verdict on 3 layers in stage 1: ')


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
    assert '1/e in 5,000 iterations, and the stage has 300.' in told[0]
    assert '1/e in 20,000 iterations, and the stage has 1,200.' in told[1]
