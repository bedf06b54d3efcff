"""Truth below is labelled by hand, from the architectures; never from our output."""

import copy
import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from smd_mmdet.invariance import find_scale_invariant, verify_scale_invariance

torch.set_num_threads(2)

BN = dict(type='BN', requires_grad=True)
GN = dict(type='GN', num_groups=4, requires_grad=True)


def images(channels=3, size=64, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, size, size, generator=generator)


def pyramid(channels=16, sizes=(16, 8, 4)):
    return [images(channels, size) for size in sizes]


def found(model, *inputs):
    return {e.name for e in find_scale_invariant(model, inputs) if e.invariant}


def entry(model, name, *inputs):
    return next(e for e in find_scale_invariant(model, inputs) if e.name == name)


def squares(*inputs):
    """A loss that weights every number of every output differently."""

    def loss(model):
        outputs, total = model(*copy.deepcopy(inputs)), 0.0
        for output in _leaves(outputs):
            generator = torch.Generator().manual_seed(2)
            target = torch.randn(output.shape, generator=generator)
            total = total + (output.double() - target.to(output).double()).pow(2).mean()
        return total

    return loss


def _leaves(outputs):
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [leaf for output in outputs for leaf in _leaves(output)]


def convolutions(model, *but):
    """All convolution kernels but those whose name contains one of these."""
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.dim() == 4 and not any(part in name for part in but)
    }


# --------------------------------------------------------------- MMDetection's modules


def mmdet_module(**config):
    pytest.importorskip('mmcv')
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules

    register_all_modules()
    torch.manual_seed(0)
    return MODELS.build(config)


def _resnet(**options):
    settings = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8)
    settings.update(norm_cfg=BN, norm_eval=False, frozen_stages=-1)
    return mmdet_module(**{**settings, **options})


HRNET = {
    f'stage{i}': dict(
        num_modules=1,
        num_branches=i,
        block='BASIC' if i > 1 else 'BOTTLENECK',
        num_blocks=(1,) * i,
        num_channels=tuple(8 * 2**j for j in range(i)),
    )
    for i in (1, 2, 3, 4)
}
HRNET['stage1']['num_channels'] = (16,)

# Each of these ends in convolution → batch norm everywhere, up to the names given.
BACKBONES = {
    'resnet, basic blocks': (lambda: _resnet(), ()),
    'resnet, bottleneck, downsample': (lambda: _resnet(depth=50), ()),
    'resnet v1d, deep stem': (lambda: _resnet(type='ResNetV1d', depth=50), ()),
    'resnet, checkpointed': (lambda: _resnet(with_cp=True), ()),
    'resnext, grouped': (
        lambda: mmdet_module(
            type='ResNeXt',
            depth=50,
            groups=4,
            base_width=4,
            norm_cfg=BN,
            norm_eval=False,
        ),
        (),
    ),
    'res2net': (
        lambda: mmdet_module(
            type='Res2Net',
            depth=50,
            scales=4,
            base_width=26,
            norm_eval=False,
        ),
        (),
    ),
    'regnet': (
        lambda: mmdet_module(
            type='RegNet',
            arch=dict(w0=24, wa=24.48, wm=2.54, group_w=16, depth=22, bot_mul=1.0),
            norm_eval=False,
        ),
        (),
    ),
    'darknet': (lambda: mmdet_module(type='Darknet', depth=53, norm_eval=False), ()),
    'csp darknet': (
        lambda: mmdet_module(type='CSPDarknet', deepen_factor=0.33, widen_factor=0.125),
        (),
    ),
    # The kernel that makes the channel attention ends in a hard sigmoid.
    'cspnext, depthwise, channel attention': (
        lambda: mmdet_module(
            type='CSPNeXt', deepen_factor=0.167, widen_factor=0.125, use_depthwise=True
        ),
        ('attention.fc',),
    ),
    'hrnet': (lambda: mmdet_module(type='HRNet', extra=HRNET, norm_eval=False), ()),
    # The kernels of squeeze-and-excitation have biases and end in a sigmoid.
    'efficientnet, mobile blocks': (
        lambda: mmdet_module(type='EfficientNet', arch='b0', norm_eval=False),
        ('.se.',),
    ),
    'deformable (v1)': (
        lambda: _resnet(
            depth=50,
            dcn=dict(type='DCN', deform_groups=1, fallback_on_stride=False),
            stage_with_dcn=(False, True, True, False),
        ),
        ('conv_offset',),
    ),
    'deformable (v2)': (
        lambda: _resnet(
            depth=50,
            dcn=dict(type='DCNv2', deform_groups=1, fallback_on_stride=False),
            stage_with_dcn=(False, True, True, False),
        ),
        ('conv_offset',),
    ),
}


