"""What numbers say, in particular where the structure says something else."""

import math

import pytest
import torch
from connections import CASES, connected
from invariants import assert_same, convolutions, entry, found, snapshot, squares
from models import HEADS, Block, conv, images, mask_rcnn
from torch import nn

from smd_mmdet.invariance import find_scale_invariant, verify_scale_invariance


def _read_without_gradient():
    """The loss depends on the raw output, but the graph does not show it."""
    return connected(
        lambda m, x: (lambda y: m.norm(y) * y.detach().abs().mean())(m.a(x)),
        norm=nn.BatchNorm2d(8),
    )


def test_proof_catches_a_false_candidate():
    torch.manual_seed(0)
    model, x = _read_without_gradient(), images(size=8)
    assert found(model, x) == {'a.weight'}
    proof = verify_scale_invariance(model, squares(x), ['a.weight'])['a.weight']
    assert proof.verdict is False
    assert proof.loss_change > 1e-2
    assert 'scaling changes the loss' in proof.reason


def test_cosine_finds_what_structure_missed():
    torch.manual_seed(0)
    build, _ = CASES['unknown function in between']
    model, x = build(), images(size=8)
    missed = entry(model, 'a.weight', x)
    assert not missed.invariant and 'Opaque' in missed.reason
    proof = verify_scale_invariance(model, squares(x), ['a.weight'])['a.weight']
    assert proof.verdict is True and abs(proof.cosine) < 1e-10


def test_false_candidate_among_many_is_singled_out():
    """Its cosine is 0: only scaling can tell, all together and then by halves."""
    torch.manual_seed(0)
    layers = [conv(into=3), nn.BatchNorm2d(8)]
    for _ in range(10):
        layers += [conv(), nn.BatchNorm2d(8)]
    body = nn.Sequential(*layers)
    model = Block(lambda m, x: m.body(x) * (1 + _size(m.body[6].weight)), body=body)
    names = [e.name for e in find_scale_invariant(model, (images(),)) if e.invariant]
    assert 'body.6.weight' in names and len(names) == 11
    proofs = verify_scale_invariance(model, squares(images(size=8)), names)
    wrong = {n for n, p in proofs.items() if p.verdict is not True}
    assert wrong == {'body.6.weight'}
    assert proofs['body.6.weight'].verdict is False
    assert proofs['body.0.weight'].joint_change < 1e-7


def _size(weight):
    return weight.detach().norm()


def test_undecided_without_gradient():
    model = CASES['dead rectifiers'][0]()
    proofs = verify_scale_invariance(model, squares(images(size=8)), ['0.weight'])
    assert proofs['0.weight'].verdict is None
    assert proofs['0.weight'].unit_gradient == 0
    assert math.isnan(proofs['0.weight'].cosine)
    model = CASES['unused'][0]()
    proofs = verify_scale_invariance(model, squares(images(size=8)), ['b.weight'])
    assert proofs['b.weight'].verdict is None


def test_epsilon_is_reported_where_it_matters():
    torch.manual_seed(0)
    model = nn.Sequential(conv(into=3), nn.BatchNorm2d(8), nn.ReLU())
    x = images(size=8)
    proof = verify_scale_invariance(model, squares(x), ['0.weight'])['0.weight']
    assert proof.verdict and abs(proof.epsilon_cosine) < 1e-3
    assert 'ε' not in proof.reason
    with torch.no_grad():
        model[0].weight.mul_(3e-3)
    proof = verify_scale_invariance(model, squares(x), ['0.weight'])['0.weight']
    assert proof.verdict and abs(proof.cosine) < 1e-6
    assert abs(proof.epsilon_cosine) > 1e-2
    assert 'ε' in proof.reason


@pytest.mark.parametrize('square', [lambda y: y.pow(2), lambda y: y * y])
def test_the_epsilon_of_a_norm_written_by_hand_is_no_refutation(square):
    torch.manual_seed(0)
    model = connected(
        lambda m, x: (
            lambda y: y * torch.rsqrt(square(y).mean(1, keepdim=True) + 1e-3)
        )(m.a(x))
    )
    proof = verify_scale_invariance(model, squares(images(size=8)), ['a.weight'])
    assert proof['a.weight'].verdict


