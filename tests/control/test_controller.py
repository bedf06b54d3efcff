"""The controller on walks whose angles are computed from the weights themselves."""

import copy

import numpy as np
import pytest
import torch
from controlled import Walk, network, weights_of
from rescaling import distance, evaluated
from torch import nn

from smd_mmdet import SphericalMotionMonitor
from smd_mmdet.control import AngularUpdateController, read_replay
from smd_mmdet.records import RecordWriter

SGD = dict(lr=0.05, weight_decay=1e-2)
SIZES = [0.2, 0.5, 1, 1, 2, 4]
STEPS = 300


def cosine(first, last, steps=STEPS):
    return last + (first - last) * (1 + np.cos(np.pi * np.arange(steps) / steps)) / 2


def controlled(walk, model, angular_update, steps=STEPS, **settings):
    names = list(walk.weights)
    controller = AngularUpdateController(
        model, walk.optimizer, names, angular_update, **settings
    )
    done = [walk.step(controller) for _ in range(steps)]
    assert controller.fault is None
    return controller, done


@pytest.mark.parametrize(
    ('kind', 'settings', 'max_norm'),
    [
        ('sgd', SGD, None),
        ('sgd', dict(lr=0.05, weight_decay=0.0), None),
        ('plain sgd', dict(lr=0.5, weight_decay=1e-2), None),
        ('nesterov', SGD, None),
        ('adamw', dict(lr=1e-3, weight_decay=0.1), None),
        ('sgd', SGD, 0.05),
    ],
)
def test_the_wanted_angle_is_that_of_the_weights(kind, settings, max_norm):
    model, wanted = network(), cosine(1e-2, 2e-3)
    walk = Walk(model, kind, SIZES, noise=0.1, max_norm=max_norm, **settings)
    controlled(walk, model, wanted)
    # Adam's first moments, and a clip coefficient that two controls bring in place,
    # are no steady state.
    begin = 60 if kind == 'adamw' or max_norm else 20
    root = np.sqrt(np.square(wanted[begin:]).reshape(-1, 20).mean(1))
    ratio = walk.rms(20, begin) / root[:, None]
    assert (np.abs(ratio - 1) < 0.1).mean() > 0.9
    assert np.median(ratio, axis=0) == pytest.approx(1, abs=0.04)


def test_a_rate_that_jumps_and_moves_does_not_show():
    """The rates are not known ahead: a drop, and a warm-up."""
    model = network()
    walk = Walk(model, 'sgd', SIZES, noise=0.1, **SGD)
    controller = AngularUpdateController(
        model, walk.optimizer, list(walk.weights), 5e-3
    )
    for t in range(300):
        rate = 0.05 * min(1, (t + 1) / 100) / (10 if t >= 150 else 1)
        walk.optimizer.param_groups[0]['lr'] = rate
        walk.step()
        walk.optimizer.param_groups[0]['lr'] = (
            0.05 * min(1, (t + 2) / 100) / (10 if t + 1 >= 150 else 1)
        )
        controller.step()
    ratio = walk.rms(10, 20) / 5e-3
    assert (np.abs(ratio - 1) < 0.15).mean() > 0.9
    assert walk.rms(10, 150)[0] / 5e-3 == pytest.approx(1, abs=0.2)


def test_at_equilibrium_nothing_is_changed_but_by_noise():
    lr, decay, alpha = 0.05, 1e-3, 0.9
    model = network()
    star = np.sqrt(2 * decay * lr / (1 + alpha))
    with torch.no_grad():
        for size, weight in zip(SIZES, weights_of(model).values(), strict=True):
            weight.mul_((lr * size**2 / (2 * decay * (1 - alpha))) ** 0.25)
    walk = Walk(model, 'sgd', SIZES, noise=0.1, lr=lr, weight_decay=decay)
    first = [float(w.norm()) for w in walk.weights.values()]
    controlled(walk, model, 'equilibrium', 600)
    assert np.array(walk.norms) == pytest.approx(np.tile(first, (600, 1)), rel=0.1)
    assert walk.rms(580, 20)[0] == pytest.approx(star, rel=0.02)