@pytest.mark.parametrize('case', BACKBONES)
def test_backbones_that_end_in_batch_norm(case):
    build, exceptions = BACKBONES[case]
    model = build()
    assert found(model, images()) == convolutions(model, *exceptions)


def test_entry_names_the_norm_and_the_reason():
    model = _resnet()
    entries = find_scale_invariant(model, (images(),))
    assert [e.name for e in entries] == [n for n, _ in model.named_parameters()]
    by_name = {e.name: e for e in entries}
    kernel = by_name['layer2.0.downsample.0.weight']
    assert (kernel.invariant, kernel.norm) == (True, 'layer2.0.downsample.1')
    assert by_name['layer1.0.bn1.weight'].norm is None
    assert all(e.reason and '\n' not in e.reason for e in entries)


def test_frozen_stages_and_norm_eval():
    # Stage 1 and the stem are frozen: no gradient, and their norms are fixed.
    model = _resnet(frozen_stages=1)
    expected = convolutions(model, 'layer1.') - {'conv1.weight'}
    assert found(model, images()) == expected
    assert entry(model, 'conv1.weight', images()).reason.startswith('frozen')
    # With norm_eval every norm is an affine map of fixed numbers.
    model = _resnet(norm_eval=True)
    assert found(model, images()) == set()
    assert 'eval mode' in entry(model, 'layer3.0.conv1.weight', images()).reason


def test_frozen_by_the_user_after_train():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)
    )
    model.train()
    model[1].eval()
    assert found(model, images()) == set()
    assert not model[1].training


@pytest.mark.parametrize('neck', ['FPN', 'PAFPN'])
def test_pyramids(neck):
    features = [images(c, s) for c, s in ((8, 32), (16, 16), (32, 8))]
    options = dict(type=neck, in_channels=[8, 16, 32], out_channels=16, num_outs=4)
    model = mmdet_module(**options, norm_cfg=BN)
    assert found(model, features) == convolutions(model)
    model = mmdet_module(**options)
    assert found(model, features) == set()
    # Group norm: MMCV leaves the bias out before a norm.
    model = mmdet_module(**options, norm_cfg=GN)
    assert found(model, features) == convolutions(model)


@pytest.mark.parametrize('norm', [BN, GN])
def test_shared4conv1fc_box_head(norm):
    model = mmdet_module(
        type='Shared4Conv1FCBBoxHead',
        in_channels=16,
        conv_out_channels=16,
        fc_out_channels=32,
        num_classes=5,
        norm_cfg=norm,
    )
    expected = {f'shared_convs.{i}.conv.weight' for i in range(4)}
    assert found(model, images(16, 7, batch=4)) == expected


def _retina(kind, **options):
    return mmdet_module(
        type=kind,
        num_classes=5,
        in_channels=16,
        feat_channels=16,
        stacked_convs=2,
        **options,
    )


@pytest.mark.parametrize('norm', [BN, GN, None])
def test_retina_head_shared_over_levels(norm):
    model = _retina('RetinaHead', norm_cfg=norm)
    expected = {f'{b}_convs.{i}.conv.weight' for b in ('cls', 'reg') for i in (0, 1)}
    assert found(model, pyramid()) == (expected if norm else set())


