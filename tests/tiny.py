"""A model and data set small enough to train through MMEngine's Runner in a second."""

import itertools
from pathlib import Path
from typing import ClassVar

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import Dataset

import smd_mmdet  # noqa: F401  # as custom_imports of a config file does
from smd_mmdet.records import read_records

_runs = itertools.count()
SCALE_INVARIANT = ['layers.0.weight', 'layers.3.weight']


@MODELS.register_module(force=True)
class TinyNet(BaseModel):
    """Two convolutions with norm and a linear layer, behind MMEngine's interface."""

    def __init__(self, norm='bn'):
        super().__init__()
        norms = {'bn': nn.BatchNorm2d, 'gn': lambda channels: nn.GroupNorm(2, channels)}
        norm_of = norms.get(norm, nn.Identity)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False),
            norm_of(8),
            nn.ReLU(),
            nn.Conv2d(8, 6, 3, bias=False),
            norm_of(6),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 4),
        )

    def forward(self, images, labels, mode='tensor'):
        scores = self.layers(images)
        if mode == 'loss':
            return {'loss': nn.functional.cross_entropy(scores, labels)}
        return scores


@DATASETS.register_module(force=True)
class Noise(Dataset):
    """Random images, the same ones whatever the order they are taken in."""

    metainfo: ClassVar[dict] = {}

    def __len__(self):
        return 64

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return torch.randn(3, 8, 8, generator=generator), index % 4


def tiny_config(work_dir, max_iters=60, hook=None, **changes) -> Config:
    """A config for the Runner; ``hook`` are SMDHook's settings, None leaves it out."""
    config = dict(
        default_scope='mmengine',
        custom_imports=dict(imports=['smd_mmdet', 'tiny'], allow_failed_imports=False),
        model=dict(type='TinyNet'),
        train_dataloader=dict(
            batch_size=8,
            num_workers=0,
            collate_fn=dict(type='default_collate'),
            sampler=dict(type='InfiniteSampler', shuffle=True, seed=0),
            dataset=dict(type='Noise'),
        ),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=max_iters),
        optim_wrapper=dict(
            constructor='SMDOptimWrapperConstructor',
            optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-3),
        ),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=10),
            dict(
                type='MultiStepLR', by_epoch=False, milestones=[40], gamma=0.1, end=1000
            ),
        ],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=10),
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=25),
        ),
        log_processor=dict(by_epoch=False),
        randomness=dict(seed=0),
        work_dir=str(work_dir),
        # Runs of one name that begin within a second share their log file.
        experiment_name=f'tiny-{next(_runs)}',
    )
    if hook is not None:
        config['custom_hooks'] = [dict(type='SMDHook', **hook)]
    config = Config(config)
    config.merge_from_dict(changes)
    return config


def forget_runs():
    """MMEngine keeps global instances by experiment name; a run begins without them."""
    for kept in (MessageHub, MMLogger, DefaultScope, Visualizer):
        kept._instance_dict.clear()


def train(config, *hooks):
    """Train as a config says, with some hooks more; the run when it is over."""
    forget_runs()
    runner = Runner.from_cfg(config)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return runner


def weights(runner):
    """Copies of weights and buffers by name."""
    return {name: value.clone() for name, value in runner.model.state_dict().items()}


def log_of(runner):
    """What the run told its user."""
    return Path(runner.logger.handlers[1].baseFilename).read_text()


def rows_of(folder):
    """The records of a run, as a table of pandas."""
    return read_records(folder).table.to_pandas()
