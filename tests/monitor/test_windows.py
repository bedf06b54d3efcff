"""Windows: how long they are, and the stages that end them."""

import numpy as np
import pytest
import torch
from truth import Truth, assert_window_equals, backward, small_net, weights_of

from smd_mmdet import SphericalMotionMonitor


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
