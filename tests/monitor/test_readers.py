"""Reading steps of several optimizers, and what is known of their equilibrium."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn
from truth import Truth, assert_window_equals, backward, small_net, weights_of

from smd_mmdet import SphericalMotionMonitor
from smd_mmdet.monitor.readers import READERS, DisplacementReader, reader_for

MEASURED = ['weight_norm', 'grad_norm', 'unit_grad_sq', 'angular_update', 'cosine']


def measured(make, steps=8, window=4):
    """Records and truth of a small net's training under an optimizer."""
    net = small_net()
    params = weights_of(net)
    optimizer = make(net.parameters())
    truth = Truth(optimizer, params)
    monitor = SphericalMotionMonitor(optimizer, params, window=window)
    for step in range(steps):
        optimizer.zero_grad()
        backward(net, step)
        optimizer.step()
    return monitor, truth, monitor.collect()


@pytest.mark.parametrize(
    ('law', 'make'),
    [
        ('adamw', lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1)),
        ('adam', lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=1e-3)),
        ('none', lambda p: torch.optim.RMSprop(p, lr=1e-3, weight_decay=1e-3)),
        ('none', lambda p: torch.optim.AdamW(p, lr=1e-3, amsgrad=True)),
    ],
)
def test_other_optimizers_are_measured_by_displacement(law, make):
    monitor, truth, rows = measured(make)
    assert monitor.theory == law
    known = MEASURED + ['update_sq', 'update_cosine'] * (law == 'adamw')
    for layer in truth.params:
        for last in (4, 8):
            steps = slice(last - 4, last)
            assert_window_equals(rows, truth, layer, last, steps, 2e-5, known)
    assert np.isnan(rows['unit_h_mean']).all()
    if law == 'none':
        assert np.isnan(rows['angular_update_eq']).all()
        assert np.isnan(rows['weight_norm_eq']).all()


@pytest.mark.parametrize(
    ('law', 'settings'),
    [
        ('nesterov', dict(nesterov=True)),
        ('sgd', dict(dampening=0.3)),
        ('sgd', dict(dampening=0.3, momentum=0.0)),
    ],
)
def test_variants_of_sgd_are_read_without_a_copy_of_the_weights(law, settings):
    settings = dict(lr=0.1, momentum=0.9, weight_decay=1e-2) | settings
    monitor, truth, rows = measured(lambda p: torch.optim.SGD(p, **settings))
    assert monitor.theory == law
    assert monitor._reader.before_step is None
    for layer in truth.params:
        for last in (4, 8):
            assert_window_equals(rows, truth, layer, last, slice(last - 4, last), 2e-5)


def test_equilibria_are_those_of_the_closed_forms():
    """Each from the window's own means, written out here anew."""
    kept, lr, decay = 0.7, 1e-2, 0.1
    sgd = dict(lr=lr, momentum=0.9, weight_decay=decay)
    *_, rows = measured(lambda p: torch.optim.SGD(p, **sgd, dampening=0.3))
    h, eta = rows['unit_h_mean'], lr * kept
    np.testing.assert_allclose(rows['lr'], eta, rtol=1e-12)
    norm = (eta * h / (decay * 0.1 * (2 - decay * eta / 1.9))) ** 0.25
    np.testing.assert_allclose(rows['weight_norm_eq'], norm, rtol=1e-12)
    expected = (2 * decay * eta / 1.9) ** 0.5
    np.testing.assert_allclose(rows['angular_update_eq'], expected, rtol=1e-12)

    *_, rows = measured(lambda p: torch.optim.SGD(p, **sgd, nesterov=True), 40, 40)
    driven, grad = rows['unit_h_mean'], rows['unit_grad_sq_mean']
    norm = (lr * driven / (2 * decay * 0.1)) ** 0.25
    np.testing.assert_allclose(rows['weight_norm_eq'], norm, rtol=1e-12)
    along = (driven - grad) / (2 * 0.81)
    both = grad + 1.8 * along
    above = (1 + 1.8 - 2 * 0.729) * both / 0.19 - 1.8 * 1.9 * along
    angle = (2 * decay * lr * above / (both / 0.1 - 1.8 * along)) ** 0.5
    np.testing.assert_allclose(rows['angular_update_eq'], angle, rtol=1e-9)

    *_, rows = measured(lambda p: torch.optim.AdamW(p, lr=lr, weight_decay=decay))
    norm = (lr * rows['update_sq_mean'] * 1.9 / (2 * decay * 0.1)) ** 0.5
    np.testing.assert_allclose(rows['weight_norm_eq'], norm, rtol=1e-12)
    expected = (2 * lr * decay * 0.1 / 1.9) ** 0.5
    np.testing.assert_allclose(rows['angular_update_eq'], expected, rtol=1e-12)

    *_, rows = measured(lambda p: torch.optim.Adam(p, lr=lr, weight_decay=decay))
    size = np.array([np.prod(shape) for shape in rows['shape']])
    cube = lr * np.sqrt(size * rows['unit_grad_sq_mean']) / (2 * decay)
    np.testing.assert_allclose(rows['weight_norm_eq'] ** 3, cube, rtol=1e-12)
    angle = lr * np.sqrt(size * 0.1 / 1.9) / np.cbrt(cube)
    np.testing.assert_allclose(rows['angular_update_eq'], angle, rtol=1e-12)


