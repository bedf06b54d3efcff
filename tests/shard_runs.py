"""What the processes of test_sharded_runs.py do: sharded runs of MMEngine.

RANK=0 WORLD_SIZE=2 ... python tests/shard_runs.py FOLDER FUNCTION ...
"""

import sys
from pathlib import Path

import ranks
import tiny
import torch
from mmengine.hooks import Hook
from mmengine.registry import FUNCTIONS, HOOKS, MODELS
from mmengine.runner import FlexibleRunner
from torch import distributed as dist

from smd_mmdet.engine import SettingError
from smd_mmdet.launch import machine


@MODELS.register_module(force=True)
class TinyDouble(tiny.TinyNet):
    """In float64, where runs differ by less than what they are compared to."""

    def __init__(self):
        super().__init__('gn')
        self.double()

    def forward(self, images, labels, mode='tensor'):
        return super().forward(images.double(), labels, mode)


@HOOKS.register_module(force=True)
class KeepParts(Hook):
    """Writes what each process holds of the weights at the end."""

    def after_train(self, runner):
        parts = [param.detach().clone() for param in runner.model.parameters()]
        torch.save(parts, Path(runner.work_dir, f'rank{runner.rank}.pt'))


def config_of(work_dir, hook=True, **changes):
    """60 iterations of 16 images, or as many as ``max_iters`` says."""
    iterations = changes.pop('max_iters', 60)
    config = ranks.parallel_config(work_dir, hook, **changes)
    config.train_cfg.max_iters = iterations
    config.model = dict(type='TinyDouble')
    config.custom_hooks[-1] = dict(type='KeepParts')
    config.custom_imports.imports = ['smd_mmdet', 'tiny', 'shard_runs']
    return config


def whole_config(work_dir, hook=True, **changes):
    """For FlexibleRunner, as it is without a strategy."""
    config = config_of(work_dir, hook, **changes)
    config.optim_wrapper.pop('constructor')
    config.env_cfg = dict()
    return config


def sharded_config(work_dir, hook=True, wrapper=(), **changes):
    """Sharded by FSDPStrategy, layer by layer and the whole, without a GPU."""
    config = whole_config(work_dir, hook, **changes)
    wrapper = dict(
        type='MMFullyShardedDataParallel',
        device_id=torch.device('cpu'),
        auto_wrap_policy='each_convolution',
    ) | dict(wrapper)
    config.strategy = dict(type='FSDPStrategy', model_wrapper=wrapper)
    return config


@FUNCTIONS.register_module(force=True)
def each_convolution(module, recurse, nonwrapped_numel, **_):
    return recurse or isinstance(module, torch.nn.Conv2d)


def train(config):
    tiny.forget_runs()
    machine.prepare(config)
    runner = FlexibleRunner.from_cfg(config)
    runner.train()
    return runner


def fsdp(folder):
    folder = Path(folder)
    train(sharded_config(folder / 'measured'))
    train(sharded_config(folder / 'plain', hook=False))
    clip = {'optim_wrapper.clip_grad': dict(max_norm=0.3)}
    train(sharded_config(folder / 'clipped', max_iters=30, **clip))


def refused(folder):
    folder = Path(folder)
    for number, (said, make) in enumerate(REFUSED.items()):
        config = make(folder / f'refused{number}')
        try:
            train(config)
        except SettingError as error:
            assert said in str(error), error
        else:
            raise AssertionError(f'not refused: {said}')


def with_hook(work_dir, **settings):
    config = sharded_config(work_dir)
    [hook] = [h for h in config.custom_hooks if h['type'] == 'SMDHook']
    hook.update(settings)
    return config


def with_constructor(work_dir):
    config = sharded_config(work_dir)
    config.optim_wrapper.constructor = 'SMDOptimWrapperConstructor'
    return config


def with_rescaling(work_dir):
    config = sharded_config(work_dir, hook=False)
    config.custom_hooks.append(dict(type='SMDRescaleHook'))
    return config


REFUSED = {
    'strategy.model_wrapper.sharding_strategy=NO_SHARD': lambda work_dir: (
        sharded_config(work_dir, wrapper=dict(sharding_strategy='NO_SHARD'))
    ),
    'set strategy.model_wrapper.use_orig_params=True': lambda work_dir: sharded_config(
        work_dir, wrapper=dict(use_orig_params=False)
    ),
    'SMDHook: granularity=filter': lambda work_dir: with_hook(
        work_dir, granularity='filter'
    ),
    'leave constructor out': with_constructor,
    'SMDRescaleHook: strategy.type=FSDPStrategy: each process has': with_rescaling,
}


def zero(folder):
    """State with one process each, and the same run with whole state."""
    folder = Path(folder)
    for name, settings in {
        'zero': dict(type='ZeroRedundancyOptimizer', optimizer_type='SGD'),
        'whole': dict(type='SGD'),
    }.items():
        settings |= dict(lr=0.1, momentum=0.9, weight_decay=5e-3, _delete_=True)
        config = config_of(folder / name, **{'optim_wrapper.optimizer': settings})
        # MMEngine asks the first process alone for state that all have to tell.
        config.default_hooks.checkpoint.save_optimizer = False
        config.optim_wrapper.pop('constructor')
        ranks.train(config)


if __name__ == '__main__':
    dist.init_process_group('gloo')
    torch.set_num_threads(1)
    for name in sys.argv[2:]:
        globals()[name](sys.argv[1])
        dist.barrier()
    dist.destroy_process_group()