def test_retina_head_with_a_norm_per_level():
    model = _retina('RetinaSepBNHead', num_ins=3, norm_cfg=BN)
    expected = {f'{b}_convs.0.{i}.conv.weight' for b in ('cls', 'reg') for i in (0, 1)}
    assert found(model, pyramid()) == expected
    first = entry(model, 'cls_convs.0.0.conv.weight', pyramid())
    assert first.norm == 'cls_convs.0.0.bn'
    assert 'cls_convs.2.0.bn' in first.reason


def test_one_level_without_norm_spoils_a_shared_kernel():
    model = _retina('RetinaSepBNHead', num_ins=3, norm_cfg=BN)
    model.cls_convs[1][0].bn.eval()
    model.train()
    model.cls_convs[1][0].bn.eval()
    assert 'cls_convs.0.0.conv.weight' not in found(model, pyramid())


@pytest.mark.parametrize('conv', ['ConvWS', 'ConvAWS'])
def test_weight_standardization_needs_no_norm(conv):
    pytest.importorskip('mmcv')
    from mmcv.cnn import build_conv_layer

    torch.manual_seed(0)
    first = build_conv_layer(dict(type=conv), 3, 8, 3, bias=True)
    model = nn.Sequential(first, nn.SiLU(), nn.Conv2d(8, 2, 1))
    assert found(model, images()) == {'0.weight'}
    assert entry(model, '0.weight', images()).norm is None
    names = ['0.weight', '0.bias', '2.weight']
    proofs = verify_scale_invariance(model, squares(images()), names)
    assert [proofs[n].verdict for n in names] == [True, False, False]


def test_swin_has_none():
    model = mmdet_module(
        type='SwinTransformer',
        embed_dims=16,
        depths=(2, 2, 2, 2),
        num_heads=(1, 2, 4, 8),
        window_size=7,
        drop_path_rate=0.2,
    )
    assert found(model, images()) == set()


# ------------------------------------------------------------------ hand-made modules


