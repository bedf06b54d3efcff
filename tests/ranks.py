"""What the processes of test_distributed.py do: runs of MMEngine, and hooks in them.

RANK=0 WORLD_SIZE=2 ... python tests/ranks.py FOLDER FUNCTION ...
"""

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path

import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, METRICS
from mmengine.runner import Runner
from tiny import forget_runs, tiny_config
from torch import distributed as dist

from smd_mmdet import SphericalMotionMonitor
from smd_mmdet.engine import SettingError, hook
from smd_mmdet.engine.clipping import follow_clipping
from smd_mmdet.launch import machine
from smd_mmdet.records import RecordWriter


@HOOKS.register_module(force=True)
class Strike(Hook):
    """STRIKE='kill 1 37': in process 1, after iteration 37."""

    priority = 'LOWEST'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        what, rank, iteration = os.environ.get('STRIKE', 'no 0 0').split()
        if (runner.rank, runner.iter + 1) != (int(rank), int(iteration)):
            return
        if what == 'kill':
            os.kill(os.getpid(), signal.SIGKILL)
        if what == 'raise':
            raise KeyError('a bug of the user')
        if what == 'break':
            [hook] = [h for h in runner.hooks if type(h).__name__ == 'SMDHook']
            hook._share._reader.tensors = out_of_luck

    def after_train(self, runner):
        state = runner.model.module if runner.distributed else runner.model
        weights = {name: value.clone() for name, value in state.state_dict().items()}
        torch.save(weights, Path(runner.work_dir, f'rank{runner.rank}.pt'))


def out_of_luck(*args):
    raise RuntimeError('out of luck')


def refuse(*args):
    raise SettingError('not this one')


@HOOKS.register_module(force=True)
class Alone(Hook):
    """Process 0 measures by itself besides; records in WORK_DIR/alone."""

    priority = 'LOWEST'

    def before_train(self, runner):
        if runner.rank == 0:
            [hook] = [h for h in runner.hooks if type(h).__name__ == 'SMDHook']
            parameters = dict(runner.model.module.named_parameters())
            self.monitor = SphericalMotionMonitor(
                runner.optim_wrapper.optimizer,
                {name: parameters[name] for name in hook.monitor.names},
                hook.window,
            )
            follow_clipping(runner.optim_wrapper, self.monitor)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.rank == 0:
            self.monitor.iteration = runner.iter

    def after_train(self, runner):
        if runner.rank == 0:
            self.monitor.end_window()
            writer = RecordWriter(Path(runner.work_dir, 'alone'))
            writer.append(self.monitor.collect())
            self.monitor.detach()


# ---------------------------------------------------------------- MMEngine


@METRICS.register_module(force=True)
class Score(BaseMetric):
    """A score that the second validation is best in."""

    validations = 0

    def process(self, batch, outputs):
        self.results.append(len(outputs))

    def compute_metrics(self, results):
        self.validations += 1
        return {'score': -abs(self.validations - 2)}


def train(config):
    forget_runs()
    machine.prepare(config)
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def parallel_config(work_dir, hook=True, norm='gn', **changes):
    """60 iterations of batches of 16, whatever the number of processes."""
    ranks = int(os.environ.get('WORLD_SIZE', 1))
    changes = {'model.norm': norm, 'train_dataloader.batch_size': 16 // ranks} | changes
    config = tiny_config(work_dir, hook=dict(window=10) if hook else None, **changes)
    config.custom_imports.imports = ['smd_mmdet', 'tiny', 'ranks']
    config.custom_hooks = [*config.get('custom_hooks', []), dict(type='Strike')]
    config.launcher = 'none' if ranks == 1 else 'pytorch'
    return config


def by_epoch(config):
    """Epochs of 4 iterations of 16 images; a window spans several."""
    validation = dict(config.train_dataloader)
    validation['sampler'] = dict(type='DefaultSampler', shuffle=False)
    config.merge_from_dict(
        {
            'train_cfg': dict(type='EpochBasedTrainLoop', max_epochs=5, _delete_=True),
            'train_dataloader.sampler': dict(
                type='DefaultSampler', shuffle=True, _delete_=True
            ),
            'val_dataloader': validation,
            'val_cfg': dict(),
            'val_evaluator': dict(type='Score'),
            'default_hooks.checkpoint': dict(
                by_epoch=True, interval=1, save_best='score', rule='greater'
            ),
            'log_processor.by_epoch': True,
        }
    )
    return config


def runs(folder):
    """Runs whose records and weights test_distributed.py compares."""
    folder = Path(folder)
    config = parallel_config(folder / 'whole')
    config.custom_hooks.append(dict(type='Alone'))
    train(config)
    train(parallel_config(folder / 'plain', hook=False))
    train(parallel_config(folder / 'alone_filters', norm='bn', **FILTERS))
    clip_grad = {'optim_wrapper.clip_grad': dict(max_norm=0.3)}
    changes = {'optim_wrapper.accumulative_counts': 4} | clip_grad
    config = parallel_config(folder / 'accumulated', **changes)
    config.custom_hooks.append(dict(type='Alone'))
    train(config)

    config = parallel_config(folder / 'rescaled', **clip_grad)
    config.custom_hooks.append(
        dict(
            type='SMDRescaleHook',
            start_at_equilibrium=dict(measure=10, repeats=1),
        )
    )
    train(config)

    config = parallel_config(folder / 'single', resume=True)
    config.load_from = str(folder / 'single' / 'iter_25.pth')
    train(config)

    train(by_epoch(parallel_config(folder / 'epochs')))
    if dist.get_rank() == 0:
        shutil.copytree(folder / 'epochs', folder / 'epochs_resumed')
    dist.barrier()
    config = by_epoch(parallel_config(folder / 'epochs_resumed', resume=True))
    config.load_from = str(folder / 'epochs_resumed' / 'epoch_3.pth')
    train(config)

    for rank in range(2):
        os.environ['STRIKE'] = f'break {rank} 27'
        train(parallel_config(folder / f'broken{rank}'))


def faults(folder):
    """Runs in which something is wrong in one process, or in the wrapper."""
    folder = Path(folder)
    for name, measured in (('parts', True), ('parts_plain', False)):
        config = parallel_config(folder / name, measured)
        config.model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel')
        train(config)

    for rank, name in ((1, 'scale_invariance_of'), (0, 'proved'), (1, 'filterwise')):
        with replaced(rank, name, out_of_luck):
            train(parallel_config(folder / f'{name}_{rank}'))
    with replaced(1, 'scale_invariance_of', refuse):
        try:
            train(parallel_config(folder / 'refused'))
        except SettingError as error:
            assert str(error) == 'not this one'
        else:
            raise AssertionError('one process has refused, the other has not')


@contextlib.contextmanager
def replaced(rank, name, by):
    """In one process, another function of SMDHook's file."""
    before = getattr(hook, name)
    if dist.get_rank() == rank:
        setattr(hook, name, by)
    yield
    setattr(hook, name, before)


FILTERS = {'custom_hooks.0.granularity': 'filter'}


if __name__ == '__main__':
    dist.init_process_group('gloo')
    torch.set_num_threads(1)
    for name in sys.argv[2:]:
        globals()[name](sys.argv[1])
    dist.barrier()
    dist.destroy_process_group()
