"""The monitor against a float64 recomputation from copies of the weights."""

import copy
import inspect
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from smd_mmdet import SphericalMotionMonitor, theory
from smd_mmdet.monitor import COLUMNS
from smd_mmdet.monitor.quantities import QUANTITIES
from smd_mmdet.monitor.readers import READERS, DisplacementReader, reader_for


def small_net(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    ).to(dtype)


def weights_of(net):
    return {'first': net[0].weight, 'second': net[3].weight}


def batch(step, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1000 + step)
    images = torch.randn(8, 3, 8, 8, generator=generator, dtype=dtype)
    return images, torch.randint(4, (8,), generator=generator)


def backward(net, step, scale=1.0):
    images, labels = batch(step, next(net.parameters()).dtype)
    (nn.functional.cross_entropy(net(images), labels) * scale).backward()


class Truth:
    """Keeps float64 copies around every step and recomputes every quantity."""

    def __init__(self, optimizer, params):
        self.optimizer, self.params = optimizer, params
        self.rows = {name: [] for name in params}
        self.buffers = {
            name: torch.zeros_like(p).double() for name, p in params.items()
        }
        optimizer.register_step_pre_hook(lambda *_: self.before())
        optimizer.register_step_post_hook(lambda *_: self.after())

    def before(self):
        self.old = {n: p.detach().double().clone() for n, p in self.params.items()}

    def after(self):
        for name, param in self.params.items():
            if param.grad is None:
                continue
            group = next(
                g
                for g in self.optimizer.param_groups
                if any(p is param for p in g['params'])
            )
            alpha = group.get('momentum', 0.0)
            w, u = self.old[name], param.detach().double()
            g = param.grad.double()
            v_old = self.buffers[name]
            v = alpha * v_old + g + group['weight_decay'] * w
            self.buffers[name] = v
            cosine = (w * u).sum() / (w.norm() * u.norm())
            unit_w, unit_u = w / w.norm(), u / u.norm()
            # Kahan's angle, exact for small and for large angles.
            angle = 2 * torch.atan2((unit_w - unit_u).norm(), (unit_w + unit_u).norm())
            assert abs(torch.cos(angle) - cosine) < 1e-12
            h = g.square().sum() + 2 * alpha * (v_old * g).sum()
            self.rows[name].append(
                {
                    'weight_norm': w.norm(),
                    'grad_norm': g.norm(),
                    'unit_grad_sq': (g.norm() * w.norm()) ** 2,
                    'unit_h': h * w.norm() ** 2,
                    'angular_update': angle,
                    'cosine': (w * g).sum() / (w.norm() * g.norm()),
                    'momentum_norm': v.norm(),
                }
            )

    def statistics(self, name, quantity, steps):
        values = np.array([float(row[quantity]) for row in self.rows[name][steps]])
        return values.mean(), values.var(), values.min(), values.max()


def terms_of_unit_h(row):
    size = row['grad_norm'] * (row['grad_norm'] + 2 * row['momentum_norm'])
    return float(size * row['weight_norm'] ** 2)


def assert_window_equals(rows, truth, layer, last, steps, rtol, quantities=QUANTITIES):
    chosen = (rows['layer'] == layer) & (rows['iter'] == last)
    assert chosen.sum() == 1, f'no row, or several, for {layer} at {last}'
    count = len(truth.rows[layer][steps])
    assert rows['count'][chosen] == count
    for quantity in quantities:
        expected = truth.statistics(layer, quantity, steps)
        measured = [
            rows[f'{quantity}_{s}'][chosen][0] for s in ('mean', 'var', 'min', 'max')
        ]
        # A cosine that is 0 in truth is known to rounding only.
        atol = 3e-6 if quantity == 'cosine' else 0
        scale = max(abs(expected[2]), abs(expected[3]))
        if quantity == 'unit_h':  # a difference; its terms bound its rounding
            scale = max(map(terms_of_unit_h, truth.rows[layer][steps]))
        tolerance = [rtol * scale + atol] * 4
        tolerance[1] = rtol * scale**2 + atol**2
        for got, want, allowed in zip(measured, expected, tolerance, strict=True):
            assert abs(got - want) <= allowed, (quantity, measured, expected)


