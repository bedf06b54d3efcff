"""Truth below is labelled by hand, from the architectures; never from our output."""

import pytest
import torch
from invariants import (
    assert_same,
    convolutions,
    entry,
    found,
    snapshot,
    squares,
)
from models import (
    BN,
    GN,
    HEADS,
    Block,
    images,
    mask_rcnn,
    mmdet_module,
    pyramid,
    resnet,
    retina_head,
    retinanet,
)
from torch import nn

from smd_mmdet.invariance import find_scale_invariant, verify_scale_invariance

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
    'resnet, basic blocks': (lambda: resnet(), ()),
    'resnet, bottleneck, downsample': (lambda: resnet(depth=50), ()),
    'resnet v1d, deep stem': (lambda: resnet(type='ResNetV1d', depth=50), ()),
    'resnet, checkpointed': (lambda: resnet(with_cp=True), ()),
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
        lambda: resnet(
            depth=50,
            dcn=dict(type='DCN', deform_groups=1, fallback_on_stride=False),
            stage_with_dcn=(False, True, True, False),
        ),
        ('conv_offset',),
    ),
    'deformable (v2)': (
        lambda: resnet(
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
    model = resnet()
    entries = find_scale_invariant(model, (images(),))
    assert [e.name for e in entries] == [n for n, _ in model.named_parameters()]
    by_name = {e.name: e for e in entries}
    kernel = by_name['layer2.0.downsample.0.weight']
    assert (kernel.invariant, kernel.norm) == (True, 'layer2.0.downsample.1')
    assert by_name['layer1.0.bn1.weight'].norm is None
    assert all(e.reason and '\n' not in e.reason for e in entries)


def test_frozen_stages_and_norm_eval():
    # Stage 1 and the stem are frozen: no gradient, and their norms are fixed.
    model = resnet(frozen_stages=1)
    expected = convolutions(model, 'layer1.') - {'conv1.weight'}
    assert found(model, images()) == expected
    assert entry(model, 'conv1.weight', images()).reason.startswith('frozen')
    # With norm_eval every norm is an affine map of fixed numbers.
    model = resnet(norm_eval=True)
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


@pytest.mark.parametrize('norm', [BN, GN, None])
def test_retina_head_shared_over_levels(norm):
    model = retina_head('RetinaHead', norm_cfg=norm)
    expected = {f'{b}_convs.{i}.conv.weight' for b in ('cls', 'reg') for i in (0, 1)}
    assert found(model, pyramid()) == (expected if norm else set())


def test_retina_head_with_a_norm_per_level():
    model = retina_head('RetinaSepBNHead', num_ins=3, norm_cfg=BN)
    expected = {f'{b}_convs.0.{i}.conv.weight' for b in ('cls', 'reg') for i in (0, 1)}
    assert found(model, pyramid()) == expected
    first = entry(model, 'cls_convs.0.0.conv.weight', pyramid())
    assert first.norm == 'cls_convs.0.0.bn'
    assert 'cls_convs.2.0.bn' in first.reason


def test_one_level_without_norm_spoils_a_shared_kernel():
    model = retina_head('RetinaSepBNHead', num_ins=3, norm_cfg=BN)
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


@pytest.mark.parametrize('norm', ['BN', 'SyncBN'])
def test_mask_rcnn_without_inputs(norm):
    model = mask_rcnn(norm)
    before = snapshot(model)
    entries = find_scale_invariant(model)
    assert_same(before, snapshot(model))
    invariant = {e.name for e in entries if e.invariant}
    assert invariant == convolutions(model, *HEADS)
    assert not any('order of modules' in e.reason for e in entries)


def test_mask_rcnn_as_shipped_has_none():
    model = mask_rcnn(norm_eval=True, frozen_stages=1)
    invariant = {e.name for e in find_scale_invariant(model) if e.invariant}
    assert invariant == convolutions(model, 'backbone', *HEADS)


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