def test_equilibrium_is_where_it_leads_from_anywhere():
    lr, decay, alpha = 0.05, 1e-3, 0.9
    model = network(norm=8.0)
    walk = Walk(model, 'sgd', SIZES, noise=0.1, lr=lr, weight_decay=decay)
    controlled(walk, model, 'equilibrium', 200)
    wanted = [(lr * s**2 / (2 * decay * (1 - alpha))) ** 0.25 for s in SIZES]
    assert walk.norms[-1] == pytest.approx(wanted, rel=0.06)


def test_outputs_are_the_same_across_each_control():
    model = network()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    images = (torch.randn(8, 32).double(),)
    walk = Walk(model, 'sgd', SIZES, **SGD)
    controller = AngularUpdateController(
        model, walk.optimizer, list(walk.weights), cosine(1e-2, 2e-3, 100)
    )
    controls = 0
    for _ in range(100):
        walk.step()
        before = evaluated(model, images)
        norms = [float(w.norm()) for w in walk.weights.values()]
        if factors := controller.step():
            controls += 1
            assert distance(before, evaluated(model, images)) < 1e-10
            for (name, w), norm in zip(walk.weights.items(), norms, strict=True):
                assert float(w.norm()) == pytest.approx(norm * factors.get(name, 1))
    assert controls >= 4


@pytest.mark.parametrize('max_norm', [None, 0.3])
def test_a_state_goes_on_to_the_bit(max_norm):
    def begin():
        model = network()
        walk = Walk(model, 'sgd', SIZES, max_norm=max_norm, **SGD)
        names = list(walk.weights)
        wanted = cosine(1e-2, 2e-3, 100)
        return walk, AngularUpdateController(model, walk.optimizer, names, wanted)

    walk, controller = begin()
    for _ in range(47):
        walk.step(controller)
    saved = copy.deepcopy(
        [
            [w.detach() for w in walk.weights.values()],
            walk.optimizer.state_dict(),
            controller.state_dict(),
            walk.generator.get_state(),
        ]
    )
    for _ in range(53):
        walk.step(controller)

    other, resumed = begin()
    with torch.no_grad():
        for w, value in zip(other.weights.values(), saved[0], strict=True):
            w.copy_(value)
    other.optimizer.load_state_dict(saved[1])
    resumed.load_state_dict(saved[2])
    other.generator.set_state(saved[3])
    for _ in range(53):
        other.step(resumed)
    for one, two in zip(walk.weights.values(), other.weights.values(), strict=True):
        assert torch.equal(one, two)
    assert other.angles == walk.angles[47:]


@pytest.mark.parametrize('changes', [dict(lr=0.1), dict(weight_decay=4e-2)])
def test_a_recorded_run_is_repeated_under_other_settings(tmp_path, changes):
    model = network()
    first = Walk(model, 'sgd', SIZES, noise=0.1, **SGD)
    with SphericalMotionMonitor(first.optimizer, first.weights, 20) as monitor:
        for _ in range(200):
            first.step()
        RecordWriter(tmp_path).append(monitor.collect())
    model = network()
    other = Walk(model, 'sgd', SIZES, noise=0.1, seed=1, **(SGD | changes))
    controlled(other, model, tmp_path, 200)
    model = network()
    plain = Walk(model, 'sgd', SIZES, noise=0.1, seed=1, **(SGD | changes))
    for _ in range(200):
        plain.step()
    wanted = first.rms(20, 20)
    assert np.median(np.abs(other.rms(20, 20) / wanted - 1)) < 0.06
    assert np.median(np.abs(plain.rms(20, 20) / wanted - 1)) > 0.15