OPTIMIZERS = {
    'sgd': {},
    'sgd without decay': {'weight_decay': 0.0},
    'momentum': {'momentum': 0.9},
    'foreach': {'momentum': 0.9, 'foreach': True},
    'fused': {'momentum': 0.9, 'fused': True},
    'maximize': {'momentum': 0.5, 'maximize': True, 'lr': 1e-3},
}


@pytest.mark.parametrize('options', OPTIMIZERS.values(), ids=OPTIMIZERS)
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
    quantities = set(QUANTITIES)
    if settings.get('maximize'):
        quantities -= {'unit_h', 'cosine', 'momentum_norm'}
    for layer in params:
        for last in range(window, 21, window):
            steps = slice(last - window, last)
            assert_window_equals(rows, truth, layer, last, steps, 2e-5, quantities)


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


@pytest.mark.parametrize('window', [1, 7, 40, 100])
def test_blocks_do_not_show(window):
    """Windows shorter and longer than the block of steps reduced together."""
    net = small_net()
    params = weights_of(net)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3
    )
    truth = Truth(optimizer, params)
    monitor = SphericalMotionMonitor(optimizer, params, window=window)
    for step in range(100):
        optimizer.zero_grad()
        backward(net, step)
        optimizer.step()
    monitor.end_window()
    rows = monitor.collect()
    assert sorted(set(rows['iter'])) == sorted({*range(window, 101, window), 100})
    for last in sorted(set(rows['iter'])):
        steps = slice((last - 1) // window * window, last)
        assert_window_equals(rows, truth, 'second', last, steps, 2e-5)


def test_accumulated_and_clipped_gradients_count_once_per_step():
    net = small_net()
    params = weights_of(net)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3
    )
    truth = Truth(optimizer, params)
    monitor = SphericalMotionMonitor(optimizer, params, window=4)
    norms = []
    for step in range(12):
        backward(net, step, scale=1 / 3)
        if step % 3 == 2:
            norms.append(nn.utils.clip_grad_norm_(net.parameters(), 0.05))
            optimizer.step()
            optimizer.zero_grad()
    rows = monitor.collect()
    assert max(norms) > 0.05, 'clipping had nothing to do'
    for layer in params:
        assert_window_equals(rows, truth, layer, 4, slice(0, 4), 2e-5)


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


@pytest.mark.parametrize('fused', [False, True])
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


def schedule_run(rates, window, **options):
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=rates[0], **options)
    truth = Truth(optimizer, weights_of(net))
    monitor = SphericalMotionMonitor(optimizer, weights_of(net), window=window)
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]['lr'] = rate
        optimizer.zero_grad()
        backward(net, step)
        optimizer.step()
    monitor.end_window()
    rows = monitor.collect()
    first = rows['layer'] == 'first'
    return truth, rows, {name: values[first] for name, values in rows.items()}


def test_stages_follow_the_schedule():
    warmup = np.linspace(0.01, 0.1, 13)  # its last is already the first stage's rate
    rates = [*warmup, *[0.1] * 27, *[0.01] * 25, *[0.001] * 15]
    truth, rows, first = schedule_run(rates, window=10, momentum=0.9, weight_decay=1e-3)
    columns = (first[name].tolist() for name in ('iter', 'count', 'stage'))
    spans = list(zip(*columns, strict=True))
    assert spans == [
        (10, 10, -1),
        (12, 2, -1),
        (22, 10, 0),
        (32, 10, 0),
        (40, 8, 0),
        (50, 10, 1),
        (60, 10, 1),
        (65, 5, 1),
        (75, 10, 2),
        (80, 5, 2),
    ]
    for stage, rate in ((0, 0.1), (1, 0.01), (2, 0.001)):
        assert (first['lr'][first['stage'] == stage] == rate).all()
    np.testing.assert_allclose(first['lr'][0], np.mean(rates[:10]), rtol=1e-12)
    for last, count, _ in spans:
        steps = slice(last - count, last)
        assert_window_equals(rows, truth, 'second', last, steps, 2e-5)


