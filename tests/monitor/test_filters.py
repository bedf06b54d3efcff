"""Filters, each recomputed as a weight of its own."""

import numpy as np
import pytest
import torch
from truth import backward, small_net, weights_of

from smd_mmdet import SphericalMotionMonitor


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
