"""What the optimizer keeps of gradients follows the scale of the weights."""

import copy
import importlib
import runpy
from pathlib import Path

import pytest
import torch
from rescaling import conv, frozen, images, prepare
from torch import nn
from versions import needs_torch

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


class Lion(torch.optim.Optimizer):
    """As published: Chen et al., 2023, algorithm 2."""

    def __init__(self, params, lr, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            first, second = group['betas']
            for p in group['params']:
                state = self.state[p]
                if not state:
                    state['exp_avg'] = torch.zeros_like(p)
                average = state['exp_avg']
                update = torch.lerp(p.grad, average, first).sign()
                p.mul_(1 - group['lr'] * group['weight_decay'])
                p.sub_(update, alpha=group['lr'])
                average.lerp_(p.grad, 1 - second)


def of_mmpretrain(name):
    def make(params, **options):
        package = pytest.importorskip('mmpretrain').__path__[0]
        registered = importlib.import_module('mmpretrain.registry').OPTIMIZERS
        # The file alone, since the package around it needs more; unregistered.
        file = Path(package, 'engine', 'optimizers', f'{name.lower()}.py')
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registered, '_module_dict', {})
            kind = runpy.run_path(str(file))[name]
        return kind(params, **options)

    return make


MOMENTUM = dict(lr=0.1, momentum=0.9)
ADAPTIVE = dict(lr=1e-3, eps=1e-30)
# What makes an optimizer, and the powers of c that go to its rate and its decay.
OPTIMIZERS = {
    'SGD': (torch.optim.SGD, MOMENTUM, 2, -2),
    'Nesterov': (torch.optim.SGD, MOMENTUM | dict(nesterov=True), 2, -2),
    'dampening': (torch.optim.SGD, MOMENTUM | dict(dampening=0.5), 2, -2),
    'AdamW': (torch.optim.AdamW, ADAPTIVE | dict(amsgrad=True), 1, -1),
    'Adam': (torch.optim.Adam, ADAPTIVE, 1, -2),
    'NAdam': (torch.optim.NAdam, ADAPTIVE, 1, -2),
    'NAdam, decoupled': (
        torch.optim.NAdam,
        ADAPTIVE | dict(decoupled_weight_decay=True),
        *(1, -1),
    ),
    'RAdam': (torch.optim.RAdam, ADAPTIVE, 1, -2),
    'Adamax': (torch.optim.Adamax, ADAPTIVE, 1, -2),
    'RMSprop': (
        torch.optim.RMSprop,
        ADAPTIVE | dict(momentum=0.9, centered=True),
        *(1, -2),
    ),
    'Lion': (Lion, dict(lr=1e-3), 1, -1),
    # Their steps have the size of the weight, whatever that is.
    'LAMB': (
        of_mmpretrain('Lamb'),
        ADAPTIVE | dict(max_grad_norm=1e9, always_adapt=True),
        *(0, -1),
    ),
    'LARS': (of_mmpretrain('LARS'), MOMENTUM | dict(eta=0.01, eps=0.0), 0, -2),
}


@pytest.mark.parametrize(
    ('make', 'options', 'rate', 'decay'), OPTIMIZERS.values(), ids=OPTIMIZERS
)
def test_a_rescaled_network_takes_the_same_steps(make, options, rate, decay):
    """cw at another rate and decay keeps the directions of w; both models step on."""
    x, c = images(), 0.4
    one = prepare(nn.Sequential(conv(bias=False), nn.BatchNorm2d(6), nn.ReLU()))
    two = copy.deepcopy(one)
    weights = [model[0].weight for model in (one, two)]
    optimizers = [make([weight], weight_decay=0.05, **options) for weight in weights]

    def step():
        for model, optimizer in zip((one, two), optimizers, strict=True):
            optimizer.zero_grad()
            (model(x) * torch.arange(8.0)).sin().sum().backward()
            optimizer.step()

    for _ in range(7):  # RAdam rectifies from its sixth step on
        step()
    start = weights[0].detach().clone()
    rescale_(two, optimizers[1], '0.weight', c, inputs=x)
    group = optimizers[1].param_groups[0]
    group.update(
        lr=group['lr'] * c**rate, weight_decay=group['weight_decay'] * c**decay
    )
    for _ in range(5):
        step()
        assert torch.allclose(weights[1], c * weights[0], rtol=1e-7, atol=1e-10)
    moved = (weights[0] - start).norm() / start.norm()
    assert moved > 5e-4, 'the steps were too small to tell'


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


@needs_torch(2, 5, 'Adafactor')
def test_a_state_that_is_not_of_the_weights_shape_is_refused():
    """Adafactor keeps rows and columns of the second moment."""
    model = prepare(nn.Sequential(conv(), nn.BatchNorm2d(6)))
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.1)
    model(images()).sum().backward()
    optimizer.step()
    with pytest.raises(ValueError, match=r"0.weight .* '\w+_var' of Adafactor"):
        rescale_(model, optimizer, ['0.weight'], 0.5, inputs=images())
