"""Whatever a pass through the model touches is put back."""

import random

import numpy as np
import pytest
import torch
from invariants import assert_same, snapshot, squares
from models import conv, images
from torch import nn
from torch.nn import functional as F

from smd_mmdet.invariance import find_scale_invariant, verify_scale_invariance


class Counting(nn.Module):
    """Keeps state of its own, as some losses do, and draws random numbers."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.seen = []

    def forward(self, x):
        self.calls += 1
        self.seen.append(self.calls)
        return F.dropout(x, 0.5) * random.random() * (1 + np.random.rand())


@pytest.mark.parametrize('training', [True, False])
def test_nothing_is_changed(training):
    torch.manual_seed(0)
    model = nn.Sequential(conv(into=3), nn.SyncBatchNorm(8), Counting(), conv(True))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    model.train(training)
    model[1].train(not training)
    before, x = snapshot(model), images(size=8)
    find_scale_invariant(model, (x,))
    assert_same(before, snapshot(model))
    find_scale_invariant(model)
    assert_same(before, snapshot(model))
    with torch.no_grad():
        verify_scale_invariance(model, squares(x), ['0.weight', '3.bias'])
    assert_same(before, snapshot(model))
    assert model[2].seen == []


def test_restored_after_a_failure():
    model = nn.Sequential(conv(into=3), nn.BatchNorm2d(8))
    before = snapshot(model)
    with pytest.raises(RuntimeError):
        find_scale_invariant(model, (images(4),))
    assert_same(before, snapshot(model))