class Block(nn.Module):
    """Layers by keyword, and a function that connects them."""

    def __init__(self, connect, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.connect = connect

    def forward(self, *inputs):
        return self.connect(self, *inputs)


class Opaque(torch.autograd.Function):
    """The identity, as a function that nobody has a rule for."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad


def _conv(bias=False, into=8, out=8, kernel=3):
    return nn.Conv2d(into, out, kernel, padding=kernel // 2, bias=bias)


def _convnext():
    layers = dict(
        stem=nn.Conv2d(3, 8, 4, stride=4),
        stem_norm=nn.LayerNorm(8),
        dw=nn.Conv2d(8, 8, 7, padding=3, groups=8),
        norm=nn.LayerNorm(8),
        up=nn.Linear(8, 32),
        down=nn.Linear(32, 8),
        out_norm=nn.LayerNorm(8),
    )

    def connect(m, x):
        x = m.stem_norm(m.stem(x).permute(0, 2, 3, 1))
        y = m.norm(m.dw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return m.out_norm(x + m.down(F.gelu(m.up(y))))

    return Block(connect, **layers)


def _simple(connect, **layers):
    layers.setdefault('a', _conv(into=3))
    return Block(connect, **layers)


CASES = {
    # name: (module, names of the invariant parameters)
    'bias before batch norm': (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        {'0.weight'},
    ),
    'bias before group norm': (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)),
        set(),
    ),
    'no bias before group norm': (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.GroupNorm(2, 8)),
        {'0.weight'},
    ),
    'frozen bias before group norm': (
        lambda: _frozen_bias(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8))),
        set(),
    ),
    'bias before a group norm of single channels': (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(8, 8)),
        {'0.weight'},
    ),
    'bias before instance norm': (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True)),
        {'0.weight'},
    ),
    'layer norm, linear without bias': (
        lambda: _simple(
            lambda m, x: m.norm(m.linear(x.flatten(1))),
            a=nn.Identity(),
            linear=nn.Linear(192, 8, bias=False),
            norm=nn.LayerNorm(8),
        ),
        {'linear.weight'},
    ),
    'layer norm, linear with bias': (
        lambda: _simple(
            lambda m, x: m.norm(m.linear(x.flatten(1))),
            a=nn.Identity(),
            linear=nn.Linear(192, 8),
            norm=nn.LayerNorm(8),
        ),
        set(),
    ),
    'linear with bias before batch norm': (
        lambda: _simple(
            lambda m, x: m.norm(m.linear(x.flatten(1))),
            a=nn.Identity(),
            linear=nn.Linear(192, 8),
            norm=nn.BatchNorm1d(8),
        ),
        {'linear.weight'},
    ),
    'a second reader beside the norm': (
        lambda: _simple(
            lambda m, x: (lambda y: m.norm(y) + y)(m.a(x)), norm=nn.BatchNorm2d(8)
        ),
        set(),
    ),
    'a second reader that is an output': (
        lambda: _simple(
            lambda m, x: (lambda y: [m.norm(y), y])(m.a(x)), norm=nn.BatchNorm2d(8)
        ),
        set(),
    ),
    'two readers, both norms': (
        lambda: _simple(
            lambda m, x: (lambda y: m.norm(y) * m.other(y).sigmoid())(m.a(x)),
            norm=nn.BatchNorm2d(8),
            other=nn.GroupNorm(2, 8),
        ),
        {'a.weight'},
    ),
    # x + b(relu(norm(x))): a is read by the norm and by the sum, b by the sum only;
    # the last norm sees both, which scale apart.
    'pre-activation residual block': (
        lambda: _simple(
            lambda m, x: (lambda y: m.out(y + m.b(F.relu(m.norm(y)))))(m.a(x)),
            b=_conv(),
            norm=nn.BatchNorm2d(8),
            out=nn.BatchNorm2d(8),
        ),
        set(),
    ),
    # Inside the block the first kernel is read by a norm alone.
    'pre-activation block, two kernels': (
        lambda: _simple(
            lambda m, x: (lambda y: y + m.c(F.relu(m.n2(m.b(F.relu(m.n1(y)))))))(
                m.a(x)
            ),
            b=_conv(),
            c=_conv(),
            n1=nn.BatchNorm2d(8),
            n2=nn.BatchNorm2d(8),
        ),
        {'b.weight'},
    ),
    # Every layer's output is read by batch norms alone, if beside other channels.
    'densely connected': (
        lambda: _simple(_dense, b=_conv(True), c=_conv(False, 16), **_norms(8, 16, 24)),
        {'a.weight', 'b.weight', 'c.weight'},
    ),
    'densely connected, one group over both': (
        lambda: _simple(_dense_pair, b=_conv(), n1=nn.BatchNorm2d(8), n=_groups(1)),
        set(),
    ),
    'densely connected, groups of their own': (
        lambda: _simple(_dense_pair, b=_conv(), n1=nn.BatchNorm2d(8), n=_groups(4)),
        set(),
    ),
    'behind a rectifier': (
        lambda: nn.Sequential(
            _conv(into=3), nn.ReLU(), nn.MaxPool2d(2), _conv(), nn.BatchNorm2d(8)
        ),
        {'0.weight', '3.weight'},
    ),
    'behind a rectifier, bias in front of it': (
        lambda: nn.Sequential(
            _conv(True, 3), nn.LeakyReLU(), _conv(True), nn.BatchNorm2d(8)
        ),
        {'2.weight'},
    ),
    'behind an activation that is not homogeneous': (
        lambda: nn.Sequential(_conv(into=3), nn.SiLU(), _conv(), nn.BatchNorm2d(8)),
        {'2.weight'},
    ),
    'rectifier with an upper bound': (
        lambda: nn.Sequential(_conv(into=3), nn.ReLU6(), _conv(), nn.BatchNorm2d(8)),
        {'2.weight'},
    ),
    'activation between kernel and norm': (
        lambda: nn.Sequential(_conv(into=3), nn.GELU(), nn.BatchNorm2d(8)),
        set(),
    ),
    'depthwise separable': (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, groups=3, bias=False), _conv(False, 6), nn.BatchNorm2d(8)
        ),
        {'0.weight', '1.weight'},
    ),
    'transposed': (
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 8, 2, 2), nn.BatchNorm2d(8)),
        {'0.weight'},
    ),
    'norm first': (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), _conv(into=3)),
        set(),
    ),
    # The second norm removes gain and offset of the first, channel by channel.
    'norm after norm': (
        lambda: nn.Sequential(_conv(into=3), nn.BatchNorm2d(8), nn.BatchNorm2d(8)),
        {'0.weight', '1.weight'},
    ),
    'weight normalization': (
        lambda: parametrizations.weight_norm(nn.Conv2d(3, 8, 3)),
        {'parametrizations.weight.original1'},
    ),
    'norm written by hand': (
        lambda: _simple(lambda m, x: _standardized(m.a(x), 1e-5)),
        {'a.weight'},
    ),
    'root mean square written by hand': (
        lambda: _simple(
            lambda m, x: (
                lambda y: y * torch.rsqrt(y.pow(2).mean(1, keepdim=True) + 1e-6)
            )(m.a(x))
        ),
        {'a.weight'},
    ),
    'normalized vectors': (
        lambda: _simple(lambda m, x: F.normalize(m.a(x), dim=1) * 20),
        {'a.weight'},
    ),
    'functional batch norm': (
        lambda: _simple(lambda m, x: F.batch_norm(m.a(x), None, None, training=True)),
        {'a.weight'},
    ),
    'unknown function in between': (
        lambda: _simple(
            lambda m, x: m.norm(Opaque.apply(m.a(x))), norm=nn.BatchNorm2d(8)
        ),
        set(),
    ),
    'kept in the graph by a factor of 0': (
        lambda: _simple(
            lambda m, x: m.norm(m.a(x)).mean() + 0 * m.a.weight.sum(),
            norm=nn.BatchNorm2d(8),
        ),
        {'a.weight'},
    ),
    'unused': (
        lambda: _simple(lambda m, x: m.norm(m.a(x)), b=_conv(), norm=nn.BatchNorm2d(8)),
        {'a.weight'},
    ),
    'shared by a normalized and a raw call': (
        lambda: _simple(
            lambda m, x: [m.norm(m.a(x)), m.a(x.flip(0)).relu()], norm=nn.BatchNorm2d(8)
        ),
        set(),
    ),
    'synchronized batch norm': (
        lambda: nn.Sequential(_conv(True, 3), nn.SyncBatchNorm(8)),
        {'0.weight'},
    ),
    'batch norm without running statistics in eval mode': (
        lambda: nn.Sequential(
            _conv(into=3), nn.BatchNorm2d(8, track_running_stats=False).eval()
        ),
        {'0.weight'},
    ),
    'dead rectifiers': (
        lambda: nn.Sequential(
            _conv(into=3), _dead_norm(), nn.ReLU(), _conv(), nn.BatchNorm2d(8)
        ),
        {'0.weight', '3.weight'},
    ),
    'resized, padded, sliced, dropped out': (
        lambda: _simple(
            lambda m, x: m.norm(
                F.dropout(F.interpolate(F.pad(m.a(x), (1, 1)), scale_factor=2.0), 0.3)[
                    ..., 1:
                ]
            ),
            norm=nn.BatchNorm2d(8),
        ),
        {'a.weight'},
    ),
    'convnext block': (_convnext, set()),
}
# The forward pass alone cannot tell these; the proof does.
BEYOND_STRUCTURE = {
    'unknown function in between': {'a.weight'},
    'densely connected, groups of their own': {'a.weight', 'b.weight'},
}


def _frozen_bias(model):
    model[0].bias.requires_grad_(False)
    return model


def _dead_norm():
    norm = nn.BatchNorm2d(8)
    nn.init.constant_(norm.bias, -100.0)
    return norm


def _norms(*widths):
    return {f'n{i}': nn.BatchNorm2d(width) for i, width in enumerate(widths)}


def _dense(m, x):
    y = m.a(x)
    y = torch.cat([y, m.b(F.relu(m.n0(y)))], 1)
    y = torch.cat([y, m.c(F.relu(m.n1(y)))], 1)
    return F.relu(m.n2(y))


def _groups(count):
    return nn.GroupNorm(count, 16)


def _dense_pair(m, x):
    y = m.a(x)
    return m.n(torch.cat([y, m.b(F.relu(m.n1(y)))], 1))


def _standardized(x, eps):
    mean = x.mean((0, 2, 3), keepdim=True)
    var = x.var((0, 2, 3), keepdim=True)
    return (x - mean) / torch.sqrt(var + eps)


@pytest.mark.parametrize('case', CASES)
def test_structure_and_proof_agree_with_the_truth(case):
    build, expected = CASES[case]
    torch.manual_seed(0)
    model = build()
    x = images(size=8)
    assert found(model, x) == expected
    truth = BEYOND_STRUCTURE.get(case, expected)
    names = [n for n, p in model.named_parameters() if p.dim() > 1]
    proofs = verify_scale_invariance(model, squares(x), names)
    for name, proof in proofs.items():
        if proof.verdict is None:
            assert 'no gradient' in proof.reason, proof
        else:
            assert proof.verdict == (name in truth), proof


# -------------------------------------------------------------------------- the proof


def _read_without_gradient():
    """The loss depends on the raw output, but the graph does not show it."""
    return _simple(
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
    layers = [_conv(into=3), nn.BatchNorm2d(8)]
    for _ in range(10):
        layers += [_conv(), nn.BatchNorm2d(8)]
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
    model = nn.Sequential(_conv(into=3), nn.BatchNorm2d(8), nn.ReLU())
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


def test_biases_of_zero_do_not_deceive():
    """With a bias of exactly 0 the loss is invariant, but only at this point."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8))
    nn.init.zeros_(model[0].bias)
    proof = verify_scale_invariance(model, squares(images(size=8)), ['0.weight'])
    assert proof['0.weight'].verdict is False


def test_single_precision():
    torch.manual_seed(0)
    model = nn.Sequential(_conv(into=3), nn.BatchNorm2d(8), _conv(True), nn.ReLU())
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
    model = nn.Sequential(_conv(into=3), OnlyFloat(), nn.BatchNorm2d(8))
    proofs = verify_scale_invariance(model, squares(images(size=8)), ['0.weight'])
    assert proofs['0.weight'].verdict and 'float32' in proofs['0.weight'].reason


def test_bad_arguments():
    model = nn.Sequential(_conv(into=3), nn.BatchNorm2d(8))
    with pytest.raises(ValueError, match=r"no parameter '7\.weight'"):
        verify_scale_invariance(model, squares(images()), ['7.weight'])
    with pytest.raises(ValueError, match='scalar'):
        verify_scale_invariance(model, lambda m: m(images()), ['0.weight'])
    with pytest.raises(ValueError, match='gradient'):
        find_scale_invariant(Block(lambda m, x: x, a=_conv()), (images(),))
    assert verify_scale_invariance(model, squares(images()), []) == {}


# ------------------------------------------------------------------- structure alone


def test_without_inputs_the_order_of_modules_decides_and_says_so():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8)
    )
    entries = {e.name: e for e in find_scale_invariant(model)}
    assert [n for n, e in entries.items() if e.invariant] == ['0.weight']
    assert entries['0.weight'].norm == '1'
    assert all('order of modules alone' in e.reason for e in entries.values())


