"""Steps that torch.compile compiles: the monitor is no part of what is compiled."""

import torch
from torch._dynamo.utils import counters
from truth import batch, small_net, weights_of
from versions import TORCH

from smd_mmdet import SphericalMotionMonitor


def compiled(measured):
    """What is compiled in six steps, the weights after them, and what was measured."""
    torch._dynamo.reset()
    counters.clear()
    net = small_net()
    # Its weights are copied before each step, so there is a hook on either side.
    optimizer = torch.optim.AdamW(net.parameters())
    monitor = None
    if measured:
        monitor = SphericalMotionMonitor(optimizer, weights_of(net), window=2)

    @torch.compile(backend='eager')
    def step(images, labels):
        torch.nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    for number in range(6):
        optimizer.param_groups[0]['lr'] = 0.1 if number < 3 else 0.01
        step(*batch(number))
    found = dict(counters['stats']), counters['frames']['total']
    return found, net.state_dict(), monitor


def test_measuring_adds_nothing_to_what_is_compiled():
    plain, expected, _ = compiled(measured=False)
    found, weights, monitor = compiled(measured=True)
    assert plain[0]['unique_graphs'] > 0
    assert found[0] == plain[0]
    if TORCH >= (2, 2):  # 2.1 calls no step hooks unless we make it, see monitor/hooks
        assert found[1] <= plain[1]
    monitor.end_window()
    assert monitor.collect()['count'].sum() == 2 * 6
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name
