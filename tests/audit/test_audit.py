"""The audit of a config: what it says, and that its advice works."""

import pytest
import torch
from mmengine.config import Config
from models import config_file


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
    config = Config.fromfile(config_file(name))
    config.merge_from_dict(dict(model=changes['model']))
    result = audit(config)
    invariant = {p['name'] for p in result['parameters'] if p['invariant']}
    convs = {p['name'] for p in result['parameters'] if p['dimensions'] == 4}
    assert invariant == {n for n in convs if 'retina_' not in n}
    assert result['advice'] == []


NEW_STYLE = """
from mmdet.models.backbones import ResNet
from mmengine.config import read_base
from mmengine.model.weight_init import PretrainedInit
from torch.nn import GroupNorm

with read_base():
    from .base import *

model = dict(
    type=ResNet,
    depth=18,
    norm_eval=False,
    norm_cfg=dict(type=GroupNorm, num_groups=4),
    init_cfg=dict(type=PretrainedInit, checkpoint='no/such/weights.pth'))
"""


def test_a_new_style_config_is_audited_as_its_twin_with_names(tmp_path):
    pytest.importorskip('mmcv')
    from smd_mmdet.audit import audit

    (tmp_path / 'base.py').write_text('load_from = None\n')
    (tmp_path / 'new.py').write_text(NEW_STYLE)
    _, _, model = NEW_STYLE.partition('import *')
    names = {'=ResNet': "='mmdet.ResNet'", '=GroupNorm': "='GN'"}
    for kind, name in (names | {'=PretrainedInit': "='Pretrained'"}).items():
        model = model.replace(kind, name)
    (tmp_path / 'old.py').write_text(model)
    new, old = (audit(str(tmp_path / name)) for name in ('new.py', 'old.py'))
    assert new['parameters'] == old['parameters']
    assert old['summary']['invariant_layers'] == 20


def test_options_are_set_before_the_model_is_built():
    pytest.importorskip('mmcv')
    from smd_mmdet.audit import audit

    config = Config(dict(model=dict(type='mmdet.ResNet', depth=18, norm_eval=False)))
    frozen = audit(config, options={'model.norm_eval': True})
    assert frozen['summary']['invariant_layers'] == 0
    assert config.model.norm_eval is False
