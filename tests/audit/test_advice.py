"""Which lines are advised for which parts of a detector."""

import pytest

pytest.importorskip('mmdet')
import mmdet.models  # noqa: F401

from smd_mmdet.audit.advice import advice

RESNET = dict(type='mmdet.ResNet', depth=50, frozen_stages=1)


def advised(**model):
    lines = advice(model)
    return lines[0], [line.strip() for line in lines[3 : lines.index(')')]]


def test_a_frozen_backbone_is_freed():
    why, lines = advised(backbone=RESNET)
    assert lines == [
        'backbone=dict(norm_cfg=norm_cfg, norm_eval=False, frozen_stages=-1),'
    ]
    assert 'norm_eval=True fixes the statistics of the backbone and' in why
    assert 'frozen_stages=1 keeps its first stages from training' in why


def test_only_what_is_wrong_is_changed():
    norm = dict(norm_cfg=dict(type='SyncBN'), norm_eval=False)
    _, lines = advised(backbone=RESNET | norm)
    assert lines == ['backbone=dict(frozen_stages=-1),']


def test_the_detector_of_a_semi_supervised_model_is_found():
    _, lines = advised(detector=dict(roi_head=dict(bbox_head=BOX_HEAD)))
    assert lines == ['detector=dict(roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg))),']


BOX_HEAD = dict(type='mmdet.ConvFCBBoxHead', num_shared_convs=4)


@pytest.mark.parametrize(
    'head', [BOX_HEAD | dict(num_shared_convs=0), dict(type='Shared2FCBBoxHead')]
)
def test_a_head_of_linear_layers_gets_no_norm(head):
    [line] = advice(dict(roi_head=dict(bbox_head=head)))
    assert 'no part of the model takes a norm_cfg' in line


def test_the_advice_is_python():
    lines = advice(dict(backbone=RESNET, roi_head=dict(bbox_head=BOX_HEAD)))
    config = {}
    exec('\n'.join(lines[1 : lines.index(')') + 1]), config)
    norm = dict(type='SyncBN', requires_grad=True)
    assert config['model'] == dict(
        backbone=dict(norm_cfg=norm, norm_eval=False, frozen_stages=-1),
        roi_head=dict(bbox_head=dict(norm_cfg=norm)),
    )