def test_stages_with_a_window_of_one():
    rates = [*np.linspace(0.01, 0.1, 5), *[0.1] * 5, *[0.01] * 5]
    _, _, first = schedule_run(rates, window=1, weight_decay=1e-3)
    assert first['stage'].tolist() == [-1] * 4 + [0] * 6 + [1] * 5
    np.testing.assert_array_equal(first['lr'], rates)


def test_a_schedule_that_never_holds_still_is_one_stage():
    warmup = np.linspace(0.01, 0.1, 10)
    cosine = 0.05 * (1 + np.cos(np.linspace(0, 3, 30)))[1:]
    _, _, first = schedule_run([*warmup, *cosine], window=10, weight_decay=1e-3)
    assert first['stage'].tolist() == [-1, 0, 0, 0]


def test_no_warmup_without_a_rising_start():
    _, _, first = schedule_run(np.linspace(0.1, 0.01, 20), window=5, weight_decay=1e-3)
    assert first['stage'].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    'make',
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=5e-3),
        lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    ],
    ids=['SGD', 'AdamW'],
)
def test_filters_are_measured_each_by_itself(make):
    """Quantiles over filters, each filter recomputed as a weight of its own."""
    net = small_net()
    params = weights_of(net)
    optimizer = make(net.parameters())
    monitor = SphericalMotionMonitor(
        optimizer, params, window=5, granularity='filter', by_filter=['second']
    )
    weight, angles, norms = net[3].weight, [], []
    for step in range(10):
        optimizer.zero_grad()
        backward(net, step)
        w = weight.detach().double().flatten(1)
        optimizer.step()
        u = weight.detach().double().flatten(1)
        unit_w, unit_u = (x / x.norm(dim=1, keepdim=True) for x in (w, u))
        half = torch.atan2((unit_w - unit_u).norm(dim=1), (unit_w + unit_u).norm(dim=1))
        angles.append(2 * half.numpy())
        norms.append(w.norm(dim=1).numpy())
    rows = monitor.collect()
    second = rows['layer'] == 'second'
    for quantity, truth in (('angular_update', angles), ('weight_norm', norms)):
        for i, window in enumerate((slice(0, 5), slice(5, 10))):
            means = np.mean(truth[window], axis=0)
            for q in (5, 25, 50, 75, 95):
                measured = rows[f'{quantity}_filter_q{q:02d}'][second][i]
                assert measured == pytest.approx(np.quantile(means, q / 100), rel=1e-4)
    assert np.isnan(rows['angular_update_filter_q50'][~second]).all()
    layer_rows = rows['angular_update_mean'][second]
    assert np.isfinite(layer_rows).all()


@pytest.mark.parametrize('cut', [3, 10, 13, 32, 40, 45])
def test_a_saved_monitor_continues_with_the_same_rows(cut):
    """Cut and continue: in a window, at its end, at a stage's first step."""
    rates = [*np.linspace(0.01, 0.1, 13), *[0.1] * 27, *[0.01] * 10]

    def run(cut):
        net = small_net()
        optimizer = torch.optim.SGD(
            net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3
        )
        settings = (optimizer, weights_of(net), 10, 'filter')
        monitor = SphericalMotionMonitor(*settings)
        parts = []
        for step, rate in enumerate(rates):
            if step == cut:
                parts.append(monitor.collect(wait=False))
                state = copy.deepcopy(monitor.state_dict())
                monitor.detach()
                monitor = SphericalMotionMonitor(*settings)
                monitor.load_state_dict(state)
            optimizer.param_groups[0]['lr'] = rate
            optimizer.zero_grad()
            backward(net, step)
            optimizer.step()
        monitor.end_window()
        return [*parts, monitor.collect()]

    [expected] = run(None)
    parts = run(cut)
    for name in expected:
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(joined, expected[name], err_msg=name)


def test_state_of_other_layers_is_refused():
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    one = SphericalMotionMonitor(optimizer, weights_of(net), window=10)
    other = SphericalMotionMonitor(optimizer, {'x': net[0].weight}, window=10)
    with pytest.raises(ValueError, match='other layers'):
        other.load_state_dict(one.state_dict())


def test_a_fault_of_the_monitor_warns_and_lets_training_go_on(monkeypatch):
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    monitor = SphericalMotionMonitor(optimizer, weights_of(net))

    def broken():
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
