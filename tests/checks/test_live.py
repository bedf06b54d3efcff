"""Where layers stand while training goes on."""

import numpy as np
from simulation import records_of, small_walk

from smd_mmdet.checks import IN_EQUILIBRIUM, standing
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
