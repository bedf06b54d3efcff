"""The monitor when layers move between groups, or the optimizer loses them."""

import pytest
import torch
from torch import nn

from smd_mmdet.monitor.monitor import SphericalMotionMonitor


def layers(number=2):
    return nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(number))


def make_step(model, optimizer):
    optimizer.zero_grad()
    sum(layer(torch.ones(1, 4)).square().sum() for layer in model).backward()
    optimizer.step()


def test_a_layer_that_moves_to_another_group_is_measured_with_its_settings():
    model = layers()
    groups = [{'params': [layer.weight], 'lr': lr} for layer, lr in zip(
        model, (0.1, 0.2), strict=True)]  # fmt: skip
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    named = {str(i): layer.weight for i, layer in enumerate(model)}
    with SphericalMotionMonitor(optimizer, named) as monitor:
        make_step(model, optimizer)
        optimizer.param_groups.reverse()
        make_step(model, optimizer)
        optimizer.param_groups.pop()
        make_step(model, optimizer)
        columns = monitor.collect()
    assert monitor.fault is None
    of_first = columns['layer'] == '0'
    assert columns['lr'][of_first][:2].tolist() == [0.1, 0.1]
    assert columns['count'][of_first].tolist() == [1, 1, 0]
    assert columns['lr'][~of_first].tolist() == [0.2] * 3
    assert columns['count'][~of_first].tolist() == [1, 1, 1]


def test_following_an_optimizer_without_the_layers_is_refused():
    model = layers()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    named = {'0': model[0].weight}
    with SphericalMotionMonitor(optimizer, named) as monitor:
        with pytest.raises(ValueError, match='not among the parameters'):
            monitor.follow(torch.optim.SGD(model[1].parameters(), lr=0.1))
        make_step(model, optimizer)
        assert monitor.collect()['count'].tolist() == [1]