# ---------------------------------------------------------------------- state is kept


def _snapshot(model):
    return dict(
        state={k: v.clone() for k, v in model.state_dict(keep_vars=True).items()},
        identity={k: v.data_ptr() for k, v in model.state_dict().items()},
        training=[m.training for m in model.modules()],
        requires_grad=[p.requires_grad for p in model.parameters()],
        grads=[None if p.grad is None else p.grad.clone() for p in model.parameters()],
        hooks=[
            (len(m._forward_hooks), len(m._forward_pre_hooks), 'forward' in vars(m))
            for m in model.modules()
        ],
        attributes=[
            {k: v for k, v in vars(m).items() if isinstance(v, (int, bool, str))}
            for m in model.modules()
        ],
        rng=(
            torch.get_rng_state(),
            random.getstate(),
            np.random.get_state(),
            torch.get_default_dtype(),
        ),
    )


def _assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        assert (a == b).all()
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            _assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            _assert_same(one, other)
    else:
        assert a == b


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
    model = nn.Sequential(_conv(into=3), nn.SyncBatchNorm(8), Counting(), _conv(True))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    model.train(training)
    model[1].train(not training)
    before, x = _snapshot(model), images(size=8)
    find_scale_invariant(model, (x,))
    _assert_same(before, _snapshot(model))
    find_scale_invariant(model)
    _assert_same(before, _snapshot(model))
    with torch.no_grad():
        verify_scale_invariance(model, squares(x), ['0.weight', '3.bias'])
    _assert_same(before, _snapshot(model))
    assert model[2].seen == []


