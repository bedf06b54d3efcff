"""How clipping answers to a rescaling: norms that move, gradients that are clipped."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from truth import backward, small_net, weights_of

from smd_mmdet import SphericalMotionMonitor
from smd_mmdet.control.response import ClippedSteps
from smd_mmdet.invariance import Dependents
from smd_mmdet.monitor.readers import reader_for
from smd_mmdet.rescale import apply, plan
from smd_mmdet.theory import THEORIES

FACTORS = {'first': 0.5, 'second': 1.3}


def sound_net():
    net = small_net(dtype=torch.float64)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-16
    return net


def applied(net, step, max_norm, factors=None):
    """Squared norm of the gradients of each layer, and of all others, once clipped."""
    net = copy.deepcopy(net)
    named = weights_of(net)
    with torch.no_grad():
        for name, c in (factors or {}).items():
            named[name].mul_(c)
    net.zero_grad()
    backward(net, step)
    nn.utils.clip_grad_norm_(net.parameters(), max_norm)
    squares = {n: float(w.grad.square().sum()) for n, w in named.items()}
    whole = sum(float(p.grad.square().sum()) for p in net.parameters())
    return {**squares, 'other': whole - sum(squares.values())}


def noted(net, max_norm, steps=8):
    """What is noted of these steps, without one of them made."""
    known = ClippedSteps(weights_of(net))
    for step in range(steps):
        net.zero_grad()
        backward(net, step)
        total = nn.utils.clip_grad_norm_(net.parameters(), max_norm)
        known.note_clipping(total, max_norm, 2.0)
    return known


@pytest.mark.parametrize('max_norm', [0.02, 0.5, 100.0])
def test_the_change_of_the_coefficients_is_that_of_a_rescaled_network(max_norm):
    net = sound_net()
    known = noted(net, max_norm)
    before, after = (
        [applied(net, step, max_norm, factors) for step in range(8)]
        for factors in ({}, FACTORS)
    )
    change = known.response().change(FACTORS, ['first', 'second', 'other'])
    for name in change:
        ratio = sum(of[name] for of in after) / sum(of[name] for of in before)
        # The gradient of the weight itself is divided by its factor.
        truth = ratio**0.5 * FACTORS.get(name, 1.0)
        assert change[name] == pytest.approx(truth, rel=1e-6), name
        assert (truth == pytest.approx(1)) == (max_norm == 100.0), 'it says nothing'


def test_what_was_noted_before_a_rescaling_is_as_if_it_was_noted_after():
    net = sound_net()
    known = noted(net, 0.5)
    known.rescaled(FACTORS)
    with torch.no_grad():
        for name, weight in weights_of(net).items():
            weight.mul_(FACTORS[name])
    one, other = known.response(), noted(net, 0.5).response()
    np.testing.assert_allclose(one.total, other.total, rtol=1e-9)
    np.testing.assert_allclose(one.squares, other.squares, rtol=1e-9)


@pytest.mark.parametrize('max_norm', [0.02, 0.5])
def test_factors_that_have_settled_are_at_equilibrium(max_norm):
    """c⁴ = (w*/‖w‖)⁴ · E‖ĝ′‖²c²/E‖ĝ‖², with the gradients of a rescaled network."""
    net = sound_net()
    wanted = {'first': 0.4, 'second': 0.9}
    factors = noted(net, max_norm).response().settled(wanted, exponent=4)
    before, after = (
        [applied(net, step, max_norm, some) for step in range(8)]
        for some in ({}, factors)
    )
    for name, c in factors.items():
        ratio = sum(of[name] for of in after) / sum(of[name] for of in before)
        assert c**4 == pytest.approx(wanted[name] ** 4 * ratio * c**2, rel=1e-6)
        assert abs(c / wanted[name] - 1) > 0.01, 'clipping does not answer'


def test_steps_that_overflow_tell_nothing():
    net = sound_net()
    known = noted(net, 0.5)
    net[0].weight.grad[0] = torch.inf
    total = nn.utils.clip_grad_norm_(net.parameters(), 0.5)
    known.note_clipping(total, 0.5, 2.0)
    known.note_clipping(total, 0.5, float('inf'))  # another norm
    assert len(known.response().total) == 8
    assert ClippedSteps(weights_of(net)).response() is None


# ------------------------------------------------------------------ walks

WINDOW, LAYERS, SIZE = 20, 8, 96


class Layers(nn.Module):
    """Layers of which only the directions matter, and a head besides."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(LAYERS, SIZE, generator=generator, dtype=torch.float64)
        self.layers = nn.ParameterList(map(nn.Parameter, drawn))
        self.head = nn.Parameter(torch.zeros(SIZE, dtype=torch.float64))

    def backward(self, generator, of_head):
        """Gradients of other random directions, and of another size, in each step."""
        drawn = torch.randn(LAYERS + 2, SIZE, generator=generator, dtype=torch.float64)
        drawn[:-1] *= drawn[-1, 0].mul(0.3).exp() / SIZE**0.5
        w = torch.stack(list(self.layers)).detach()
        norm = w.norm(dim=1, keepdim=True)
        g = drawn[:LAYERS]
        g = (g - w * (g * w).sum(1, keepdim=True) / norm**2) / norm
        for layer, gradient in zip(self.layers, g, strict=True):
            layer.grad = gradient.clone()
        self.head.grad = of_head * drawn[LAYERS]


