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


def _clipped_walk(steps: int, layers: int = 4, size: int = 256) -> dict:
    """The last 200 steps under SGD whose gradients are clipped in every step.

    The layers have equal shares of the norm, which is all of it, so p is 2.
    """
    lr, decay, momentum, rng = 0.05, 3e-3, 0.9, np.random.default_rng(0)
    w = rng.standard_normal((layers, size))
    w *= 3.0 / np.linalg.norm(w, axis=1, keepdims=True)
    v, kept = np.zeros_like(w), []
    for _ in range(steps):
        norm = np.linalg.norm(w, axis=1, keepdims=True)
        g = rng.standard_normal(w.shape)
        g -= w * (g * w).sum(1, keepdims=True) / norm**2
        g *= 0.1 / np.linalg.norm(g, axis=1, keepdims=True)
        h = (g * g).sum(1) + 2 * momentum * (v * g).sum(1)
        v = momentum * v + g + decay * w
        u = w - lr * v
        cosine = (u * w).sum(1) / (norm[:, 0] * np.linalg.norm(u, axis=1))
        kept.append((norm[:, 0], h * norm[:, 0] ** 2, np.arccos(cosine)))
        w = u
    norm, h, angle = (
        np.array(kept)[-200:].reshape(4, 50, 3, layers).transpose(2, 0, 1, 3)
    )
    known = dict(count=50, lr=lr, weight_decay=decay, momentum=momentum)
    known |= dict(cosine_mean=0.0, cosine_var=0.0, unit_grad_sq_max=1.0)
    known |= dict(clipping_power=2.0, clipped_share=1.0)
    known |= dict(angular_update_eq=(2 * decay * lr / (1 + momentum)) ** 0.5)
    columns = {name: np.full(4 * layers, value) for name, value in known.items()}
    return columns | {
        'iter': np.repeat(np.arange(50, 201, 50), layers),
        'layer': np.tile(list('abcd'), 4),
        'weight_norm_mean': norm.mean(1).ravel(),
        'unit_h_mean': h.mean(1).ravel(),
        'angular_update_mean': angle.mean(1).ravel(),
        'angular_update_var': angle.var(1).ravel(),
    }


def test_clipped_gradients_take_the_norm_longer():
    columns = _clipped_walk(200)
    found = standing(columns)
    assert found.clipped_share == 1.0
    assert set(found.state) == {'approaching from above'}
    later = standing(_clipped_walk(200 + int(found.iterations.max())))
    # The last window is a mean over 50 iterations, and comes a little later.
    np.testing.assert_allclose(later.angular_update_ratio, 0.9, atol=0.04)
    del columns['clipping_power']  # an earlier version's: half of the time, too little
    early = standing(_clipped_walk(200 + int(standing(columns).iterations.max())))
    assert early.angular_update_ratio.max() < 0.84


def test_adamw_has_a_way_there():
    lr, decay, beta = 1e-3, 0.1, 0.9
    # w*² = ηU(1+β₁)/(2λ(1−β₁)) of an update with U = 4. Decay takes λη in each step.
    at_rest = lr * 4.0 * 1.9 / (2 * decay * 0.1)
    row = dict(iter=100, count=100, lr=lr, weight_decay=decay, momentum=beta)
    row |= dict(
        cosine_mean=0.2, cosine_var=0.0, unit_grad_sq_max=1.0, update_sq_mean=4.0
    )
    row |= dict(angular_update_eq=1e-3, angular_update_var=0.0, unit_h_mean=np.nan)
    row |= dict(clipping_power=2.0)  # does not change the law
    columns = {name: np.full(2, value) for name, value in row.items()}
    columns['layer'] = np.array(['a', 'b'])
    columns['weight_norm_mean'] = at_rest**0.5 * np.array([1.0, 2.0])
    columns['angular_update_mean'] = np.array([1e-3, 5e-4])
    columns['cosine_mean'] = np.array([1e-4, 1e-4])
    found = standing(columns, law='adamw')
    assert found.state.tolist() == ['in equilibrium', 'approaching from above']
    np.testing.assert_allclose(found.weight_norm_ratio, [1, 2], rtol=1e-3)
    wait = np.log((4 - 1) / 0.2) / (-2 * np.log(1 - decay * lr))
    np.testing.assert_allclose(found.iterations, [0, wait], rtol=1e-3)
    # Records of a version that did not measure U: by the angle alone.
    columns['update_sq_mean'] = np.full(2, np.nan)
    found = standing(columns, law='adamw')
    assert found.state.tolist() == ['in equilibrium', 'approaching from above']
    assert np.isnan(found.iterations).all()
    assert set(standing(columns | {'angular_update_eq': np.full(2, np.nan)},
                        law='none').state) == {'no theory'}  # fmt: skip