def test_restored_after_a_failure():
    model = nn.Sequential(_conv(into=3), nn.BatchNorm2d(8))
    before = _snapshot(model)
    with pytest.raises(RuntimeError):
        find_scale_invariant(model, (images(4),))
    _assert_same(before, _snapshot(model))


# -------------------------------------------------------------------------- detectors


def mask_rcnn(norm='BN', **backbone):
    pytest.importorskip('mmcv')
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules()
    config = Config.fromfile(_config('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')).model
    norm = dict(type=norm, requires_grad=True)
    settings = dict(depth=18, base_channels=8, stem_channels=8, init_cfg=None)
    settings.update(norm_cfg=norm, norm_eval=False, frozen_stages=-1)
    config.backbone.update({**settings, **backbone})
    config.neck.update(in_channels=[8, 16, 32, 64], out_channels=16, norm_cfg=norm)
    config.rpn_head.update(in_channels=16, feat_channels=16)
    roi = config.roi_head
    roi.bbox_roi_extractor.out_channels = roi.mask_roi_extractor.out_channels = 16
    roi.bbox_head.update(in_channels=16, fc_out_channels=32, num_classes=3)
    roi.mask_head.update(in_channels=16, conv_out_channels=16, num_classes=3)
    roi.mask_head.update(norm_cfg=norm)
    torch.manual_seed(0)
    return MODELS.build(config)