@pytest.mark.parametrize('length', [1, 30])
def test_a_layer_with_gradients_half_of_the_time_is_not_chased(length):
    """In turns, one step each or thirty, in which it hardly moves at all."""
    model, wanted = network(), 5e-3
    silent = {3: lambda t: t // length % 2}
    walk = Walk(model, 'sgd', [1.0] * 6, silent=silent, **SGD)
    controlled(walk, model, wanted, 600)
    layer = np.array(walk.norms)[100:, 3]
    assert layer.max() / layer.min() < 2.5
    assert np.sqrt(np.square(walk.angles)[100:, 3].mean()) < 1.5 * wanted
    others = np.delete(walk.rms(20, 100), 3, axis=1)
    assert np.median(others) == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize(('every', 'bound'), [(20, 0.5), (5, 0.5**0.25)])
def test_no_weight_is_shrunk_too_much_for_what_was_measured(every, bound):
    model = network(layers=2)
    walk = Walk(model, 'sgd', **SGD)
    _, done = controlled(walk, model, 1.0, 45, every=every)
    factors = [c for one in done for c in one.values()]
    assert min(factors) == pytest.approx(bound)


def test_no_weight_grows_beyond_the_bound():
    model = network(layers=2, norm=0.1)
    walk = Walk(model, 'sgd', **SGD)
    _, done = controlled(walk, model, 1e-6, 45)
    assert max(c for one in done for c in one.values()) == pytest.approx(4)


def test_weights_are_not_shrunk_into_the_epsilon():
    model = network()
    norm = model[1]
    norm.eps = 1e-5
    norm.running_var.fill_(200 * norm.eps)
    walk = Walk(model, 'sgd', **SGD)
    controller, done = controlled(walk, model, 1.0, 20)
    assert done[-1]['0.weight'] == pytest.approx(0.5**0.5)
    assert done[-1]['2.weight'] == pytest.approx(0.5)
    assert controller.left_alone == {'0.weight': 'held back, 1 is near its ε'}


def test_layers_that_cannot_follow_are_named():
    model = network()
    walk = Walk(model, 'sgd', silent={2: lambda t: True}, **SGD)
    controller, _ = controlled(walk, model, 5e-3, 20)
    assert controller.left_alone == {'4.weight': 'no gradient'}
    walk = Walk(network(), 'sgd', lr=0.05, weight_decay=0.0)
    model = network()
    walk = Walk(model, 'sgd', lr=0.05, weight_decay=0.0)
    controller, done = controlled(walk, model, 'equilibrium', 20)
    assert set(controller.left_alone.values()) == {'no decay'} and done[-1] == {}


def test_steps_that_a_scaler_skips_count_and_tell_nothing():
    model = network()
    walk = Walk(model, 'sgd', noise=0.1, **SGD)
    controller = AngularUpdateController(
        model, walk.optimizer, list(walk.weights), 5e-3
    )
    for t in range(300):
        if t % 3:
            walk.step(controller)
        else:
            controller.step()
    assert controller.steps == 300 and controller.fault is None
    assert np.median(walk.rms(20, 60)) == pytest.approx(5e-3, rel=0.04)


def test_a_fault_of_ours_ends_the_control_and_not_the_training(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError('no way')

    monkeypatch.setattr('smd_mmdet.control.controller.plan_what_fits', broken)
    model = network()
    walk = Walk(model, 'sgd', **SGD)
    controller = AngularUpdateController(
        model, walk.optimizer, list(walk.weights), 5e-3
    )
    with pytest.warns(RuntimeWarning, match='stopped at step 20, training goes on'):
        for _ in range(25):
            walk.step(controller)
    assert str(controller.fault) == 'no way'


# ------------------------------------------------------------------------- refusals


def build(angular_update=5e-3, names=None, optimizer=None, **settings):
    model = network(layers=2)
    optimizer = optimizer or torch.optim.SGD
    optimizer = optimizer(model.parameters(), lr=0.1)
    names = list(weights_of(model)) if names is None else names
    return AngularUpdateController(model, optimizer, names, angular_update, **settings)


@pytest.mark.parametrize(('wanted', 'least'), [(0.06, 0.5), (0.5, 0.03)])
def test_an_angle_beyond_reach_is_held_back_for_and_named(wanted, least):
    """Gradients of a loss, which the old ones in a momentum can overrun."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=1e-16), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
    model = nn.Sequential(*layers, *head).double()
    weight, images = model[0].weight, torch.randn(16, 3, 8, 8).double()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3
    )
    controller = AngularUpdateController(
        model, optimizer, ['0.weight'], wanted, every=1, inputs=(images,)
    )
    angles = []
    for _ in range(200):
        images, labels = torch.randn(16, 3, 8, 8).double(), torch.randint(4, (16,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        before = weight.detach().flatten().clone()
        optimizer.step()
        cosine = torch.cosine_similarity(before, weight.detach().flatten(), dim=0)
        angles.append(float(torch.acos(cosine.clamp(max=1.0))))
        controller.step()
    assert controller.fault is None
    assert np.sqrt(np.mean(np.square(angles[100:]))) > least * wanted
    assert 0.05 < float(weight.detach().norm()) < 2
    assert 'until its momentum has faded' in controller.left_alone['0.weight']


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(angular_update=0.0), 'angular_update must be above 0 and at most π/2'),
        (dict(angular_update=-1e-3), 'angular_update must be above 0'),
        (dict(angular_update=float('nan')), 'angular_update must be finite'),
        (dict(angular_update=1.6), 'angular_update must be above 0 and at most π/2'),
        (
            dict(angular_update=[1e-3, 1e-3, 0.0]),
            'is 0 at number 3 of 3; let a schedule end above 0',
        ),
        (dict(angular_update=[1e-3, np.nan]), 'angular_update must be finite'),
        (dict(angular_update=[]), 'angular_update must not be empty'),
        (dict(angular_update=True), 'angular_update must be angles in radians'),
        (dict(angular_update=lambda t: True), r'angular_update\(0\) must be angles'),
        (dict(angular_update=lambda t: [1e-3] * 5), 'or one for each of 2 layers'),
        (
            dict(angular_update=torch.tensor(1e-3, requires_grad=True)),
            'angular_update must be a number or an array',
        ),
        (dict(angular_update=np.ones((4, 3)) * 0.1), r'shape \(steps, 2\)'),
        (dict(angular_update=lambda t: 0.0), r'angular_update\(0\) must be above 0'),
        (dict(angular_update='nowhere'), "'nowhere' is no folder"),
        (dict(angular_update={}), 'angular_update must be a number or an array'),
        (dict(every=0), 'every must be an integer >= 1, got 0'),
        (dict(names=[]), 'names: there is no scale-invariant weight'),
        (dict(names=['0.weights']), "no parameter '0.weights'; did you mean"),
        (dict(names=['1.weight']), 'names: 1.weight cannot be rescaled'),
        (dict(optimizer=torch.optim.Adam), 'no equilibrium norm is known under'),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(ValueError, match='no records in it'):
        build(tmp_path)


def test_a_second_controller_is_refused():
    model = network()
    walk = Walk(model, 'sgd', **SGD)
    names = list(walk.weights)
    first = AngularUpdateController(model, walk.optimizer, names, 5e-3)
    with pytest.raises(ValueError, match='it has a controller already'):
        AngularUpdateController(model, walk.optimizer, names, 5e-3)
    first.detach()
    AngularUpdateController(model, walk.optimizer, names, 5e-3).detach()


def test_a_state_of_other_layers_is_refused():
    model = network()
    walk = Walk(model, 'sgd', **SGD)
    state = AngularUpdateController(model, walk.optimizer, ['0.weight'], 5e-3)
    saved = state.state_dict()
    with pytest.raises(ValueError, match='other layers'):
        build().load_state_dict(saved)
    with pytest.raises(ValueError, match='every=20'):
        build(every=30).load_state_dict(saved)


# --------------------------------------------------------------------------- replay


def write(folder, rows, invariant=True, **facts):
    """A run's records: by window and layer, the mean and the variance of Δ."""
    layers = {row[2]: {'invariant': invariant} for row in rows}
    columns = {
        'iter': np.array([row[0] for row in rows]),
        'count': np.array([row[1] for row in rows]),
        'layer': np.array([row[2] for row in rows], dtype=object),
        'stage': np.zeros(len(rows), int),
        'angular_update_mean': np.array([row[3] for row in rows]),
        'angular_update_var': np.array([row[4] for row in rows]),
    }
    RecordWriter(folder, {'layers': layers, **facts}).append(columns)


def test_gaps_of_a_run_are_filled_from_its_other_layers(tmp_path):
    run = tmp_path / 'run'
    write(
        run,
        [
            *((10, 10, n, a / 100, 0.0) for n, a in zip('abc', (1, 2, 9), strict=True)),
            *((20, 10, n, a / 100, 0.0) for n, a in zip('abc', (3, 0, 5), strict=True)),
            *((30, 0, n, np.nan, np.nan) for n in 'abc'),
        ],
    )
    found = read_replay(run).at(np.array([9, 10, 25, 99]), ['b', 'new'])
    assert found.tolist() == [[0.02, 0.02], [0.04, 0.04], [0.04, 0.04], [0.04, 0.04]]


def test_a_run_of_weights_without_theory_is_refused(tmp_path):
    write(tmp_path, [(10, 10, 'head', 0.01, 0.0)], invariant=False)
    with pytest.raises(ValueError, match='no scale-invariant weight'):
        read_replay(tmp_path)
