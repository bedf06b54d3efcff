"""The audit of a config: what it says, and that its advice works."""

import pytest
import torch
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
