"""Steps that torch.compile compiles: the monitor is no part of what is compiled."""

from pathlib import Path

import torch
from torch._dynamo.convert_frame import input_codes
from torch._dynamo.utils import counters
from truth import OF_SGD, Truth, assert_window_equals, batch, small_net, weights_of
from versions import TORCH, needs_torch

from smd_mmdet import SphericalMotionMonitor


def compiled(measured, truth_of=None):
    """What is compiled in six steps, the weights after them, and what was measured."""
    torch._dynamo.reset()
    input_codes.clear()
    counters.clear()
    net = small_net()
    # Its weights are copied before each step, so there is a hook on either side.
    optimizer = torch.optim.AdamW(net.parameters())
    monitor = None
    if measured:
        monitor = SphericalMotionMonitor(optimizer, weights_of(net), window=2)

    if truth_of is not None:
        truth_of(optimizer, weights_of(net))

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


def files_compiled():
    """The files of the functions that were looked at to compile them."""
    codes = [reference() for reference in input_codes.seen]
    return {Path(code.co_filename) for code in codes if code is not None}


def test_measuring_adds_nothing_to_what_is_compiled():
    plain, expected, _ = compiled(measured=False)
    found, weights, monitor = compiled(measured=True)
    assert plain[0]['unique_graphs'] > 0
    assert found[0] == plain[0]
    if TORCH >= (2, 2):  # 2.1 calls no step hooks unless we make it, see monitor/hooks
        assert found[1] <= plain[1]
    files = files_compiled()
    assert Path(torch.optim.__file__).parent in {file.parent for file in files}
    assert not [file for file in files if 'smd_mmdet' in file.parts]
    monitor.end_window()
    assert monitor.collect()['count'].sum() == 2 * 6
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name


@needs_torch(2, 2, 'compiler that leaves step hooks where they are')
def test_what_is_measured_of_compiled_steps_is_true():
    kept = []

    def truth_of(*args):
        truth = Truth(*args)
        truth.before, truth.after = map(
            torch.compiler.disable, (truth.before, truth.after)
        )
        kept.append(truth)

    _, _, monitor = compiled(measured=True, truth_of=truth_of)
    monitor.end_window()
    rows = monitor.collect()
    quantities = [name for name in OF_SGD if name not in ('unit_h', 'momentum_norm')]
    # A stage begins at the fourth step, and with it a window.
    for last, count in ((2, 2), (3, 1), (5, 2), (6, 1)):
        steps = slice(last - count, last)
        for layer in ('first', 'second'):
            assert_window_equals(rows, kept[0], layer, last, steps, 1e-4, quantities)


def test_a_monitor_that_is_traced_is_seen(monkeypatch):
    """The test above would fail if the hooks were not kept from the compiler."""
    monkeypatch.setattr(torch.compiler, 'disable', lambda function: function)
    compiled(measured=True)
    assert [file for file in files_compiled() if 'smd_mmdet' in file.parts]
