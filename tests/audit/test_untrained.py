"""Models that are built without any download."""

import logging

import pytest
from mmengine.config import Config
from mmengine.model.weight_init import PretrainedInit

from smd_mmdet.audit import build_untrained
from smd_mmdet.audit.untrained import _forget_checkpoints


@pytest.mark.parametrize(
    'kind',
    ['Pretrained', PretrainedInit, 'mmengine.model.weight_init.PretrainedInit'],
)
def test_every_reference_to_trained_weights_is_taken_out(kind):
    pretrained = dict(type=kind, checkpoint='https://host/weights.pth')
    model = dict(
        pretrained='torchvision://resnet50',
        teacher_ckpt='teacher.pth',
        backbone=dict(pretrained=True, init_cfg=dict(pretrained)),
        necks=[dict(init_cfg=[dict(pretrained), dict(type='Xavier', layer='Conv2d')])],
    )
    _forget_checkpoints(model)
    assert 'host' not in str(model) and 'ckpt' not in str(model.values())
    assert model['pretrained'] is None and model['backbone']['pretrained'] is False
    assert model['backbone']['init_cfg'] is None
    nothing, xavier = model['necks'][0]['init_cfg']
    assert nothing == dict(type='Constant', layer=[], val=0)
    assert xavier['type'] == 'Xavier'


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ({}, 'the config has no model'),
        ({'model': {'type': 'NoSuchModel'}}, r'the model cannot be built: .*NoSuch'),
    ],
)
def test_what_cannot_be_built_is_one_line(config, message):
    with pytest.raises(ValueError, match=message) as refused:
        build_untrained(Config(config))
    assert '\n' not in str(refused.value)
    assert logging.root.manager.disable < logging.WARNING
