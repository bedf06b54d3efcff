"""Classifiers of MMPretrain, and other models of MMEngine, without detection code."""

import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from tiny import TinyNet
from torch import nn

from smd_mmdet.audit import audit, build_untrained
from smd_mmdet.config import compat
from smd_mmdet.config.load import load_config
from smd_mmdet.datasets import write_shapes
from smd_mmdet.invariance import find_scale_invariant
from smd_mmdet.launch import machine
from smd_mmdet.plan import plan
from smd_mmdet.records import read_records

CONFIGS = 'configs/classification'
mmpretrain = pytest.mark.skipif(
    compat.find_spec('mmpretrain') is None, reason='mmpretrain is not installed'
)
# Libraries' own.
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes(folder, train=40, val=10, size=64, kind='classification')
    return folder


@pytest.fixture(autouse=True, scope='module')
def at_root():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(__file__.rpartition('tests')[0])
        yield


# ------------------------------------------------------------------------- structure


@mmpretrain
@pytest.mark.parametrize(
    'config',
    [
        'mmpretrain::resnet/resnet50_8xb32_in1k.py',
        f'{CONFIGS}/resnet50_90e-rescaled_in1k.py',
    ],
)
def test_every_convolution_of_resnet50_is_scale_invariant(config):
    parameters = {p['name']: p for p in audit(config)['parameters']}
    shapes = {
        name: p.dim()
        for name, p in build_untrained(load_config(config)).named_parameters()
    }
    invariant = {name for name, p in parameters.items() if p['invariant']}
    assert invariant == {name for name, dim in shapes.items() if dim == 4}
    assert len(invariant) == 53
    # The loss itself was observed, and every weight is normalized by its own norm.
    assert not any('judged by' in p['reason'] for p in parameters.values())
    assert parameters['backbone.conv1.weight']['norm'] == 'backbone.bn1'


@mmpretrain
def test_frozen_norms_of_a_classifier_leave_nothing_and_are_named():
    config = load_config('mmpretrain::resnet/resnet18_8xb32_in1k.py')
    config.model.backbone.norm_eval = True
    report = audit(config)
    assert report['summary']['invariant_parameters'] == 0
    assert 'norm_eval=False' in '\n'.join(report['advice'])


@mmpretrain
def test_numbers_agree_with_the_structure_of_a_classifier():
    report = audit(f'{CONFIGS}/resnet18_shapes.py', verify=True)
    proofs = {p['name']: p['proof'] for p in report['parameters'] if p['proof']}
    assert report['contradictions'] == []
    assert sum(proof['verdict'] is True for proof in proofs.values()) == 21
    assert proofs['head.fc.weight']['verdict'] is False


@mmpretrain
def test_a_transformer_gets_images_of_the_size_it_takes():
    config = load_config('mmpretrain::vision_transformer/vit-base-p16_64xb64_in1k.py')
    config.model.backbone.update(arch=_tiny_arch())
    config.model.head.in_channels = 48
    report = audit(config)
    assert report['summary']['parameters'] > 20
    assert not any('judged by' in p['reason'] for p in report['parameters'])


def _tiny_arch() -> dict:
    return dict(embed_dims=48, num_layers=1, num_heads=2, feedforward_channels=96)


def test_a_model_without_a_loss_method_is_observed():
    class Reversed(TinyNet):
        """The order of its modules is not that of its forward pass."""

        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(list(self.layers)[::-1])

        def forward(self, images, labels, mode='tensor'):
            for layer in list(self.layers)[::-1]:
                images = layer(images)
            return {'loss': nn.functional.cross_entropy(images, labels)}

    found = [e.name for e in find_scale_invariant(Reversed()) if e.invariant]
    assert found == ['layers.5.weight', 'layers.8.weight']


def test_a_model_that_takes_no_images_is_judged_by_its_modules():
    class Words(BaseModel):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4))

        def forward(self, words, mode='tensor'):
            return {'loss': self.layers(words['embedded']).sum()}

    entry = find_scale_invariant(Words())[0]
    assert entry.invariant
    assert 'judged by the order of modules alone' in entry.reason


# -------------------------------------------------------------------------- training


@HOOKS.register_module(force=True)
class KeepWeights(Hook):
    """Copies of all convolutions, in float64, after every iteration."""

    def before_train(self, runner):
        self.kept = [self.copy(runner)]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.kept.append(self.copy(runner))

    @staticmethod
    def copy(runner):
        return {
            name: p.detach().double().clone()
            for name, p in runner.model.named_parameters()
            if p.dim() == 4
        }


def shortened(config, pictures, work_dir, size, iterations, batch) -> Config:
    """A config with its data overridden, and a short loop; nothing else."""
    cfg = load_config(f'{CONFIGS}/{config}')
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(size, size)),
        dict(type='PackInputs'),
    ]
    for name, loader in (('train', cfg.train_dataloader), ('val', cfg.val_dataloader)):
        loader.dataset = dict(
            type='CustomDataset',
            data_root=str(pictures),
            data_prefix=name,
            pipeline=pipeline,
        )
        loader.update(batch_size=batch, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.train_cfg = dict(
        type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations
    )
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', by_epoch=False, interval=1000, save_last=False
    )
    cfg.log_processor = dict(by_epoch=False)
    cfg.custom_hooks[0].update(window=1, visualize=False)
    cfg.work_dir = str(work_dir)
    cfg.randomness = dict(seed=0)
    return cfg


