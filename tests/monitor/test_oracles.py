"""The monitor against an exact equivalence of two ways to train."""

import numpy as np
import torch
from torch import nn

from smd_mmdet.monitor import SphericalMotionMonitor

LR, DECAY, MOMENTUM = 0.05, 1e-2, 0.9
STEPS = 120


def _loss(weight: torch.Tensor, step: int) -> torch.Tensor:
    """A loss of the direction alone, of other data in each step."""
    data = torch.from_numpy(np.random.default_rng(step).standard_normal((16, 24)))
    hidden = torch.tanh(3 * data @ (weight / weight.norm()))
    return ((hidden - torch.sin(data[:, 0])) ** 2).mean()


def _run(weight, optimizer, rates):
    """Train, and hand back the records and the directions."""
    directions = []
    with SphericalMotionMonitor(optimizer, {'w': weight}, window=10) as monitor:
        for step, rate in enumerate(rates):
            optimizer.param_groups[0]['lr'] = float(rate)
            optimizer.zero_grad()
            _loss(weight, step).backward()
            optimizer.step()
            with torch.no_grad():
                directions.append((weight / weight.norm()).numpy().copy())
        return monitor.collect(), np.array(directions)


def test_decay_and_a_growing_rate_turn_a_weight_alike():
    """Li and Arora: SGD with momentum and decay goes as without decay, at a rate that
    grows by a⁻² per step, a the larger root of a² − (1+α−ηλ)a + α = 0.
    """
    start = torch.from_numpy(np.random.default_rng(0).standard_normal(24))
    decayed, grown = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    root = np.roots([1, LR * DECAY - 1 - MOMENTUM, MOMENTUM]).max()
    settings = dict(lr=LR, momentum=MOMENTUM)
    plain = torch.optim.SGD([decayed], weight_decay=DECAY, **settings)
    growing = torch.optim.SGD([grown], **settings)
    # The weight decayed in the step before the first, too, for all its buffer knows.
    buffer = -(1 - root) / (LR * root) * start
    growing.state[grown]['momentum_buffer'] = buffer.clone()
    first, turned = _run(decayed, plain, np.full(STEPS, LR))
    rates = LR * root ** (-2.0 * np.arange(STEPS) - 1)
    second, same = _run(grown, growing, rates)
    # The truth itself: the directions are equal, while the norms are not.
    np.testing.assert_allclose(turned, same, atol=1e-12)
    assert grown.norm() > 1.5 * decayed.norm()
    for name in ('angular_update', 'unit_grad_sq'):
        np.testing.assert_allclose(
            first[f'{name}_mean'], second[f'{name}_mean'], rtol=1e-9
        )
    # Another root, and the angles part.
    growing = torch.optim.SGD([nn.Parameter(start.clone())], **settings)
    weight = growing.param_groups[0]['params'][0]
    growing.state[weight]['momentum_buffer'] = buffer.clone()
    other, _ = _run(weight, growing, np.full(STEPS, LR))
    ratio = other['angular_update_mean'] / first['angular_update_mean']
    assert np.abs(ratio[-1] - 1) > 0.1
