"""Lengths of epochs, against the dataloader that a training builds of the same data."""

import json
from pathlib import Path

import mmdet.datasets  # noqa: F401  # registers the data sets
import pytest
from mmengine.dataset import sampler
from mmengine.registry import DefaultScope
from mmengine.runner import Runner, runner
from schedules import config_of

from smd_mmdet.config.errors import SettingError
from smd_mmdet.datasets import write_shapes
from smd_mmdet.plan import plan

FILE = 'annotations/instances_train.json'
ALL = ['circle', 'square', 'triangle', 'star', 'ring']


@pytest.fixture(scope='module')
def shapes(tmp_path_factory) -> Path:
    """Drawn data with images of many sizes, of which some have no object."""
    folder = tmp_path_factory.mktemp('shapes')
    write_shapes(folder, 31, 1, size=64)
    content = json.loads((folder / FILE).read_text())
    for i, image in enumerate(content['images']):
        image['width'] = 30 + i
    empty = {image['id'] for image in content['images'][::5]}
    kept = [a for a in content['annotations'] if a['image_id'] not in empty]
    content['annotations'] = kept
    (folder / FILE).write_text(json.dumps(content))
    (folder / 'classes.txt').write_text('star\nring\n')
    return folder


def _coco(folder: Path, classes=ALL, kind='CocoDataset', **others) -> dict:
    if isinstance(classes, str) and classes.endswith('.txt'):
        classes = str(folder / classes)
    return dict(
        type=kind,
        data_root=str(folder),
        ann_file=FILE,
        data_prefix=dict(img='train/'),
        metainfo=dict(classes=classes),
        pipeline=[dict(type='LoadImageFromFile')],
        filter_cfg=dict(filter_empty_gt=True),
        **others,
    )


def _around(inner: dict, kind: str, **others) -> dict:
    return dict(type=kind, dataset=inner, **others)


DATA = {
    'every class': _coco,
    'some classes': lambda f: _coco(f, ['star', 'ring']),
    'classes of a file': lambda f: _coco(f, 'classes.txt'),
    'one class as a text': lambda f: _coco(f, 'star'),
    'a class that is not there': lambda f: _coco(f, ['star', 'car']),
    'nothing left out': lambda f: _coco(f) | dict(filter_cfg=None),
    'small ones left out': lambda f: (
        _coco(f) | dict(filter_cfg=dict(filter_empty_gt=True, min_size=40))
    ),
    'test mode': lambda f: _coco(f, test_mode=True),
    'a first few': lambda f: _coco(f, indices=7),
    'the last few': lambda f: _coco(f, indices=-7),
    'more than there are': lambda f: _coco(f, indices=1000),
    'these': lambda f: _coco(f, indices=[1, 1, 3]),
    'repeated': lambda f: _around(_coco(f, ['star']), 'RepeatDataset', times=3),
    'mixed': lambda f: _around(_coco(f, ['star']), 'MultiImageMixDataset', pipeline=[]),
    'balanced': lambda f: _around(_coco(f), 'ClassBalancedDataset', oversample_thr=0.9),
    'balanced and repeated': lambda f: _around(
        _around(_coco(f), 'ClassBalancedDataset', oversample_thr=0.9),
        'RepeatDataset',
        times=2,
    ),
    'joined': lambda f: dict(
        type='ConcatDataset', datasets=[_coco(f), _coco(f, indices=5)]
    ),
    'joined and repeated': lambda f: _around(
        dict(type='ConcatDataset', datasets=[_coco(f, ['star']), _coco(f)]),
        'RepeatDataset',
        times=2,
    ),
    'repeated and joined': lambda f: dict(
        type='ConcatDataset',
        datasets=[
            _around(_coco(f, ['ring'], indices=9), 'RepeatDataset', times=3),
            _around(_coco(f), 'ClassBalancedDataset', oversample_thr=0.9),
        ],
    ),
    'mixed of a repeated one': lambda f: _around(
        _around(_coco(f, ['star']), 'RepeatDataset', times=2),
        'MultiImageMixDataset',
        pipeline=[],
    ),
    # It leaves out images whose objects are all crowds, too.
    'of another kind': lambda f: _coco(f, kind='CityscapesDataset'),
}
LOADERS = {
    'default': dict(sampler=dict(type='DefaultSampler')),
    'drops': dict(sampler=dict(type='DefaultSampler'), drop_last=True),
    'infinite': dict(sampler=dict(type='InfiniteSampler')),
    'fixed': dict(sampler=dict(type='DefaultSampler'), num_batch_per_epoch=5),
    'fixed for all': dict(sampler=dict(type='InfiniteSampler'), num_batch_per_epoch=5),
    'fixed, with a batch sampler': dict(
        sampler=dict(type='DefaultSampler'),
        num_batch_per_epoch=5,
        batch_sampler=dict(type='mmdet.AspectRatioBatchSampler'),
    ),
    'batch sampler': dict(
        sampler=dict(type='DefaultSampler'),
        batch_sampler=dict(type='mmdet.AspectRatioBatchSampler', drop_last=True),
    ),
    'batch of its sampler': dict(
        sampler=dict(type='DefaultSampler'),
        batch_sampler=dict(type='mmdet.AspectRatioBatchSampler', batch_size=2),
    ),
}