def train(cfg: Config) -> Runner:
    machine.prepare(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


@mmpretrain
def test_resnet18_of_the_cifar_config_is_measured_and_rescaled(pictures, tmp_path):
    cfg = shortened('resnet18_200e-rescaled_cifar10.py', pictures, tmp_path, 32, 5, 8)
    cfg.model.backbone.update(stem_channels=8, base_channels=8)
    cfg.model.head.in_channels = 64
    cfg.param_scheduler = dict(type='MultiStepLR', by_epoch=False, milestones=[3])
    cfg.custom_hooks.append(dict(type='KeepWeights', priority='VERY_HIGH'))
    runner = train(cfg)
    kept = next(h for h in runner.hooks if isinstance(h, KeepWeights)).kept
    records = read_records(tmp_path)
    assert sorted(records.layers()) == sorted(kept[0])
    assert len(kept[0]) == 20
    for name, columns in records.by_layer():
        angles = [_angle(a[name], b[name]) for a, b in pairwise(kept)]
        norms = [float(weights[name].norm()) for weights in kept]
        assert len(columns['iter']) == 5
        # Where the rate drops the weights were scaled between two iterations: the
        # norm falls by 10^(-1/4), the direction stays.
        # Stored weights are rounded to float32, the first steps are hardly more.
        close = pytest.approx(angles, rel=1e-4, abs=3e-8)
        assert columns['angular_update_mean'] == close
        drop = columns['weight_norm_mean'][3] / columns['weight_norm_mean'][2]
        assert drop == pytest.approx(norms[4] / norms[3], rel=0.05)
        assert drop == pytest.approx(10**-0.25, rel=0.05)


def _angle(before: torch.Tensor, after: torch.Tensor) -> float:
    a, b = before / before.norm(), after / after.norm()
    return 2 * float(torch.asin((b - a).norm() / 2))


@mmpretrain
def test_resnet50_of_the_imagenet_config_trains_on_small_pictures(pictures, tmp_path):
    cfg = shortened('resnet50_fixed-lr-450k_in1k.py', pictures, tmp_path, 64, 2, 4)
    runner = train(cfg)
    assert runner.optim_wrapper.get_lr()['lr'][0] == 0.2
    records = read_records(tmp_path)
    table = records.table.to_pandas()
    assert len(records.layers()) == 53
    assert 'head.fc.weight' not in records.layers()
    assert (table['count'] == 1).all() and table['iter'].max() == 2
    assert np.isfinite(table['angular_update_mean']).all()


# ------------------------------------------------------------------------------ plan


@mmpretrain
def test_imagenet_in_stages_is_planned_without_the_pictures():
    planned = plan(f'{CONFIGS}/resnet50_90e_in1k.py')
    epoch = -(-1_281_167 // 256)
    lengths = [stage['iterations'] for stage in planned['stages']]
    assert lengths == [30 * epoch, 30 * epoch, 20 * epoch, 10 * epoch]
    angles = [stage['angular_update_eq'] for stage in planned['stages']]
    expected = [np.sqrt(2 * 0.1 * 1e-4 / 10**k / 1.9) for k in range(4)]
    assert angles == pytest.approx(expected, rel=1e-3)


@mmpretrain
@pytest.mark.parametrize(('config', 'iterations'), [('resnet18_200e_cifar10.py', 391)])
def test_the_length_of_an_epoch_is_that_of_the_data_set(config, iterations):
    assert plan(f'{CONFIGS}/{config}')['iters_per_epoch'] == iterations


@mmpretrain
def test_pictures_in_folders_are_counted(pictures, tmp_path):
    cfg = load_config(f'{CONFIGS}/resnet18_200e_cifar10.py')
    data = dict(type='CustomDataset', data_root=str(pictures), data_prefix='train')
    cfg.train_dataloader.update(dataset=data, batch_size=16)
    assert plan(cfg)['iters_per_epoch'] == 3
    data['data_prefix'] = 'nowhere'
    cfg.train_dataloader.dataset = data
    with pytest.raises(ValueError, match=r'nowhere is not here; give --iters-per'):
        plan(cfg)


# ------------------------------------------------------------------------ torchvision


@pytest.fixture
def no_torchvision(monkeypatch):
    """As if torchvision were not installed; whatever comes in its place goes again."""
    kept = {
        n: m for n, m in sys.modules.items() if n.partition('.')[0] == 'torchvision'
    }
    for name in kept:
        del sys.modules[name]
    monkeypatch.setattr(compat, 'find_spec', lambda name: None)
    yield
    for name in filter(_is_torchvision, list(sys.modules)):
        del sys.modules[name]
    sys.modules.update(kept)


def _is_torchvision(name: str) -> bool:
    return name.partition('.')[0] == 'torchvision'


def test_torchvision_is_replaced_for_mmpretrain_only(no_torchvision):
    compat.allow_mmpretrain(Config(dict(default_scope='mmdet')))
    assert 'torchvision' not in sys.modules
    compat.allow_mmpretrain(Config(dict(default_scope='mmpretrain')))
    import torchvision

    class RandomResizedCrop(torchvision.transforms.RandomResizedCrop):
        pass

    with pytest.raises(ImportError, match='RandomResizedCrop needs torchvision'):
        RandomResizedCrop(224)
    with pytest.raises(AttributeError, match='Compose needs torchvision'):
        torchvision.transforms.Compose  # noqa: B018
