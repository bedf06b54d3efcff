"""Where layers stand while training goes on."""

import numpy as np
from simulation import records_of, small_walk

from smd_mmdet.checks import IN_EQUILIBRIUM, live, standing
from smd_mmdet.records import Records


def _newest(records: Records, windows: int = 1) -> dict[str, np.ndarray]:
    layers = len(records.layers())
    table = records.table.slice(records.table.num_rows - windows * layers)
    names = [name for name in table.column_names if name != 'shape']
    return {name: table[name].to_numpy(zero_copy_only=False) for name in names}


def test_live_standing_and_expected_iterations():
    above = standing(_newest(records_of(small_walk(200, norm=9.0)), windows=4))
    assert set(above.state) == {'approaching from above'}
    # ‖w‖⁴ relaxes at 4λη/(1−α): what is expected is what it then takes.
    wait = int(200 + above.iterations.max())
    later = standing(_newest(records_of(small_walk(wait, norm=9.0)), windows=4))
    np.testing.assert_allclose(later.angular_update_ratio, 0.9, atol=0.1)
    assert set(standing(_newest(records_of(small_walk(200, norm=9.0))), 50).state) == {
        'unreachable in this stage'
    }
    below = standing(_newest(records_of(small_walk(20, norm=1.0), window=10)))
    assert set(below.state) == {'approaching from below'}
    level = standing(_newest(records_of(small_walk(1000, noise=0.01)), windows=8))
    assert level.counts() == {IN_EQUILIBRIUM: 2}
    assert (level.iterations == 0).all()


def test_live_knows_layers_it_cannot_judge():
    columns = _newest(records_of(small_walk(100, layers=4)))
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


def test_past_the_end_a_layer_in_equilibrium_is_in_equilibrium():
    there = _newest(records_of(small_walk(1000, noise=0.01)), windows=8)
    assert standing(there, remaining=-7).counts() == {IN_EQUILIBRIUM: 2}
    above = _newest(records_of(small_walk(200, norm=9.0)), windows=4)
    assert standing(above, remaining=-7).counts() == {'unreachable in this stage': 2}


def test_noise_does_not_turn_what_is_unreachable_to_and_fro(monkeypatch):
    walk = small_walk(1200, size=128, norm=6.0, layers=20, noise=20.0)
    records = records_of(walk, window=50)
    table, layers = records.table, walk.layers
    wait = standing(_newest(Records(table.slice(0, 8 * layers), {}), 4)).iterations
    end = 400 + int(np.median(wait))  # half of them get there in time

    def turns(memory: bool) -> int:
        """How often a layer becomes unreachable, or no longer."""
        before, gone = None, []
        for number in range(4, 16):
            newest = _newest(Records(table.slice(0, number * layers), {}), windows=4)
            now = standing(newest, end - number * 50, before=before)
            gone.append(now.state == 'unreachable in this stage')
            before = now if memory else None
        return int(np.diff(np.array(gone, int), axis=0).astype(bool).sum())

    # Of 20 layers, each may turn once when L has become known.
    with_memory, without = turns(memory=True), turns(memory=False)
    monkeypatch.setattr(live, '_SURE', 0.0)
    assert with_memory <= without <= 10
    assert turns(memory=False) > 30


def test_live_sees_a_gradient_that_decays_the_weight():
    # By 73 % of λ, while no iteration's cosine is large.
    walk = small_walk(1000, size=1024, radial=0.02 * 0.95)
    assert standing(_newest(records_of(walk), windows=4)).counts() == {
        'not at the predicted equilibrium': 2
    }
    columns = _newest(records_of(small_walk(1000, noise=0.01)), windows=4)
    columns['cosine_var'] = np.full(len(columns['iter']), 0.019**2)  # random rounding
    assert standing(columns).counts() == {IN_EQUILIBRIUM: 2}
