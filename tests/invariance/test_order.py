"""Where no forward pass can be observed."""

from torch import nn

from smd_mmdet.invariance import find_scale_invariant


def test_without_inputs_the_order_of_modules_decides_and_says_so():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8)
    )
    entries = {e.name: e for e in find_scale_invariant(model)}
    assert [n for n, e in entries.items() if e.invariant] == ['0.weight']
    assert entries['0.weight'].norm == '1'
    assert all('order of modules alone' in e.reason for e in entries.values())
