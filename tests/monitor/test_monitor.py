"""The monitor against a float64 recomputation from copies of the weights."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from truth import (
    OF_SGD,
    Truth,
    assert_window_equals,
    backward,
    batch,
    small_net,
    weights_of,
)
from versions import needs_cpu_scaler, needs_fused_sgd

from smd_mmdet import SphericalMotionMonitor
from smd_mmdet.monitor import COLUMNS

OPTIMIZERS = {
    'sgd': {},
    'sgd without decay': {'weight_decay': 0.0},
    'momentum': {'momentum': 0.9},
    'foreach': {'momentum': 0.9, 'foreach': True},
    'fused': {'momentum': 0.9, 'fused': True},
    'maximize': {'momentum': 0.5, 'maximize': True, 'lr': 1e-3},
}


@pytest.mark.parametrize(
    'options',
    [
        pytest.param(o, id=k, marks=[needs_fused_sgd] if k == 'fused' else [])
        for k, o in OPTIMIZERS.items()
    ],
)
@pytest.mark.parametrize('window', [1, 5])
def test_sgd_matches_float64_recomputation(options, window):
    net = small_net()
    params = weights_of(net)
    settings = {'lr': 0.1, 'weight_decay': 5e-3, **options}
    optimizer = torch.optim.SGD(net.parameters(), **settings)
    truth = Truth(optimizer, params)
    with SphericalMotionMonitor(optimizer, params, window=window) as monitor:
        assert monitor.theory == 'sgd'
        for step in range(20):
            optimizer.zero_grad()
            backward(net, step)
            optimizer.step()
        rows = monitor.collect()
    assert tuple(rows) == COLUMNS
    assert len(rows['iter']) == 2 * 20 // window
    # maximize turns the gradient round in the dynamics; the truth above does not.
    quantities = set(OF_SGD)
    if settings.get('maximize'):
        quantities -= {'unit_h', 'cosine', 'momentum_norm'}
    for layer in params:
        for last in range(window, 21, window):
            steps = slice(last - window, last)
            assert_window_equals(rows, truth, layer, last, steps, 2e-5, quantities)


def test_bfloat16_autocast():
    net = small_net()
    params = weights_of(net)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3
    )
    truth = Truth(optimizer, params)
    monitor = SphericalMotionMonitor(optimizer, params, window=5)
    for step in range(5):
        optimizer.zero_grad()
        with torch.autocast('cpu', dtype=torch.bfloat16):
            backward(net, step)
        optimizer.step()
    rows = monitor.collect()
    for layer in params:
        assert_window_equals(rows, truth, layer, 5, slice(0, 5), 2e-5)


@needs_cpu_scaler
@pytest.mark.parametrize('fused', [False, pytest.param(True, marks=needs_fused_sgd)])
def test_steps_that_the_scaler_skips_are_not_measured(fused):
    net = small_net()
    params = weights_of(net)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3, fused=fused
    )
    scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)
    truth = Truth(optimizer, params)
    monitor = SphericalMotionMonitor(optimizer, params, window=8)
    for step in range(8):
        optimizer.zero_grad()
        images, labels = batch(step)
        loss = nn.functional.cross_entropy(net(images), labels)
        scaler.scale(loss).backward()
        if step in (2, 5):
            net[0].weight.grad[0, 0, 0, 0] = torch.inf
        before = net[0].weight.detach().clone()
        seen = len(truth.rows['first'])
        buffers = {name: buffer.clone() for name, buffer in truth.buffers.items()}
        scaler.step(optimizer)
        if step in (2, 5):
            assert torch.equal(before, net[0].weight)
            truth.buffers = buffers
            for rows in truth.rows.values():
                del rows[seen:]
        scaler.update()
    monitor.end_window()
    rows = monitor.collect()
    # A fused optimizer's step is called even when it does nothing.
    last = 8 if fused else 6
    for layer in params:
        assert_window_equals(rows, truth, layer, last, slice(0, 6), 2e-5)


def test_a_parameter_without_gradient_in_a_step_is_not_counted():
    net = small_net()
    params = weights_of(net)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3
    )
    truth = Truth(optimizer, params)
    monitor = SphericalMotionMonitor(optimizer, params, window=6)
    for step in range(6):
        optimizer.zero_grad()
        backward(net, step)
        if step in (0, 3):
            net[3].weight.grad = None
        optimizer.step()
    rows = monitor.collect()
    assert rows['count'].tolist() == [6, 4]
    assert_window_equals(rows, truth, 'first', 6, slice(0, 6), 2e-5)
    assert_window_equals(rows, truth, 'second', 6, slice(0, 4), 2e-5)


def test_a_layer_that_never_has_a_gradient_has_an_empty_row():
    net = small_net()
    unused = nn.Parameter(torch.randn(3, 3))
    optimizer = torch.optim.SGD([*net.parameters(), unused], lr=0.1)
    params = {**weights_of(net), 'unused': unused}
    monitor = SphericalMotionMonitor(optimizer, params, window=3)
    for step in range(3):
        optimizer.zero_grad()
        backward(net, step)
        optimizer.step()
    rows = monitor.collect()
    assert rows['count'].tolist() == [3, 3, 0]
    assert np.isnan(rows['angular_update_mean'][2])
    assert unused not in optimizer.state, 'reading the state must not add to it'


@pytest.mark.parametrize('layout', ['contiguous', 'channels_last', 'transposed'])
def test_memory_layouts(layout):
    torch.manual_seed(0)
    weight = torch.randn(6, 5, 3, 3)
    if layout == 'channels_last':
        weight = weight.to(memory_format=torch.channels_last)
    if layout == 'transposed':
        weight = weight.transpose(0, 1)
    param = nn.Parameter(weight)
    optimizer = torch.optim.SGD([param], lr=0.1, momentum=0.9, weight_decay=1e-3)
    truth = Truth(optimizer, {'w': param})
    monitor = SphericalMotionMonitor(optimizer, {'w': param}, window=3)
    for _ in range(3):
        param.grad = torch.randn(param.shape)  # contiguous, whatever the weight is
        optimizer.step()
    assert_window_equals(monitor.collect(), truth, 'w', 3, slice(0, 3), 2e-5)


@pytest.mark.parametrize('exponent', [-7, -5, -3, -1, 0, 0.49])
@pytest.mark.parametrize('radial', [0, 1, 10, -10])
@pytest.mark.parametrize('momentum', [0.0, 0.9])
@pytest.mark.parametrize('size', [10, 200_000])
def test_angles_keep_their_digits(exponent, radial, momentum, size):
    """Relative error <= 1e-4 from 1e-7 to pi, radial part up to 10 x tangential."""
    generator = torch.Generator().manual_seed(0)
    wanted = 10.0**exponent
    new = torch.randn(size, generator=generator, dtype=torch.float64)
    side = torch.randn(size, generator=generator, dtype=torch.float64)
    side -= new * (side @ new) / (new @ new)
    side *= new.norm() / side.norm()
    # The displacement that SGD takes back: w_old = w_new + lr v.
    tangential = np.tan(wanted) if wanted < 1.5 else None
    if tangential is None or abs(radial * tangential) >= 0.9:
        # Large angles: w_old = r (cos·ŵ + sin·side), which bounds the radial part.
        displacement = new * (np.cos(wanted) - 1) + side * np.sin(wanted)
    else:
        part = radial * tangential
        displacement = new * part + side * tangential * (1 + part)
    v = (displacement / 0.1).float()
    param = nn.Parameter(new.float())
    optimizer = torch.optim.SGD([param], lr=0.1, momentum=momentum)
    monitor = SphericalMotionMonitor(optimizer, {'w': param})

    # Put exactly this state before the monitor's eyes, without a step's rounding.
    def set_state(*_):
        param.data = new.float()
        param.grad = v.clone()
        if momentum:
            optimizer.state[param]['momentum_buffer'] = v.clone()

    param.grad = v.clone()
    optimizer._optimizer_step_post_hooks.move_to_end(
        optimizer.register_step_post_hook(set_state).id, last=False
    )
    optimizer.step()
    u = new.float().double()
    d = 0.1 * v.double()
    w = u + d
    unit_w, unit_u = w / w.norm(), u / u.norm()
    truth = 2 * torch.atan2((unit_w - unit_u).norm(), (unit_w + unit_u).norm())
    truth = truth.item()
    if wanted >= 1e-7 and radial == 0:
        assert truth == pytest.approx(wanted, rel=1e-3)
    measured = monitor.collect()['angular_update_mean'][0]
    assert measured == pytest.approx(truth, rel=1e-4)


@pytest.mark.parametrize('momentum', [0.0, 0.9])
def test_weights_are_bit_identical_with_and_without_monitor(momentum):
    results = []
    for monitored in (False, True):
        net = small_net()
        optimizer = torch.optim.SGD(
            net.parameters(), lr=0.1, momentum=momentum, weight_decay=1e-3
        )
        if monitored:
            monitor = SphericalMotionMonitor(optimizer, weights_of(net), window=3)
        for step in range(30):
            optimizer.zero_grad()
            backward(net, step)
            optimizer.step()
        results.append((net.state_dict(), optimizer.state_dict()))
    assert len(monitor.collect()['iter']) == 20
    (weights, states), (weights_monitored, states_monitored) = results
    for name in weights:
        assert torch.equal(weights[name], weights_monitored[name]), name
    assert states['param_groups'] == states_monitored['param_groups']
    for key, state in states['state'].items():
        for name, value in state.items():
            other = states_monitored['state'][key][name]
            assert value is None or torch.equal(value, other)


def test_a_fault_of_the_monitor_warns_and_lets_training_go_on(monkeypatch):
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    monitor = SphericalMotionMonitor(optimizer, weights_of(net))

    def broken(grads):
        raise RuntimeError('out of luck')

    monkeypatch.setattr(monitor._reader, 'tensors', broken)
    before = net[0].weight.detach().clone()
    backward(net, 0)
    with pytest.warns(RuntimeWarning, match='training goes on.*out of luck'):
        optimizer.step()
    assert not torch.equal(before, net[0].weight)
    assert isinstance(monitor.fault, RuntimeError)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        optimizer.step()  # detached: no second warning


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'named_params': {}}, 'named_params is empty'),
        ({'named_params': {'w': nn.Parameter(torch.ones(1))}}, r"optimizer: \['w'\]"),
        ({'window': 0}, 'window must be an integer >= 1, got 0'),
        ({'window': 2.5}, 'window must be an integer >= 1, got 2.5'),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=message):
        SphericalMotionMonitor(
            optimizer, **{'named_params': weights_of(net), **arguments}
        )


def test_collect_without_a_step_is_empty():
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    rows = SphericalMotionMonitor(optimizer, weights_of(net)).collect()
    assert tuple(rows) == COLUMNS
    assert all(len(values) == 0 for values in rows.values())


def test_a_fault_ends_no_step_where_warnings_are_errors():
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    monitor = SphericalMotionMonitor(optimizer, weights_of(net))
    monitor._reader.tensors = None  # cannot be called
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        backward(net, 0)
        optimizer.step()
    assert isinstance(monitor.fault, TypeError)
