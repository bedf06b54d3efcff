"""What a config needs on a machine without GPUs."""

import pytest
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper
from torch import nn

from smd_mmdet.config.errors import SettingError
from smd_mmdet.launch import machine


@pytest.mark.parametrize(
    'kind', ['AmpOptimWrapper', AmpOptimWrapper, 'mmengine.optim.AmpOptimWrapper']
)
def test_mixed_precision_on_the_cpu(monkeypatch, kind):
    monkeypatch.setattr(machine, 'get_device', lambda: 'cpu')
    cfg = Config(dict(optim_wrapper=dict(type=kind)))
    with pytest.raises(SettingError, match=r'optim_wrapper\.type=OptimWrapper'):
        machine.prepare(cfg)
    machine.prepare(cfg, training=False)


@pytest.mark.parametrize('kind', ['SyncBN', 'mmcv.cnn.SyncBN', nn.SyncBatchNorm])
def test_sync_norm_in_cpu_processes(monkeypatch, kind):
    monkeypatch.setattr(machine, 'get_device', lambda: 'cpu')
    norm = dict(type=kind, requires_grad=True)
    cfg = Config(dict(launcher='pytorch', model=dict(neck=dict(norm_cfg=norm))))
    with pytest.raises(SettingError, match=r'model\.neck\.norm_cfg\.type=BN'):
        machine.prepare(cfg)
    # In evaluation mode it needs no other process, nor in a single one.
    monkeypatch.setattr(machine, '_init_cpu_processes', lambda *_: None)
    cfg.model.neck.norm_eval = True
    machine.prepare(cfg)
    cfg = Config(dict(launcher='none', model=dict(neck=dict(norm_cfg=norm))))
    machine.prepare(cfg)
    assert 'model_wrapper_cfg' not in cfg


def test_wrapper_for_the_cpu_keeps_what_the_config_says(monkeypatch):
    monkeypatch.setattr(machine, 'get_device', lambda: 'cpu')
    monkeypatch.setattr(machine, '_init_cpu_processes', lambda *_: None)
    cfg = Config(dict(launcher='pytorch', find_unused_parameters=True))
    machine.prepare(cfg)
    assert cfg.model_wrapper_cfg.find_unused_parameters is True
    assert cfg.model_wrapper_cfg.device_ids is None
    wrapper = dict(type='MMDistributedDataParallel', static_graph=True)
    cfg = Config(dict(launcher='pytorch', model_wrapper_cfg=wrapper))
    machine.prepare(cfg)
    assert cfg.model_wrapper_cfg.static_graph is True
    assert cfg.model_wrapper_cfg.device_ids is None