def walk(make, law, max_norm, of_head, rescaled, steps=(800, 60), drop=10):
    """Equilibrium, a drop of the rate with a rescaling or without, and what follows.

    Returns:
        Δ/Δ*, as a root mean square over layers, in the ten windows before the drop, and
        in each one after it; the share of clipped steps before; and how many times as
        large the head's updates became, beyond what the rate did.
    """
    net, generator = Layers(), torch.Generator().manual_seed(1)
    weights = {name: p for name, p in net.named_parameters() if name != 'head'}
    optimizer = make([*weights.values(), net.head])
    known = ClippedSteps(weights)
    monitor = SphericalMotionMonitor(optimizer, weights, WINDOW)
    moved = []
    for step in range(sum(steps)):
        if step == steps[0]:
            optimizer.param_groups[0]['lr'] /= drop
            if rescaled:
                rescale_at_drop(net, optimizer, law, known.response(), drop)
        net.backward(generator, of_head)
        total = nn.utils.clip_grad_norm_(net.parameters(), max_norm)
        known.note_clipping(total, max_norm, 2.0)
        monitor.note_clipping(total, max_norm)
        before = net.head.detach().clone()
        optimizer.step()
        lr = optimizer.param_groups[0]['lr']
        moved.append(float((net.head.detach() - before).norm()) / lr)
    monitor.end_window()
    columns = monitor.collect()
    square = columns['angular_update_mean'] ** 2 + columns['angular_update_var']
    ratio = (square / columns['angular_update_eq'] ** 2).reshape(-1, LAYERS).mean(1)
    after = columns['iter'][::LAYERS] > steps[0]
    clipped = columns['clipped_share'].reshape(-1, LAYERS)[~after][-10:]
    head = np.mean(moved[steps[0] :]) / max(np.mean(moved[: steps[0]][-200:]), 1e-9)
    before = ratio[~after][-10:].mean() ** 0.5
    return before, ratio[after] ** 0.5, clipped.mean(), head


def rescale_at_drop(net, optimizer, law, response, drop):
    """As the hook does it."""
    names = [name for name, _ in net.named_parameters()]
    weights = [name for name in names if name != 'head']
    factors = dict.fromkeys(weights, drop ** -float(law.norm_power()))
    change = None
    if response is not None:
        if law.clips:
            factors = response.settled(factors, law.exponent)
        change = response.change(factors, names)
    dependents = Dependents(
        refused=dict.fromkeys(weights, ''), biases={}, statistics={}
    )
    apply(plan(net, optimizer, factors, dependents, (), change))


def sgd(params, **options):
    settings = dict(lr=0.2, momentum=0.9, weight_decay=5e-3)
    return torch.optim.SGD(params, **settings | options)


def adamw(params):
    return torch.optim.AdamW(params, lr=2e-2, weight_decay=0.5)


WALKS = {
    'never': (sgd, 1e9, 0.0, 0.0),
    'half of the steps': (sgd, 0.75, 0.0, 0.5),
    'always': (sgd, 0.05, 0.0, 1.0),
    'always, most of it for the head': (sgd, 0.05, 3.0, 1.0),
    'Nesterov, half': (partial(sgd, nesterov=True), 0.75, 0.0, 0.5),
    'AdamW, always': (adamw, 0.05, 3.0, 1.0),
}


@pytest.mark.parametrize(
    ('make', 'max_norm', 'of_head', 'share'), WALKS.values(), ids=WALKS
)
def test_a_rescaling_puts_weights_at_the_new_equilibrium(
    make, max_norm, of_head, share
):
    kind = reader_for(make([nn.Parameter(torch.ones(2))])).theory
    law = THEORIES[kind]
    settings = make, law, max_norm, of_head
    _, left, _, _ = walk(*settings, rescaled=False)
    before, after, clipped, head = walk(*settings, rescaled=True)
    assert clipped == pytest.approx(share, abs=0.2)
    assert before == pytest.approx(1, abs=0.04)
    assert np.mean(after**2) ** 0.5 == pytest.approx(1, abs=0.06)
    # So far it was to go; both walks have the same random numbers.
    assert left[0] / after[0] == pytest.approx(10**-0.5, rel=0.08)
    if kind == 'adamw':  # its updates have their size whatever the coefficient
        assert head == pytest.approx(1, abs=0.12)


def test_without_what_is_known_of_clipping_it_fails(monkeypatch):
    monkeypatch.setattr(ClippedSteps, 'response', lambda self: None)
    before, after, *_ = walk(sgd, THEORIES['sgd'], 0.05, 0.0, rescaled=True)
    assert before == pytest.approx(1, abs=0.04)
    assert after[-1] < 0.75