def test_biases_of_zero_do_not_deceive():
    """With a bias of exactly 0 the loss is invariant, but only at this point."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8))
    nn.init.zeros_(model[0].bias)
    proof = verify_scale_invariance(model, squares(images(size=8)), ['0.weight'])
    assert proof['0.weight'].verdict is False


def test_single_precision():
    torch.manual_seed(0)
    model = nn.Sequential(conv(into=3), nn.BatchNorm2d(8), conv(True), nn.ReLU())
    names = ['0.weight', '2.weight']
    loss = squares(images(size=8))
    proofs = verify_scale_invariance(model, loss, names, double=False)
    assert [proofs[n].verdict for n in names] == [True, False]
    assert 'float32' in proofs['0.weight'].reason


def test_model_that_cannot_do_float64_falls_back():
    class OnlyFloat(nn.Module):
        def forward(self, x):
            if x.dtype == torch.float64:
                raise RuntimeError('not implemented for Double')
            return x

    torch.manual_seed(0)
    model = nn.Sequential(conv(into=3), OnlyFloat(), nn.BatchNorm2d(8))
    proofs = verify_scale_invariance(model, squares(images(size=8)), ['0.weight'])
    assert proofs['0.weight'].verdict and 'float32' in proofs['0.weight'].reason


def test_bad_arguments():
    model = nn.Sequential(conv(into=3), nn.BatchNorm2d(8))
    with pytest.raises(ValueError, match=r"no parameter '7\.weight'"):
        verify_scale_invariance(model, squares(images()), ['7.weight'])
    with pytest.raises(ValueError, match='scalar'):
        verify_scale_invariance(model, lambda m: m(images()), ['0.weight'])
    with pytest.raises(ValueError, match='gradient'):
        find_scale_invariant(Block(lambda m, x: x, a=conv()), (images(),))
    assert verify_scale_invariance(model, squares(images()), []) == {}


def test_mask_rcnn_proof():
    from mmengine.logging import MessageHub

    from smd_mmdet.invariance.sample_inputs import model_loss, sample_inputs

    model = mask_rcnn()
    expected = convolutions(model, *HEADS)
    names = [*expected, 'rpn_head.rpn_conv.weight', 'roi_head.bbox_head.fc_cls.weight']
    hub = MessageHub.get_current_instance()
    hub.update_info('iter', 7)
    before, info = snapshot(model), dict(hub.runtime_info)
    data = sample_inputs(model, size=64)
    proofs = verify_scale_invariance(
        model, lambda m: model_loss(m, data, economical=True), names
    )
    assert_same(before, snapshot(model))
    assert dict(hub.runtime_info) == info
    assert not any('float32' in p.reason for p in proofs.values())
    true = {n for n, p in proofs.items() if p.verdict}
    undecided = {n for n, p in proofs.items() if p.verdict is None}
    assert true <= expected <= true | undecided
    assert len(undecided) <= 2


class TwoValues(nn.Module):
    """A batch norm over two values per channel, beside one over many."""

    def __init__(self, scale):
        super().__init__()
        self.few, self.few_norm = nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.many, self.many_norm = nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.head = nn.Conv2d(6, 3, 1)
        self.few.weight.data *= scale

    def forward(self, images):
        pooled = images.mean((2, 3), keepdim=True)
        few = self.head(self.few_norm(self.few(pooled)))
        return few.square().mean() + self.many_norm(self.many(images)).sigmoid().mean()


@pytest.mark.parametrize('scale', [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize('seed', range(3))
def test_a_gradient_that_only_the_epsilon_lets_through_decides_nothing(scale, seed):
    """Two values are normalized to ±1: met in FPG, whose coarsest map is one pixel."""
    torch.manual_seed(seed)
    model, images = TwoValues(scale), torch.randn(2, 8, 4, 4)
    proofs = verify_scale_invariance(
        model,
        lambda copy: copy(images.to(copy.few.weight.dtype)),
        ['few.weight', 'many.weight'],
    )
    assert proofs['few.weight'].verdict is None
    assert 'undecided' in proofs['few.weight'].reason
    assert proofs['many.weight'].verdict is True
