"""Runs whose angular update is set: what is asked of them, and what is not."""

import numpy as np
import pytest
from simulation import records_of, small_walk

from smd_mmdet.checks import CONTROLLED, WANTED, check, standing
from smd_mmdet.records import Records, to_table

EQUILIBRIUM = ('weight_norm', 'weight_norm_spread', 'angular_update', 'corollary_3_1')


def controlled(records, wanted, factor=1.0, metadata=None):
    """The records with what a controller adds."""
    table = records.table
    columns = {name: table[name].to_pylist() for name in table.column_names}
    rows = len(columns['iter'])
    columns['angular_update_wanted'] = np.broadcast_to(wanted, rows)
    columns['control_factor'] = np.broadcast_to(factor, rows)
    facts = {'controlled': {'wanted': 'a number', 'every': 20}}
    return Records(to_table(columns), records.metadata | facts | (metadata or {}))


def root_mean_square(records):
    mean, variance = (
        records.table[f'angular_update_{kind}'].to_numpy() for kind in ('mean', 'var')
    )
    return np.sqrt(mean**2 + variance)


@pytest.fixture(scope='module')
def far_from_equilibrium():
    """1,000 iterations from a norm of 9, far above w*: no layer is in equilibrium."""
    return records_of(small_walk(1000, norm=9.0), window=20)


def test_where_the_wanted_angle_is_met_nothing_is_asked_of_equilibrium(
    far_from_equilibrium,
):
    angles = root_mean_square(far_from_equilibrium)
    report = check(controlled(far_from_equilibrium, 1.05 * angles))
    for layer in report.layers:
        [stage] = layer.stages
        assert stage.state == CONTROLLED
        assert {stage.verdict_of(name) for name in EQUILIBRIUM} == {'not applicable'}
        assert stage.verdict_of('lemma_1') == 'holds'
        assert stage.verdict_of(WANTED) == 'holds'
        # 50 windows, of which the first ends with the first control.
        assert (stage.wanted_windows, stage.wanted_near) == (49, 49)
        assert stage.angular_update_wanted is not None
    assert report.exit_code == 0
    assert report.verdict.startswith('Δ is within 10% of the wanted in 100.0% of 98')
    assert report.stages[0].wanted_share == 1 and not report.context


def test_a_run_that_strays_fails_and_one_window_of_ten_may(far_from_equilibrium):
    angles = root_mean_square(far_from_equilibrium)
    window = (far_from_equilibrium.table['iter'].to_numpy() // 20).astype(int)
    few = check(controlled(far_from_equilibrium, angles * np.where(window % 12, 1, 2)))
    assert few.exit_code == 0
    assert few.stages[0].wanted_share == pytest.approx(45 / 49)
    many = check(controlled(far_from_equilibrium, angles * np.where(window % 3, 1, 2)))
    assert many.exit_code == 1
    assert many.stages[0].wanted_share == pytest.approx(33 / 49)
    assert many.layers[0].stages[0].verdict_of(WANTED) == 'fails'
    # What strays is the control, and not the theory.
    assert not many.layers[0].stages[0].failing


def test_too_few_windows_below_the_share_prove_nothing():
    records = records_of(small_walk(120, norm=9.0), window=20)
    angles = root_mean_square(records)
    wanted = angles * np.where(records.table['iter'].to_numpy() == 120, 2, 1)
    [stage] = check(controlled(records, wanted)).layers[0].stages
    assert (stage.wanted_near, stage.wanted_windows) == (4, 5)
    assert stage.verdict_of(WANTED) == 'undecided'


def test_windows_before_the_first_control_do_not_count(far_from_equilibrium):
    angles = root_mean_square(far_from_equilibrium)
    iterations = far_from_equilibrium.table['iter'].to_numpy()
    wanted = np.where(iterations <= 100, 3, 1) * angles
    facts = {'controlled': {'every': 100}}
    [stage] = (
        check(controlled(far_from_equilibrium, wanted, metadata=facts)).layers[0].stages
    )
    assert (stage.wanted_near, stage.wanted_windows) == (45, 45)


def test_without_a_controller_nothing_of_it_is_told(far_from_equilibrium):
    report = check(far_from_equilibrium)
    stage = report.layers[0].stages[0]
    assert stage.verdict_of(WANTED) is None and stage.state != CONTROLLED
    assert report.stages[0].wanted_share is None
    nothing = check(controlled(far_from_equilibrium, np.nan))
    assert nothing.layers[0].stages[0].verdict_of(WANTED) is None


def test_without_decay_the_wanted_angle_is_judged_all_the_same(far_from_equilibrium):
    records = controlled(far_from_equilibrium, root_mean_square(far_from_equilibrium))
    columns = {n: records.table[n].to_pylist() for n in records.table.column_names}
    columns['weight_decay'] = [0.0] * len(columns['iter'])
    [stage] = check(Records(to_table(columns), records.metadata)).layers[0].stages
    assert stage.state == CONTROLLED and stage.verdict_of(WANTED) == 'holds'
    assert stage.verdict_of('weight_norm') == 'not applicable'


def test_the_standing_of_layers_that_are_controlled(far_from_equilibrium):
    angles = root_mean_square(far_from_equilibrium)
    wanted = angles * np.where(np.arange(len(angles)) % 2, 1.25, 1.02)
    records = controlled(far_from_equilibrium, wanted)
    table = records.table.slice(records.table.num_rows - 2)
    newest = {
        name: table[name].to_numpy(zero_copy_only=False)
        for name in table.column_names
        if name != 'shape'
    }
    found = standing(newest)
    assert found.counts() == {CONTROLLED: 2}
    assert found.wanted_ratio == pytest.approx([1 / 1.02, 1 / 1.25])
    assert found.near_wanted == 1
    assert np.isnan(found.iterations).all()
    newest['angular_update_wanted'] = np.array([np.nan, np.nan])
    assert standing(newest).wanted_ratio is None
