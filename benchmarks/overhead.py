"""What measuring costs: training iterations with and without the monitor, in turn.

    python benchmarks/overhead.py [CONFIG] [--pairs N] [--cfg-options KEY=VALUE ...]
    python benchmarks/overhead.py --coco [--size 1333 800] [--amp float16] --pairs 4

Each pair is one iteration with the monitor and one without, in random order, on the
same model and batch; the difference of a pair is free of the machine's slow moods.
Beside it stands the time spent in the monitor itself, which noise cannot hide.
--coco takes Mask R-CNN R50-FPN with train-mode BN, random weights and random images of
COCO's size, so that it needs no data.
"""

import argparse
import itertools
import random
import tempfile
import time

import numpy as np
import torch
from common import ROOT, machine, median_interval, milliseconds, synchronize, table
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from smd_mmdet import SphericalMotionMonitor
from smd_mmdet.engine.launch import load_config

CONFIG = str(ROOT / 'configs/shapes/mask-rcnn_r18_fpn_shapes.py')
COCO = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'


def main():
    parser = argparse.ArgumentParser(description='Cost of measuring an iteration.')
    parser.add_argument('config', nargs='?', default=CONFIG)
    parser.add_argument('--pairs', type=int, default=100)
    parser.add_argument('--warmup', type=int, default=None)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--coco', action='store_true')
    parser.add_argument('--size', type=int, nargs=2, default=[1333, 800])
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--amp', choices=['float16', 'bfloat16'])
    parser.add_argument('--target', help='what is aimed at, for the table')
    parser.add_argument('--cfg-options', nargs='*', default=[])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.warmup is None:
        args.warmup = min(10, max(1, args.pairs // 4))
    changes = dict(option.split('=', 1) for option in args.cfg_options)
    config = load_config(COCO if args.coco else args.config, changes)
    if args.coco:
        train_batch_norm(config)
    if args.amp:
        config.optim_wrapper.update(type='AmpOptimWrapper', dtype=args.amp)
    init_default_scope(config.get('default_scope', 'mmdet'))
    model, wrapper = prepare(config)
    if args.coco:
        batches = itertools.repeat(random_batch(args.batch, args.size))
    else:
        batches = iter(Runner.build_dataloader(config.train_dataloader, seed=0))

    inside: list[float] = []
    times: dict[bool, list[float]] = {True: [], False: []}
    monitor = make_monitor(model, wrapper)
    for pair in range(-args.warmup, args.pairs):
        batch = next(batches)
        for monitored in random.sample([True, False], 2):
            handles = attach(monitor, inside) if monitored else []
            seconds = iterate(model, wrapper, batch)
            for handle in handles:
                handle.remove()
            monitor.detach()
            monitor.collect(wait=False)
            if pair >= 0:
                times[monitored].append(seconds)
    if monitor.fault is not None:
        raise SystemExit(f'error: monitoring stopped: {monitor.fault}')
    print(machine(), end='\n\n')
    print(f'{len(monitor.names)} layers, {args.pairs} pairs of iterations', end='\n\n')
    report(
        np.array(times[True]),
        np.array(times[False]),
        np.array(inside[args.warmup :]),
        args.target,
    )


def train_batch_norm(config):
    """What the COCO config needs for scale-invariant weights, without a download."""
    norm = dict(type='BN', requires_grad=True)
    config.model.backbone.update(
        norm_cfg=norm, norm_eval=False, frozen_stages=-1, init_cfg=None
    )
    config.model.neck.norm_cfg = norm
    config.optim_wrapper.constructor = 'SMDOptimWrapperConstructor'
    # Random weights: at COCO's rate the first losses need not stay finite.
    config.optim_wrapper.optimizer.lr = 1e-5


def random_batch(batch, size):
    from mmdet.testing import demo_mm_inputs

    shape = [3, size[1], size[0]]
    return demo_mm_inputs(batch, [shape] * batch, num_classes=80, with_mask=True)


def prepare(config):
    runner = Runner.from_cfg(with_loops_off(config))
    return runner.model.train(), runner.build_optim_wrapper(config.optim_wrapper)


def with_loops_off(config):
    config = config.copy()
    config.work_dir = tempfile.mkdtemp(prefix='smd_overhead')
    for loop in ('train', 'val', 'test'):
        for part in ('dataloader', 'cfg', 'evaluator'):
            config.pop(f'{loop}_{part}', None)
    config.pop('optim_wrapper')
    config.pop('param_scheduler', None)
    config.pop('auto_scale_lr', None)
    return config


def make_monitor(model, wrapper):
    parameters = dict(model.named_parameters())
    named = {
        entry.name: parameters[entry.name]
        for entry in wrapper.scale_invariance
        if entry.invariant
    }
    monitor = SphericalMotionMonitor(wrapper.optimizer, named, window=50)
    monitor.detach()
    return monitor


def attach(monitor, inside):
    """Attach the monitor between two hooks that take the time.

    On a GPU they wait for it, so that what the monitor queues is in the time as well;
    what is timed around the iteration has that wait in it too.
    """
    begin = []

    def take(then):
        synchronize()
        then(time.perf_counter())

    register = monitor.optimizer.register_step_post_hook
    first = register(lambda *_: take(begin.append))
    monitor.attach()
    last = register(lambda *_: take(lambda now: inside.append(now - begin.pop())))
    return first, last


def iterate(model, wrapper, batch):
    synchronize()
    begin = time.perf_counter()
    model.train_step(batch, wrapper)
    synchronize()
    return time.perf_counter() - begin


def report(with_monitor, without, inside, target):
    base = np.median(without)
    difference, low, high = median_interval(with_monitor - without)
    rows = [
        ['iteration without, median ms', milliseconds(base)],
        ['iteration with, median ms', milliseconds(np.median(with_monitor))],
        [
            'paired difference, median (95 % interval)',
            f'{difference / base:+.2%} ({low / base:+.2%} to {high / base:+.2%})',
        ],
        [
            'inside the monitor, mean ms (share of an iteration)',
            f'{milliseconds(inside.mean())} ({inside.mean() / base:.2%})',
        ],
    ]
    if target:
        rows.append(['target', target])
    print(table(['cost of measuring', ''], rows))


if __name__ == '__main__':
    main()
