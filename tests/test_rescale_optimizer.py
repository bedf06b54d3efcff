"""What the optimizer keeps of gradients follows the scale of the weights."""

import copy

import pytest
import torch
from rescaling import conv, frozen, images, prepare
from torch import nn

from smd_mmdet.rescale import rescale_


def test_the_momentum_fits_the_new_scale():
    """cw at rate c²η and decay λ/c² takes the steps of w at η and λ."""
    x, c = images(), 0.4
    one = prepare(nn.Sequential(conv(bias=False), nn.BatchNorm2d(6), nn.ReLU()))
    frozen(one, '1.weight', '1.bias')
    two = copy.deepcopy(one)
    weights = [model[0].weight for model in (one, two)]
    first, second = (
        torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.01)
        for weight in weights
    )

    def step(model, optimizer):
        optimizer.zero_grad()
        trained_loss = (model(x) * torch.arange(8.0)).sin().sum()
        trained_loss.backward()
        optimizer.step()

    for _ in range(3):
        step(one, first)
        step(two, second)
    rescale_(two, second, ['0.weight'], c, inputs=x)
    assert torch.allclose(weights[1].grad, weights[0].grad / c, rtol=1e-14)
    second.param_groups[0].update(lr=0.1 * c**2, weight_decay=0.01 / c**2)
    for _ in range(5):
        step(one, first)
        step(two, second)
        assert torch.allclose(weights[1], c * weights[0], rtol=1e-9, atol=1e-12)
    for name in ('running_mean', 'running_var'):
        power = 1 if name == 'running_mean' else 2
        expected = getattr(one[1], name) * c**power
        # A tenth of each step's statistics is new, on both sides alike.
        assert torch.allclose(getattr(two[1], name), expected, rtol=1e-9)


@pytest.mark.parametrize(
    'kind', [torch.optim.AdamW, torch.optim.NAdam, torch.optim.RMSprop]
)  # fmt: skip
def test_adaptive_steps_keep_their_size(kind):
    """cw at rate cη takes the steps of w at η, if the averages of gradients follow."""
    x, c = images(), 0.4
    one = prepare(nn.Sequential(conv(bias=False), nn.BatchNorm2d(6), nn.ReLU()))
    two = copy.deepcopy(one)
    options = dict(lr=1e-3, eps=1e-30)
    if kind is torch.optim.AdamW:
        options['amsgrad'] = True
    if kind is torch.optim.RMSprop:
        options.update(momentum=0.9, centered=True)
    weights = [model[0].weight for model in (one, two)]
    optimizers = [kind([weight], weight_decay=0, **options) for weight in weights]

    def step():
        for model, optimizer in zip((one, two), optimizers, strict=True):
            optimizer.zero_grad()
            (model(x) * torch.arange(8.0)).sin().sum().backward()
            optimizer.step()

    step(), step(), step()
    rescale_(two, optimizers[1], '0.weight', c, inputs=x)
    optimizers[1].param_groups[0]['lr'] *= c
    for _ in range(5):
        step()
        assert torch.allclose(weights[1], c * weights[0], rtol=1e-7, atol=1e-10)


def test_an_optimizer_with_unknown_state_is_refused():
    class Odd(torch.optim.SGD):
        def step(self):
            super().step()
            for group in self.param_groups:
                for p in group['params']:
                    self.state[p]['trace'] = p.detach().clone()

    model = prepare(nn.Sequential(conv(), nn.BatchNorm2d(6)))
    optimizer = Odd(model.parameters(), lr=0.1)
    model(images()).sum().backward()
    optimizer.step()
    with pytest.raises(ValueError, match=r"0.weight .* 'trace' of Odd"):
        rescale_(model, optimizer, ['0.weight'], 0.5, inputs=images())


def test_a_state_that_is_not_of_the_weights_shape_is_refused():
    """Adafactor keeps rows and columns of the second moment."""
    model = prepare(nn.Sequential(conv(), nn.BatchNorm2d(6)))
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.1)
    model(images()).sum().backward()
    optimizer.step()
    with pytest.raises(ValueError, match=r"0.weight .* '\w+_var' of Adafactor"):
        rescale_(model, optimizer, ['0.weight'], 0.5, inputs=images())
