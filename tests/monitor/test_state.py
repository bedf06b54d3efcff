"""A window that is cut by a checkpoint."""

import copy

import numpy as np
import pytest
import torch
from truth import backward, small_net, weights_of

from smd_mmdet import SphericalMotionMonitor


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
            monitor.note_clipping(torch.tensor(1.0 + step % 3), max_norm=1.5)
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


def test_a_saved_state_does_not_change_with_later_steps():
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    monitor = SphericalMotionMonitor(optimizer, weights_of(net), 60, 'filter')
    for step in range(70):
        if step == 40:
            state = monitor.state_dict()
            before = copy.deepcopy(state)
        optimizer.zero_grad()
        backward(net, step)
        optimizer.step()
    for name in ('settings_sum', 'settings', 'moments'):
        assert torch.equal(state[name].nan_to_num(), before[name].nan_to_num()), name
    for part in ('block', 'filters'):
        for name, value in state[part].items():
            kept = before[part][name]
            assert torch.equal(value.nan_to_num(), kept.nan_to_num()), name
