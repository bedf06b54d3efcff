"""The parameter groups of the measured weights, and their settings."""

import numpy as np
import pytest
import torch
from truth import Truth, assert_window_equals, backward, small_net, weights_of

from smd_mmdet import SphericalMotionMonitor, theory


def test_weight_decay_and_rate_per_group():
    net = small_net()
    params = weights_of(net)
    groups = [
        {'params': [net[0].weight], 'lr': 0.2, 'weight_decay': 1e-2},
        {'params': [net[3].weight], 'lr': 0.05, 'weight_decay': 0.0, 'momentum': 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    truth = Truth(optimizer, params)
    monitor = SphericalMotionMonitor(optimizer, params, window=6)
    for step in range(6):
        optimizer.zero_grad()
        backward(net, step)
        optimizer.step()
    rows = monitor.collect()
    for layer in params:
        assert_window_equals(rows, truth, layer, 6, slice(0, 6), 2e-5)
    assert rows['lr'].tolist() == [0.2, 0.05]
    assert rows['weight_decay'].tolist() == [1e-2, 0.0]
    assert rows['momentum'].tolist() == [0.9, 0.0]
    assert rows['angular_update_eq'][0] == theory.angular_update(0.2, 1e-2, 0.9)
    assert np.isnan(rows['weight_norm_eq'][1])  # no decay, no equilibrium


@pytest.mark.parametrize('momentum', [0.0, 0.9])
def test_a_weight_that_moves_to_another_group_takes_its_settings(momentum):
    net = small_net()
    params = weights_of(net)
    groups = [
        {'params': [net[0].weight], 'lr': 0.2},
        {'params': [net[3].weight, net[7].weight], 'lr': 0.05},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=momentum)
    truth = Truth(optimizer, params)
    monitor = SphericalMotionMonitor(optimizer, params, window=3)
    for step in range(6):
        if step == 3:
            first, second = optimizer.param_groups
            first['params'].append(second['params'].pop(0))
        optimizer.zero_grad()
        backward(net, step)
        optimizer.step()
    rows = monitor.collect()
    second = rows['layer'] == 'second'
    assert rows['lr'][second].tolist() == [0.05, 0.2]
    for last in (3, 6):
        steps = slice(last - 3, last)
        assert_window_equals(rows, truth, 'second', last, steps, 2e-5)


def test_a_weight_that_leaves_the_optimizer_makes_no_step():
    net = small_net()
    params = weights_of(net)
    optimizer = torch.optim.SGD(list(params.values()), lr=0.1)
    monitor = SphericalMotionMonitor(optimizer, params, window=4)
    for step in range(4):
        if step == 3:
            optimizer.param_groups[0]['params'].pop()
        optimizer.zero_grad()
        backward(net, step)
        optimizer.step()
    assert monitor.collect()['count'].tolist() == [4, 3]


def test_another_optimizer_without_a_measured_weight_is_refused():
    net = small_net()
    params = weights_of(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    monitor = SphericalMotionMonitor(optimizer, params)
    other = torch.optim.AdamW([net[0].weight], lr=0.1)
    with pytest.raises(ValueError, match=r"optimizer: \['second'\]"):
        monitor.follow(other)
    assert monitor.optimizer is optimizer
    backward(net, 0)
    optimizer.step()
    assert monitor.collect()['count'].tolist() == [1, 1]
