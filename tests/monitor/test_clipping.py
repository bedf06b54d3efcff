"""Clipping as the monitor has it, against what was done to the gradients."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from truth import Truth, assert_window_equals, backward, batch, small_net, weights_of
from versions import needs_cpu_scaler, needs_fused_sgd

from smd_mmdet import SphericalMotionMonitor
from smd_mmdet.monitor.quantities import QUANTITIES

SGD = dict(lr=0.1, momentum=0.9, weight_decay=1e-3)


def sgd(net, **options):
    return torch.optim.SGD(net.parameters(), **SGD | options)


def clip(net, max_norm, *monitors, norm_type=2.0):
    """Clip all gradients; what each of them was really multiplied by."""
    before = [p.grad.double().clone() for p in net.parameters()]
    total = nn.utils.clip_grad_norm_(net.parameters(), max_norm, norm_type)
    for monitor in monitors:
        monitor.note_clipping(total, max_norm, norm_type)
    after = [p.grad.double() for p in net.parameters()]
    squares = [sum(float(g.square().sum()) for g in gs) for gs in (before, after)]
    return (squares[1] / squares[0]) ** 0.5


@pytest.mark.parametrize('norm_type', [2.0, float('inf')])
def test_what_is_measured_is_of_the_gradients_that_are_applied(norm_type):
    """Gradients of three batches add up, and are clipped in some of the steps."""
    net, plain = small_net(), small_net()
    params = weights_of(net)
    optimizer = sgd(net)
    truth = Truth(optimizer, params)
    monitor = SphericalMotionMonitor(optimizer, params, window=5)
    applied = []
    for some, its, monitors in ((net, optimizer, [monitor]), (plain, sgd(plain), [])):
        applied = []
        for step in range(60):
            backward(some, step, scale=1 / 3)
            if step % 3 == 2:
                norm = 0.35 if norm_type == 2 else 0.12
                applied.append(clip(some, norm, *monitors, norm_type=norm_type))
                its.step()
                its.zero_grad()
    for one, other in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    rows = monitor.collect()
    applied = np.array(applied).reshape(4, 5)
    share = (applied < 1 - 1e-6).mean(1)
    assert 0 < share.mean() < 1, 'no step was clipped, or every one'
    for layer in params:
        of_layer = rows['layer'] == layer
        assert rows['clipped_share'][of_layer].tolist() == share.tolist()
        measured = rows['clip_coefficient_mean'][of_layer]
        np.testing.assert_allclose(measured, applied.mean(1), rtol=1e-5)
        known = np.isfinite(rows['clipping_power'][of_layer])
        assert known.all() == (norm_type == 2)
        for last in (5, 10, 15, 20):
            steps = slice(last - 5, last)
            assert_window_equals(rows, truth, layer, last, steps, 2e-5)


def test_adamw_too_is_measured_by_the_gradients_that_are_applied():
    net = small_net(dtype=torch.float64)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.1)
    truth = Truth(optimizer, weights_of(net))
    monitor = SphericalMotionMonitor(optimizer, weights_of(net), window=10)
    for step in range(10):
        optimizer.zero_grad()
        backward(net, step)
        assert clip(net, 1e-3, monitor) < 0.1
        optimizer.step()
    rows = monitor.collect()
    known = set(QUANTITIES) & {'grad_norm', 'unit_grad_sq', 'angular_update', 'cosine'}
    for layer in weights_of(net):
        assert_window_equals(rows, truth, layer, 10, slice(0, 10), 1e-9, known)
    assert rows['clipped_share'].tolist() == [1.0, 1.0]


def shares(rows):
    return rows['clipped_share'][rows['layer'] == 'first']


def run(steps, told, window=4, unclipped=False):
    """Train; the norm that is told before each step is ``told(step)``, against 1."""
    net = small_net()
    optimizer = sgd(net)
    monitor = SphericalMotionMonitor(optimizer, weights_of(net), window)
    monitor.unclipped = unclipped
    for step in range(steps):
        optimizer.zero_grad()
        backward(net, step)
        if told(step) is not None:
            monitor.note_clipping(told(step), max_norm=1.0)
        optimizer.step()
    monitor.end_window()
    return monitor.collect()


def test_what_nobody_has_told_is_not_known():
    rows = run(8, lambda step: None)
    assert np.isnan(rows['clipped_share']).all()
    assert np.isnan(rows['clip_coefficient_mean']).all()
    # One step of which nothing is known leaves a window of which not all is.
    rows = run(12, lambda step: None if step == 5 else 2.0)
    np.testing.assert_array_equal(shares(rows), [1, np.nan, 1])


def test_a_monitor_may_know_that_nothing_is_clipped():
    rows = run(49, lambda step: None, window=49, unclipped=True)
    assert set(rows['clipped_share']) == {0.0}
    assert set(rows['clip_coefficient_mean']) == {1.0}
    assert set(rows['clipping_power']) == {0.0}


@pytest.mark.parametrize('first', [10, 32, 40])
def test_clipping_may_begin_within_a_window(first):
    """Steps before it were only noted: the first block of them, or none."""
    told = lambda step: 4.0 if step >= first else None  # noqa: E731
    rows = run(50, told, window=50, unclipped=True)
    share = (50 - first) / 50
    assert set(rows['clipped_share']) == {share}
    expected = share / 4 + 1 - share
    np.testing.assert_allclose(rows['clip_coefficient_mean'], expected, rtol=1e-6)
    assert (rows['clipping_power'] > 0).all()


def test_a_share_is_a_number_of_steps_however_they_are_reduced():
    rows = run(49, lambda step: 4.0, window=49)
    assert set(rows['clipped_share']) == {1.0}
    np.testing.assert_allclose(rows['clip_coefficient_mean'], 0.25, rtol=1e-6)
    rows = run(49, lambda step: 0.5 if step % 7 else 4.0, window=49)
    assert set(rows['clipped_share']) == {1 / 7}


def test_a_layer_counts_the_steps_that_it_takes():
    net = small_net()
    optimizer = sgd(net)
    monitor = SphericalMotionMonitor(optimizer, weights_of(net), window=4)
    for step in range(4):
        optimizer.zero_grad()
        backward(net, step)
        if step in (1, 2):
            net[0].weight.grad = None
        monitor.note_clipping(torch.tensor([[2.0 if step == 3 else 0.5]]), 1.0)
        optimizer.step()
    rows = monitor.collect()
    assert rows['clipped_share'].tolist() == [1 / 2, 1 / 4]
    measured = rows['clip_coefficient_mean']
    np.testing.assert_allclose(measured, [0.75, 0.875], rtol=1e-6)


@needs_cpu_scaler
@pytest.mark.parametrize('fused', [False, pytest.param(True, marks=needs_fused_sgd)])
def test_a_step_that_the_scaler_skips_takes_its_coefficient_with_it(fused):
    net = small_net()
    optimizer = sgd(net, fused=fused)
    monitor = SphericalMotionMonitor(optimizer, weights_of(net), window=8)
    scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)
    applied = []
    for step in range(8):
        optimizer.zero_grad()
        images, labels = batch(step)
        loss = nn.functional.cross_entropy(net(images), labels)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if step in (2, 5):
            net[0].weight.grad[0, 0, 0, 0] = torch.inf
            scaler._per_optimizer_states[id(optimizer)]['found_inf_per_device'][
                torch.device('cpu')
            ].fill_(1.0)
        before = net[0].weight.detach().clone()
        coefficient = clip(net, 1.0, monitor)
        scaler.step(optimizer)
        scaler.update()
        if step in (2, 5):
            assert torch.equal(before, net[0].weight)
        else:
            applied.append(coefficient)
    monitor.end_window()
    rows = monitor.collect()
    assert rows['count'].tolist() == [6, 6]
    applied = np.array(applied)
    assert shares(rows)[0] == pytest.approx((applied < 1 - 1e-6).mean(), abs=1e-15)
    measured = rows['clip_coefficient_mean']
    np.testing.assert_allclose(measured, applied.mean(), rtol=1e-5)


def test_only_one_number_is_a_norm():
    net = small_net()
    monitor = SphericalMotionMonitor(sgd(net), weights_of(net))
    with pytest.raises(ValueError, match=r'one number, got shape \(2,\)'):
        monitor.note_clipping(torch.ones(2), 1.0)


def test_a_saved_window_of_a_version_without_clipping_is_refused():
    net = small_net()
    optimizer = sgd(net)
    monitor = SphericalMotionMonitor(optimizer, weights_of(net), window=50)
    for step in range(40):
        optimizer.zero_grad()
        backward(net, step)
        optimizer.step()
    state = copy.deepcopy(monitor.state_dict())
    del state['block']['clipped']
    with pytest.raises(ValueError, match='another version'):
        monitor.load_state_dict(state)
    state = copy.deepcopy(monitor.state_dict())
    state['moments'] = state['moments'][:, : len(QUANTITIES)]
    with pytest.raises(ValueError, match='another version'):
        monitor.load_state_dict(state)
    assert monitor.window_start == 1 and monitor.iteration == 40


@pytest.mark.parametrize('max_norm', [0.02, 0.5])
def test_the_power_is_how_the_applied_gradient_depends_on_the_norms(max_norm):
    """All scale-invariant norms × 1.0001: what it does to ‖ĝ‖²‖w‖² of each layer.

    The linear layer's gradient does not change with them.
    """
    net = small_net(dtype=torch.float64)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-16
    optimizer = sgd(net, lr=1e-9, momentum=0.0, weight_decay=0.0)
    monitor = SphericalMotionMonitor(optimizer, weights_of(net), window=12)

    def applied(step, scale):
        other = copy.deepcopy(net)
        with torch.no_grad():
            for weight in weights_of(other).values():
                weight.mul_(scale)
        backward(other, step)
        nn.utils.clip_grad_norm_(other.parameters(), max_norm)
        pairs = weights_of(other).items()
        return {n: float((w.grad.norm() * w.norm()) ** 2) for n, w in pairs}

    sums = {
        scale: dict.fromkeys(weights_of(net), 0.0) for scale in (1 / 1.0001, 1.0001)
    }
    for step in range(12):
        for scale, of_layers in sums.items():
            for name, value in applied(step, scale).items():
                of_layers[name] += value
        optimizer.zero_grad()
        backward(net, step)
        clip(net, max_norm, monitor)
        optimizer.step()
    rows = monitor.collect()
    less, more = sums.values()
    for name, power in zip(rows['layer'], rows['clipping_power'], strict=True):
        truth = np.log(more[name] / less[name]) / np.log(1.0001**2)
        assert 0.02 < truth < 1.9, 'it says nothing'
        assert power == pytest.approx(truth, rel=1e-3)