def _trained(loader: dict, processes: int, monkeypatch) -> int:
    """The length of the dataloader on the first of some processes."""
    monkeypatch.setattr(sampler, 'get_dist_info', lambda: (0, processes))
    monkeypatch.setattr(runner, 'get_world_size', lambda: processes)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return len(Runner.build_dataloader(loader, seed=0))


def _same(loader: dict, processes: int, monkeypatch) -> None:
    config = config_of([])
    config.default_scope = 'mmdet'
    config.train_dataloader = dict(batch_size=3, num_workers=0) | loader
    wanted = _trained(config.train_dataloader, processes, monkeypatch)
    assert plan(config, gpus=processes)['iters_per_epoch'] == wanted


@pytest.mark.parametrize('name', DATA)
def test_a_data_set_is_as_long_as_in_training(name, shapes, monkeypatch):
    loader = LOADERS['default'] | dict(dataset=DATA[name](shapes))
    _same(loader | dict(batch_size=1), 1, monkeypatch)


@pytest.mark.parametrize('processes', [1, 2])
@pytest.mark.parametrize('name', LOADERS)
def test_an_epoch_is_as_long_as_in_training(name, processes, shapes, monkeypatch):
    _same(LOADERS[name] | dict(dataset=_coco(shapes)), processes, monkeypatch)


def _refused(dataset: dict) -> str:
    config = config_of([])
    config.default_scope = 'mmdet'
    config.train_dataloader.dataset = dataset
    with pytest.raises(SettingError) as raised:
        plan(config)
    return str(raised.value)


def test_images_that_no_class_names_are_not_counted(shapes):
    for classes in (['car', 'dog'], None):  # None: the classes of COCO
        said = _refused(_coco(shapes, classes))
        assert 'no object of the classes' in said and 'metainfo' in said


def test_what_is_wrong_with_a_file_is_told(shapes, tmp_path):
    (tmp_path / 'list.txt').write_text('000001\n')
    text = _coco(tmp_path) | dict(ann_file='list.txt')
    assert 'list.txt is no COCO annotation file' in _refused(text)
    assert 'is not here' in _refused(text | dict(ann_file='nowhere.txt'))
    assert 'NoSuchDataset is not known' in _refused(text | dict(type='NoSuchDataset'))
    other = _coco(shapes, kind='CrowdHumanDataset')
    assert 'CrowdHumanDataset cannot be built' in _refused(other)


PERSON = 'mmdet::faster_rcnn/faster-rcnn_r50-caffe_fpn_ms-1x_coco-person-bicycle-car.py'


def test_some_classes_of_coco_are_not_taken_for_all():
    with pytest.raises(
        SettingError, match=r'some .* \(those with person, bicycle, car'
    ):
        plan(PERSON)
    assert plan(PERSON, iters_per_epoch=4000)['iterations'] == 48_000