def _config(name):
    from pathlib import Path

    import mmdet

    return Path(mmdet.__file__).parent / '.mim/configs' / name


HEADS = ('rpn_', 'fc_', 'mask_head.upsample', 'conv_logits')


@pytest.mark.parametrize('norm', ['BN', 'SyncBN'])
def test_mask_rcnn_without_inputs(norm):
    model = mask_rcnn(norm)
    before = _snapshot(model)
    entries = find_scale_invariant(model)
    _assert_same(before, _snapshot(model))
    invariant = {e.name for e in entries if e.invariant}
    assert invariant == convolutions(model, *HEADS)
    assert not any('order of modules' in e.reason for e in entries)


def test_mask_rcnn_as_shipped_has_none():
    model = mask_rcnn(norm_eval=True, frozen_stages=1)
    invariant = {e.name for e in find_scale_invariant(model) if e.invariant}
    assert invariant == convolutions(model, 'backbone', *HEADS)


def test_mask_rcnn_proof():
    from mmengine.logging import MessageHub

    from smd_mmdet.invariance.sample_inputs import model_loss, sample_inputs

    model = mask_rcnn()
    expected = convolutions(model, *HEADS)
    names = [*expected, 'rpn_head.rpn_conv.weight', 'roi_head.bbox_head.fc_cls.weight']
    hub = MessageHub.get_current_instance()
    hub.update_info('iter', 7)
    before, info = _snapshot(model), dict(hub.runtime_info)
    data = sample_inputs(model, size=64)
    proofs = verify_scale_invariance(
        model, lambda m: model_loss(m, data, economical=True), names
    )
    _assert_same(before, _snapshot(model))
    assert dict(hub.runtime_info) == info
    assert not any('float32' in p.reason for p in proofs.values())
    true = {n for n, p in proofs.items() if p.verdict}
    undecided = {n for n, p in proofs.items() if p.verdict is None}
    assert true <= expected <= true | undecided
    assert len(undecided) <= 2


