"""Data that are not there are named before a run is built."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from launching import ROOT, one_error
from mmdet.datasets import CocoDataset
from mmengine.config import Config

from smd_mmdet.config.errors import SettingError
from smd_mmdet.launch.data_files import check_data_files


@pytest.mark.parametrize(
    ('config', 'says'),
    [
        (
            'shapes/mask-rcnn_r18_fpn_shapes.py',
            'data/shapes/annotations/instances_train.json '
            '(train_dataloader.dataset); draw them: smd shapes data/shapes --train',
        ),
        pytest.param(
            'classification/resnet18_shapes.py',
            'no such folder: data/shapes_cls/train (train_dataloader.dataset); draw '
            'them: smd shapes data/shapes_cls --train 2000 --val 1000 --size 32 '
            '--kind classification',
            marks=pytest.mark.skipif(
                find_spec('mmpretrain') is None, reason='needs MMPretrain'
            ),
        ),
        (
            'retinanet/retinanet_r50_fpn_gn-all_scratch_360k_coco.py',
            'data/coco/annotations/instances_train2017.json '
            '(train_dataloader.dataset); set train_dataloader.dataset.data_root, or '
            'the environment variable COCO_ROOT',
        ),
        (
            'mmdet::yolox/yolox_s_8xb8-300e_coco.py',
            'instances_train2017.json (train_dataloader.dataset.dataset)',
        ),
        (
            'mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py',
            'trainval.txt (train_dataloader.dataset.dataset.datasets.0)',
        ),
    ],
)
def test_a_data_set_that_is_not_there_is_named(
    capsys, monkeypatch, tmp_path, config, says
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('COCO_ROOT', raising=False)
    config = config if '::' in config else ROOT / 'configs' / config
    assert says in one_error(capsys, 'train.py', config)
    assert not (tmp_path / 'work_dirs').exists()
    torch.save({}, 'some.pth')
    # A test run needs the test data only.
    assert '(test_dataloader.' in one_error(capsys, 'test.py', config, 'some.pth')


def data_config(**settings):
    """A config whose training data are one data set of these settings."""
    return Config(
        dict(default_scope='mmdet', train_dataloader=dict(dataset=dict(settings)))
    )


@pytest.mark.parametrize(
    'settings',
    [
        dict(type='CocoDataset', ann_file='s3://bucket/a.json'),
        dict(type='CocoDataset', data_root='https://host/', ann_file='a.json'),
        dict(type='CocoDataset', ann_file='a', backend_args=dict(backend='petrel')),
        dict(type='CocoDataset', ann_file=['a.json', 'b.json']),
        dict(type='CocoDataset', ann_file=''),
        dict(type='NoSuchDataset', ann_file='a.json'),
        # Another's class may do anything with its settings.
        dict(type=Path, ann_file='a.json'),
        dict(type='CIFAR10', data_prefix='none'),
    ],
)
def test_data_that_cannot_be_judged_are_left_to_the_run(settings):
    check_data_files(data_config(**settings), training=True)


@pytest.mark.parametrize(
    'kind', [CocoDataset, 'mmdet.datasets.CocoDataset', 'mmdet.CocoDataset']
)
def test_a_data_set_is_judged_whichever_way_its_class_is_named(kind):
    cfg = data_config(type=kind, data_root='none', ann_file='a.json')
    with pytest.raises(SettingError, match=r'none/a\.json'):
        check_data_files(cfg, training=True)


def test_files_that_are_there_and_loops_that_do_not_run_are_fine(tmp_path):
    (tmp_path / 'a.json').touch()
    cfg = data_config(type='CocoDataset', data_root=str(tmp_path), ann_file='a.json')
    cfg.val_dataloader = dict(dataset=dict(type='CocoDataset', ann_file='none.json'))
    cfg.val_evaluator = [dict(type='CocoMetric', ann_file='none.json')]
    check_data_files(cfg, training=True)
    cfg.val_cfg = dict()
    with pytest.raises(SettingError, match=r'val_dataloader\.dataset'):
        check_data_files(cfg, training=True)
    cfg.pop('val_dataloader')
    with pytest.raises(SettingError, match=r'val_evaluator\.0.*set val_evaluator\.0'):
        check_data_files(cfg, training=True)


def test_only_the_data_of_the_shipped_configs_are_said_to_be_drawn():
    cfg = data_config(type='CocoDataset', data_root='mine/shapes/', ann_file='a.json')
    with pytest.raises(SettingError) as refused:
        check_data_files(cfg, training=True)
    assert str(refused.value) == (
        'no such file: mine/shapes/a.json (train_dataloader.dataset); '
        'set train_dataloader.dataset.data_root'
    )
