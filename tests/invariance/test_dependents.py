"""What follows a weight, labelled by hand."""

import torch
from invariants import assert_same, snapshot
from models import Block, images, mask_rcnn
from torch import nn

from smd_mmdet.invariance import find_dependents


def convolution(into=3, out=8, bias=False):
    return nn.Conv2d(into, out, 3, padding=1, bias=bias)


def test_a_bias_and_statistics_have_the_degree_of_what_they_belong_to():
    model = nn.Sequential(
        convolution(), nn.ReLU(), convolution(8, 4, bias=True), nn.BatchNorm2d(4)
    )
    found = find_dependents(model, images(size=8))
    assert found.refused['0.weight'] is None and found.refused['2.weight'] is None
    degrees = {'0.weight': 1.0, '2.weight': 1.0}
    assert found.biases['2.bias'] == (degrees,)
    layouts = {name: ((4, degree),) for name, degree in degrees.items()}
    assert found.statistics == {'3': (layouts,)}


def test_statistics_of_joined_values_differ_by_channel():
    model = Block(
        lambda m, x: m.n(torch.cat([m.a(x), x, m.b(x)], 1)),
        a=convolution(out=8), b=convolution(out=5), n=nn.BatchNorm2d(16),
    )  # fmt: skip
    found = find_dependents(model, images(size=8))
    layouts = {
        'a.weight': ((8, 1.0), (3, 0.0), (5, 0.0)),
        'b.weight': ((8, 0.0), (3, 0.0), (5, 1.0)),
    }
    assert found.statistics == {'n': (layouts,)}


def test_every_call_of_a_norm_and_every_use_of_a_bias_is_told():
    def connect(m, x):
        grey = x[:, :1].expand(-1, 8, -1, -1)
        return m.n(m.a(x)) + m.n(grey) + m.a.bias.exp().sum()

    model = Block(connect, a=convolution(bias=True), n=nn.BatchNorm2d(8))
    found = find_dependents(model, images(size=8))
    assert found.biases['a.bias'] == ({'a.weight': 1.0}, {})
    assert found.statistics == {'n': ({'a.weight': ((8, 1.0),)}, {})}


def test_what_cannot_follow_is_told_with_the_weight():
    model = Block(
        lambda m, x: m.n(m.a(x) + m.log.exp()),
        a=convolution(), n=nn.BatchNorm2d(8), log=nn.Parameter(torch.zeros(8, 1, 1)),
    )  # fmt: skip
    reason = find_dependents(model, images(size=8)).refused['a.weight']
    assert reason == 'what is added to it in Add in the model itself is no parameter'


def test_the_order_of_modules_decides_where_no_input_can_be_guessed():
    class NeedsTwo(nn.Sequential):
        def forward(self, x, scale):
            return super().forward(x) * scale

    model = NeedsTwo(convolution(bias=True), nn.BatchNorm2d(8))
    found = find_dependents(model)
    assert 'order of modules' in found.refused['1.weight']
    assert found.refused['0.weight'] is None
    assert found.biases == {'0.bias': [{'0.weight': 1.0}]}
    assert found.statistics == {'1': [{'0.weight': ((8, 1.0),)}]}


def test_a_detector_is_left_as_it_was():
    model = mask_rcnn()
    model.get_parameter('backbone.conv1.weight').requires_grad_(False)
    before = snapshot(model)
    found = find_dependents(model)
    assert_same(before, snapshot(model))
    assert 'frozen' in found.refused['backbone.conv1.weight']
    assert found.statistics.keys() >= {'backbone.bn1', 'neck.fpn_convs.0.bn'}
