"""On how many processes a config is meant to be trained."""

import pytest
from schedules import config_of
from torch.utils.data import DataLoader, DistributedSampler

from smd_mmdet.config.length import read_length
from smd_mmdet.config.load import load_config

COCO = dict(
    type='CocoDataset',
    ann_file='annotations/instances_train2017.json',
    filter_cfg=dict(filter_empty_gt=True),
)
IMAGES = 117_266


def _epoch(processes: int, batch: int, images: int = IMAGES) -> int:
    """Length of torch's own dataloader on the first of some processes."""
    data = range(images)
    sampler = DistributedSampler(data, num_replicas=processes, rank=0)
    return len(DataLoader(data, batch_size=batch, sampler=sampler))


STOCK = {
    # Its schedule brings a base batch size of 16.
    'rtmdet/rtmdet_s_8xb32-300e_coco.py': (8, 32, IMAGES),
    'retinanet/retinanet_r18_fpn_1xb8-1x_coco.py': (1, 8, IMAGES),
    'yolox/yolox_tiny_8xb8-300e_coco.py': (8, 8, 118_287),
    'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py': (16, 2, 118_287),
    # 32x4d is a backbone's width: the base batch size counts.
    'mask_rcnn/mask-rcnn_x101-32x4d_fpn_1x_coco.py': (8, 2, IMAGES),
}


@pytest.mark.parametrize('name', STOCK)
def test_stock_configs_are_trained_as_their_names_say(name):
    assert read_length(load_config(f'mmdet::{name}')).per_epoch == _epoch(*STOCK[name])


def _read(folder, name: str, text: str, **options):
    file = folder / name
    file.write_text(text)
    return read_length(load_config(str(file), options))


BASED = "_base_ = ['mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py']\n"


def test_the_nearest_name_counts(tmp_path):
    found = _read(tmp_path, 'mine.py', BASED)
    assert found.per_epoch == _epoch(8, 32)
    assert 'as 8xb32 in the name of rtmdet_s_8xb32' in found.assumptions[0]
    found = _read(tmp_path, 'mine_2xb32.py', BASED)
    assert found.per_epoch == _epoch(2, 32)


def test_a_batch_that_the_name_does_not_tell_of_is_said(tmp_path):
    options = {'train_dataloader.batch_size': 8}
    found = _read(tmp_path, 'mine.py', BASED, **options)
    assert found.per_epoch == _epoch(8, 8)
    assert 'though a batch has 8 images now' in found.assumptions[0]


def test_a_batch_as_large_as_that_of_all_processes_is_of_one(tmp_path):
    options = {'train_dataloader.batch_size': 256}
    found = _read(tmp_path, 'mine.py', BASED, **options)
    assert found.per_epoch == _epoch(1, 256)
    assert 'the whole batch of 8xb32' in found.assumptions[0]


def test_a_new_style_config_is_read_like_an_old_one(tmp_path):
    base = load_config('mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py')
    loader = base.train_dataloader.to_dict()
    (tmp_path / 'base_8xb32_300e.py').write_text(
        f'train_dataloader = {loader!r}\n'
        "train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=300)\n"
    )
    text = (
        'from mmengine.config import read_base\n\nwith read_base():\n'
        '    from .base_8xb32_300e import *\n'
    )
    found = _read(tmp_path, 'mine.py', text)
    assert found.per_epoch == _epoch(8, 32)


def test_what_a_base_was_made_for_tells_nothing_of_other_data(tmp_path):
    text = f"{BASED}train_dataloader = dict(dataset=dict(ann_file='my.json'))\n"
    text += "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=9)\n"
    found = _read(tmp_path, 'mine.py', text)
    assert found.assumptions == ('1 training process, for lack of a number',)
    found = _read(tmp_path, 'mine_4xb32.py', text)
    assert found.assumptions[0].startswith('4 training processes, as 4xb32')


def test_without_a_name_the_base_batch_size_counts():
    config = config_of([])
    config.train_dataloader = dict(batch_size=2, dataset=COCO)
    config.auto_scale_lr = dict(base_batch_size=8)
    assert read_length(config).per_epoch == _epoch(4, 2)
    config.pop('auto_scale_lr')
    assert read_length(config).per_epoch == _epoch(1, 2)
