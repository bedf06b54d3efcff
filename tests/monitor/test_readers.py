"""Reading steps of several optimizers, and what is known of their equilibrium."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn
from truth import Truth, assert_window_equals, backward, small_net, weights_of

from smd_mmdet import SphericalMotionMonitor, theory
from smd_mmdet.monitor.readers import READERS, DisplacementReader, reader_for


@pytest.mark.parametrize(
    'make',
    [
        lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=1e-3),
        lambda p: torch.optim.RMSprop(p, lr=1e-3, weight_decay=1e-3),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.3),
    ],
    ids=['AdamW', 'Adam', 'RMSprop', 'Nesterov', 'dampening'],
)
def test_other_optimizers_are_measured_by_displacement(make):
    net = small_net()
    params = weights_of(net)
    optimizer = make(net.parameters())
    truth = Truth(optimizer, params)
    monitor = SphericalMotionMonitor(optimizer, params, window=4)
    assert monitor.theory == (
        'adamw' if type(optimizer).__name__ == 'AdamW' else 'none'
    )
    for step in range(8):
        optimizer.zero_grad()
        backward(net, step)
        optimizer.step()
    rows = monitor.collect()
    known = ['weight_norm', 'grad_norm', 'unit_grad_sq', 'angular_update', 'cosine']
    for layer in params:
        for last in (4, 8):
            steps = slice(last - 4, last)
            assert_window_equals(rows, truth, layer, last, steps, 2e-5, known)
    assert np.isnan(rows['unit_h_mean']).all()
    assert np.isnan(rows['weight_norm_eq']).all()
    if monitor.theory == 'adamw':
        expected = theory.adamw_angular_update(1e-2, 0.1, 0.9)
        np.testing.assert_allclose(rows['angular_update_eq'], expected, rtol=1e-12)
    else:
        assert np.isnan(rows['angular_update_eq']).all()


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
