"""Classes that a config names in any way, or holds."""

import pytest
from mmengine.dataset import RepeatDataset
from mmengine.registry import LOOPS, OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.runner import IterBasedTrainLoop

from smd_mmdet.config.load import load_config
from smd_mmdet.config.shipped import find_config
from smd_mmdet.config.types import class_of, names_class, type_name
from smd_mmdet.engine import SMDOptimWrapperConstructor
from smd_mmdet.plan import plan

NEW_STYLE = """
from mmengine.config import read_base
from mmengine.dataset import RepeatDataset
from mmengine.optim import LinearLR, MultiStepLR, OptimWrapper
from mmengine.runner import {loop}
from torch.optim import SGD

from smd_mmdet.engine import SMDOptimWrapperConstructor, SMDRescaleHook

with read_base():
    from .base import *

optim_wrapper = dict(
    type=OptimWrapper,
    constructor=SMDOptimWrapperConstructor,
    optimizer=dict(type=SGD, lr=0.02, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(scale_invariant_decay_mult=10.0))
param_scheduler = [
    dict(type=LinearLR, start_factor=0.001, by_epoch=False, begin=0, end=50),
    dict(type=MultiStepLR, by_epoch=True, milestones=[2, 3], gamma=0.1)]
train_cfg = dict(type={loop}, {length})
train_dataloader = dict(
    batch_size=2,
    dataset=dict(type=RepeatDataset, times=2, dataset=dict(type='CIFAR10')))
custom_hooks = [dict(type=SMDRescaleHook)]
"""
CLASSES = ('RepeatDataset', 'LinearLR', 'MultiStepLR', 'OptimWrapper', 'SGD')
OURS = ('SMDOptimWrapperConstructor', 'SMDRescaleHook')


def _with_strings(text: str, loop: str) -> str:
    """The same config in the old style."""
    _, _, body = text.partition('with read_base():')
    body = body.replace('    from .base import *', "_base_ = './base.py'")
    for name in (*CLASSES, *OURS, loop):
        for key in ('type', 'constructor'):
            body = body.replace(f'{key}={name}', f'{key}={name!r}')
    return body


LENGTHS = {'EpochBasedTrainLoop': 'max_epochs=4', 'IterBasedTrainLoop': 'max_iters=900'}


@pytest.mark.parametrize('loop', LENGTHS)
def test_a_new_style_config_is_planned_as_its_twin_with_names(loop, tmp_path):
    (tmp_path / 'base.py').write_text('load_from = None\n')
    text = NEW_STYLE.format(loop=loop, length=LENGTHS[loop])
    (tmp_path / 'new.py').write_text(text)
    (tmp_path / 'old.py').write_text(_with_strings(text, loop))
    new = load_config(str(tmp_path / 'new.py'))
    # As the run writes it into its folder: names with their modules.
    new.dump(str(tmp_path / 'dumped.py'))
    wanted = plan(str(tmp_path / 'old.py')) | dict(config=None)
    assert wanted['weight_decay'] == pytest.approx(1e-3) and wanted['rescales']
    assert plan(new) == wanted
    assert plan(load_config(str(tmp_path / 'dumped.py'))) == wanted


def test_our_configs_are_bases_of_a_new_style_config(tmp_path):
    """One without bases as it is, any other as MMEngine dumps it."""
    ours = load_config('smd_mmdet::mask_rcnn/mask-rcnn_r50_fpn_syncbn-all_1x_coco.py')
    ours.dump(str(tmp_path / 'ours.py'))
    smd = find_config('smd_mmdet::_base_/smd.py')
    (tmp_path / 'smd.py').write_text(smd.read_text('utf-8'), 'utf-8')
    (tmp_path / 'new.py').write_text(
        'from mmengine.config import read_base\n'
        'with read_base():\n'
        '    from .ours import *\n'
        '    from .smd import *\n'
    )
    found = load_config(str(tmp_path / 'new.py'))
    assert found.custom_hooks == [dict(type='SMDHook', window=50)]
    assert plan(found) == plan(ours)


@pytest.fixture
def registered():
    """Subclasses that a user registers."""

    class OwnLoop(IterBasedTrainLoop):
        pass

    class OwnConstructor(SMDOptimWrapperConstructor):
        pass

    LOOPS.register_module(module=OwnLoop)
    OPTIM_WRAPPER_CONSTRUCTORS.register_module(module=OwnConstructor)
    yield OwnLoop, OwnConstructor
    LOOPS.module_dict.pop('OwnLoop')
    OPTIM_WRAPPER_CONSTRUCTORS.module_dict.pop('OwnConstructor')


def test_a_subclass_counts_as_class_and_by_its_name(registered):
    loop, constructor = registered
    for kind in (loop, 'OwnLoop', dict(type=loop), dict(type='OwnLoop')):
        assert names_class(kind, 'IterBasedTrainLoop')
        assert not names_class(kind, 'EpochBasedTrainLoop')
        assert type_name(kind) == 'OwnLoop'
    for kind in (constructor, 'OwnConstructor'):
        assert names_class(kind, 'SMDOptimWrapperConstructor')
        assert names_class(kind, 'DefaultOptimWrapperConstructor')


def test_a_name_is_looked_up_with_and_without_its_module():
    for name in ('RepeatDataset', 'mmengine.dataset.RepeatDataset', RepeatDataset):
        assert class_of(name) is RepeatDataset
    for name in ('NoSuch', 'no_such.NoSuch', 'no.such.NoSuch', '', None, 3, {}):
        assert class_of(name) is None
        assert not names_class(name, 'RepeatDataset')
