"""What measuring costs: training iterations with and without the monitor, in turn.

    python benchmarks/overhead.py [CONFIG] [--pairs N] [--cfg-options KEY=VALUE ...]

Each pair is one iteration with the monitor and one without, in random order, on the
same model and batch; the difference of a pair is free of the machine's slow moods.
Beside it stands the time spent in the monitor itself, which noise cannot hide.
"""

import argparse
import random
import time

import numpy as np
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from smd_mmdet import SphericalMotionMonitor
from smd_mmdet.engine.launch import load_config

CONFIG = 'configs/shapes/mask-rcnn_r18_fpn_shapes.py'


def main():
    parser = argparse.ArgumentParser(description='Cost of measuring an iteration.')
    parser.add_argument('config', nargs='?', default=CONFIG)
    parser.add_argument('--pairs', type=int, default=100)
    parser.add_argument('--warmup', type=int, default=10)
    parser.add_argument('--cfg-options', nargs='*', default=[])
    args = parser.parse_args()
    changes = dict(option.split('=', 1) for option in args.cfg_options)
    config = load_config(args.config, changes)
    init_default_scope(config.get('default_scope', 'mmdet'))
    model, wrapper, batches = prepare(config)

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
    inside = inside[args.warmup :]
    report(np.array(times[True]), np.array(times[False]), np.array(inside))


def prepare(config):
    runner = Runner.from_cfg(with_loops_off(config))
    model = runner.model.train()
    wrapper = runner.build_optim_wrapper(config.optim_wrapper)
    loader = Runner.build_dataloader(config.train_dataloader, seed=0)
    return model, wrapper, iter(loader)


def with_loops_off(config):
    config = config.copy()
    config.work_dir = config.get('work_dir', '/tmp/smd_overhead')
    for loop in ('train', 'val', 'test'):
        for part in ('dataloader', 'cfg', 'evaluator'):
            config.pop(f'{loop}_{part}', None)
    config.pop('optim_wrapper')
    config.pop('param_scheduler', None)
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
    """Attach the monitor between two hooks that take the time."""
    begin = []
    register = monitor.optimizer.register_step_post_hook
    first = register(lambda *_: begin.append(time.perf_counter()))
    monitor.attach()
    last = register(lambda *_: inside.append(time.perf_counter() - begin.pop()))
    return first, last


def iterate(model, wrapper, batch):
    synchronize()
    begin = time.perf_counter()
    model.train_step(batch, wrapper)
    synchronize()
    return time.perf_counter() - begin


def synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def report(with_monitor, without, inside):
    difference = with_monitor - without
    medians = [
        np.median(np.random.default_rng(i).choice(difference, len(difference)))
        for i in range(2000)
    ]
    low, high = np.percentile(medians, [2.5, 97.5])
    base = np.median(without)
    print(f'iteration without: median {base * 1e3:.2f} ms ({len(without)} pairs)')
    print(f'iteration with:    median {np.median(with_monitor) * 1e3:.2f} ms')
    print(
        f'paired difference: median {np.median(difference) / base:+.2%} of an '
        f'iteration (95 % interval {low / base:+.2%} to {high / base:+.2%})'
    )
    print(
        f'inside the monitor: mean {inside.mean() * 1e3:.3f} ms, '
        f'{inside.mean() / base:.2%} of an iteration'
    )


if __name__ == '__main__':
    main()