def retinanet(**head):
    pytest.importorskip('mmcv')
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules()
    config = Config.fromfile(_config('retinanet/retinanet_r18_fpn_1x_coco.py')).model
    config.backbone.update(base_channels=8, stem_channels=8, init_cfg=None)
    config.backbone.update(norm_eval=False, frozen_stages=-1)
    config.neck.update(in_channels=[8, 16, 32, 64], out_channels=16, norm_cfg=BN)
    config.bbox_head.update(in_channels=16, feat_channels=16, num_classes=3)
    config.bbox_head.update(stacked_convs=2, norm_cfg=BN, **head)
    torch.manual_seed(0)
    return MODELS.build(config)


@pytest.mark.parametrize('objects', [True, False])
def test_retinanet_with_and_without_positives(objects):
    from smd_mmdet.invariance.sample_inputs import model_loss, sample_inputs

    model = retinanet()
    data = sample_inputs(model, size=64)
    if not objects:
        for sample in data['data_samples']:
            sample.gt_instances = sample.gt_instances[:0]
    whole = Block(lambda m, _: model_loss(m.model, data), model=model)
    expected = convolutions(whole, 'retina_cls', 'retina_reg')
    assert found(whole, None) == expected


def test_audit_of_a_config():
    pytest.importorskip('mmcv')
    from smd_mmdet.audit import audit

    before = torch.get_rng_state()
    result = audit('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
    assert torch.equal(before, torch.get_rng_state())
    assert result['summary']['invariant_parameters'] == 0
    assert result['summary']['share_of_weights'] == 0
    assert {'name', 'invariant', 'norm', 'reason'} <= result['parameters'][0].keys()
    advice = '\n'.join(result['advice'])
    backbone = 'backbone=dict(norm_cfg=norm_cfg, norm_eval=False, frozen_stages=-1)'
    assert backbone in advice
    assert 'bbox_head=dict(norm_cfg=norm_cfg)' in advice
    with pytest.raises(ValueError, match='no such config'):
        audit('mmdet::retinanet/none.py')


def test_advice_makes_a_config_apply():
    """The lines that are printed are taken at their word."""
    pytest.importorskip('mmcv')
    from mmengine.config import Config

    from smd_mmdet.audit import audit

    name = 'retinanet/retinanet_r18_fpn_1x_coco.py'
    advice = audit(f'mmdet::{name}')['advice']
    end = advice.index(')') + 1
    changes = {}
    exec('\n'.join(advice[1:end]), changes)
    config = Config.fromfile(_config(name))
    config.merge_from_dict(dict(model=changes['model']))
    result = audit(config)
    invariant = {p['name'] for p in result['parameters'] if p['invariant']}
    convs = {p['name'] for p in result['parameters'] if p['dimensions'] == 4}
    assert invariant == {n for n in convs if 'retina_' not in n}
    assert result['advice'] == []


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