def _like(name, **settings):
    """An optimizer of this name that torch does not have."""

    class Other(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, settings)

        def step(self): ...

    return type(name, (Other,), {})


@pytest.mark.parametrize(
    ('law', 'make'),
    [
        (
            'nadamw',
            lambda p: torch.optim.NAdam(
                p, decoupled_weight_decay=True, momentum_decay=0.1
            ),
        ),
        # Torch's own momentum_decay moves β₁ for some 20,000 iterations.
        ('none', lambda p: torch.optim.NAdam(p, decoupled_weight_decay=True)),
        ('none', lambda p: torch.optim.NAdam(p)),
        ('lion', _like('Lion', lr=1e-4, betas=(0.9, 0.99), weight_decay=1)),
        ('none', _like('Lion', lr=1e-4, betas=(0.9, 0.98), weight_decay=1)),
        ('lamb', _like('Lamb', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01)),
        ('none', _like('Lamb', lr=1e-4, betas=(0.9, 0.999), weight_decay=0)),
        ('none', _like('LAMB', lr=1e-4, weight_decay=0.01, trust_clip=True)),
        ('none', _like('Muon', lr=1e-4, momentum=0.9)),
        (
            'none',
            lambda p: torch.optim.SGD(
                [dict(params=p, nesterov=True), dict(params=[nn.Parameter(p[0] + 1)])],
                lr=0.1,
                momentum=0.9,
            ),
        ),
    ],
)
def test_settings_that_no_law_covers_have_no_theory(law, make):
    assert reader_for(make([nn.Parameter(torch.ones(3))])).theory == law


def test_equilibrium_norm_is_of_the_windows_own_unit_gradient():
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=1e-3)
    monitor = SphericalMotionMonitor(optimizer, weights_of(net), window=10)
    for step in range(10):
        optimizer.zero_grad()
        backward(net, step)
        optimizer.step()
    rows = monitor.collect()
    expected = (rows['unit_grad_sq_mean'] * 0.1 / (2 * 1e-3)) ** 0.25
    np.testing.assert_allclose(rows['weight_norm_eq'], expected, rtol=1e-12)


@pytest.mark.parametrize('kind', [torch.optim.SGD, torch.optim.AdamW])
def test_a_subclass_with_the_step_of_its_base_is_read_as_its_base(kind, monkeypatch):
    """Whichever of the two is made first: torch wraps the step of that class."""
    monkeypatch.setattr(kind, 'step', inspect.unwrap(kind.step))
    mine = type('Mine', (kind,), {})
    weight = [nn.Parameter(torch.randn(3))]
    optimizer = mine(weight, lr=0.1, weight_decay=0.1)
    assert reader_for(optimizer) is READERS[kind]
    other = type('Other', (kind,), {'step': lambda self: None})
    assert reader_for(other(weight, lr=0.1)) is DisplacementReader
