"""What the host does of a step: it checks what it has, and makes nothing anew."""

import copy
import inspect

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from truth import OF_SGD, Truth, assert_window_equals, backward, small_net, weights_of

from smd_mmdet import SphericalMotionMonitor
from smd_mmdet.monitor import readers
from smd_mmdet.monitor.kernels import cpu
from smd_mmdet.monitor.quantities import QUANTITIES, measure
from smd_mmdet.monitor.readers import ROW, Reader, SGDReader


class Operations(TorchDispatchMode):
    """Takes down which operations torch is asked for."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function._schema.name)
        return function(*args, **kwargs or {})


def operations(layers, steps, **group):
    """Names of the operations of the last step, after some like it."""
    weights = [nn.Parameter(torch.randn(4, 3)) for _ in range(layers)]
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9, **group)
    named = {str(i): weight for i, weight in enumerate(weights)}
    monitor = SphericalMotionMonitor(optimizer, named, window=200)
    for step in range(steps):
        for weight in weights:
            weight.grad = torch.randn(4, 3)
        if step < steps - 1:
            optimizer.step()
    [hook] = optimizer._optimizer_step_post_hooks.values()
    with Operations() as seen:
        hook(optimizer, (), {})
    assert monitor.fault is None and monitor.iteration == steps
    return seen.names


@pytest.mark.skipif(
    not cpu.supports(torch.device('cpu')), reason='the C library is not built'
)
def test_a_step_makes_no_tensor_whatever_the_number_of_layers():
    few, many = operations(2, steps=20), operations(40, steps=20)
    assert few == many
    # A view of the step's row, and the products that the library has written.
    assert set(few) <= {'aten::select', 'aten::slice', 'aten::copy_'}
    assert few.count('aten::copy_') == 1


def test_a_blocks_operations_do_not_grow_with_its_layers():
    few, many = operations(2, steps=33), operations(40, steps=33)
    assert few == many
    assert 20 < len(few) < 90
    assert 'aten::where' not in few  # every layer takes every step


def train(change, steps=12, window=6, **settings):
    """Truth and rows of steps, ``change(step, net, optimizer)`` before each."""
    net = small_net()
    settings = dict(lr=0.1, momentum=0.9, weight_decay=1e-2) | settings
    optimizer = torch.optim.SGD(net.parameters(), **settings)
    truth = Truth(optimizer, weights_of(net))
    monitor = SphericalMotionMonitor(optimizer, weights_of(net), window)
    for step in range(steps):
        optimizer.zero_grad()
        backward(net, step)
        change(step, net, optimizer)
        optimizer.step()
    assert monitor.fault is None
    return truth, monitor.collect()


def new_state(step, net, optimizer):
    if step in (3, 8):
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def other_layout(step, net, optimizer):
    if step in (3, 8):
        kind = torch.channels_last if step == 3 else torch.contiguous_format
        net.to(memory_format=kind)


def transposed_in_place(step, net, optimizer):
    """Weights and gradients whose elements are in another order, in new memory."""
    for weight in weights_of(net).values():
        if step == 4:
            data = weight.data.transpose(0, 1).contiguous().transpose(0, 1)
            weight.data = data
        if step > 6:
            weight.grad = weight.grad.transpose(0, 1).contiguous().transpose(0, 1)


def some_gradients_missing(step, net, optimizer):
    if step % 5 == 1:
        net[3].weight.grad = None
    if step in (7, 8):
        net[0].weight.grad = None


@pytest.mark.parametrize(
    'change', [new_state, other_layout, transposed_in_place, some_gradients_missing]
)
def test_what_changes_between_steps_is_seen(change):
    truth, rows = train(change)
    for layer in truth.params:
        lacking = [i for i in range(12) if change is some_gradients_missing and (
            i % 5 == 1 if layer == 'second' else i in (7, 8))]  # fmt: skip
        begin = 0
        for last in (6, 12):
            end = last - sum(i < last for i in lacking)
            assert_window_equals(rows, truth, layer, last, slice(begin, end), 2e-5)
            begin = end


def test_a_rate_in_a_tensor_may_change_in_place():
    """It stays the same object, and is read again at every step."""
    rate = torch.tensor(0.5)

    def change(step, net, optimizer):
        rate.fill_(0.5 if step < 6 else 0.25)

    _, rows = train(change, lr=rate, foreach=False)
    assert rows['lr'].tolist() == [0.5, 0.5, 0.25, 0.25]


ALL = [
    kind
    for _, kind in inspect.getmembers(readers, inspect.isclass)
    if issubclass(kind, Reader) and kind is not Reader
]


@pytest.mark.parametrize('kind', ALL)
def test_a_quantity_is_unknown_exactly_where_it_cannot_be_told(kind):
    """What is left out costs nothing, and must be nothing but NaN."""
    w, g, v = torch.randn(3, 50, dtype=torch.float64)
    vectors = torch.stack([w, g, v])
    i, j = torch.triu_indices(3, 3)
    row = torch.cat([(vectors @ vectors.T)[i, j], torch.ones(1)]).expand(2, 1, ROW)
    settings = [torch.full((2, 1), value).double() for value in (0.1, 0.01, 0.9)]
    values = measure(kind.step(row, *settings)).flatten(1)
    told = {
        name
        for name, ones in zip(QUANTITIES, values, strict=True)
        if ones.isfinite().all()
    }
    assert told == set(QUANTITIES) - kind.unknown
    assert values[[name in kind.unknown for name in QUANTITIES]].isnan().all()


def test_sgd_with_a_buffer_takes_the_same_step_by_both_formulas():
    rows = torch.randn(4, 3, ROW, dtype=torch.float64).square()
    settings = torch.tensor([[[0.1, 1e-3, 0.9]] * 3]).double()
    reader = SGDReader(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), [], [])
    assert reader.formula(settings) is reader.step_of_buffer
    both = [
        measure(formula(rows, *settings.unbind(-1)), OF_SGD)
        for formula in (reader.step, reader.step_of_buffer)
    ]
    assert torch.equal(*(one.nan_to_num(nan=7.0) for one in both))
    settings[0, 1, 2] = 0.0
    assert reader.formula(settings) is reader.step


def test_a_layer_without_a_step_has_no_share_of_clipped_ones():
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    monitor = SphericalMotionMonitor(optimizer, weights_of(net), window=3)
    monitor.unclipped = True
    for step in range(3):
        optimizer.zero_grad()
        backward(net, step)
        net[3].weight.grad = None
        optimizer.step()
    rows = monitor.collect()
    np.testing.assert_array_equal(rows['clipped_share'], [0.0, np.nan])
    np.testing.assert_array_equal(rows['clip_coefficient_mean'], [1.0, np.nan])
