"""What measuring costs: training iterations with and without the monitor, in turn.

    python benchmarks/overhead.py [CONFIG] [--pairs N] [--cfg-options KEY=VALUE ...]
    python benchmarks/overhead.py --coco [--size 1333 800] [--amp float16] --pairs 4

Each pair is one iteration with the monitor and one without, in random order, on the
same model and batch; the difference of a pair is free of the machine's slow moods.
Beside it stands the time spent in the monitor itself, which noise cannot hide.
On a GPU ten iterations stand for one, and it is waited for only after them, as in
training; what the monitor queues there is timed by the GPU's own clock.
--coco takes Mask R-CNN R50-FPN with train-mode BN, random weights and random images of
COCO's size, so that it needs no data.
"""

import argparse
import itertools
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from common import ROOT, machine, median_interval, milliseconds, table, timed
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from smd_mmdet import SphericalMotionMonitor
from smd_mmdet.config.load import load_config

CONFIG = str(ROOT / 'configs/shapes/mask-rcnn_r18_fpn_shapes.py')
COCO = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'


def main():
    parser = argparse.ArgumentParser(description='Cost of measuring an iteration.')
    parser.add_argument('config', nargs='?', default=CONFIG)
    parser.add_argument('--pairs', type=int, default=100)
    parser.add_argument('--warmup', type=int)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--coco', action='store_true')
    parser.add_argument('--size', type=int, nargs=2, default=[1333, 800])
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--amp', choices=['float16', 'bfloat16'])
    parser.add_argument('--target', help='what is aimed at, for the table')
    parser.add_argument('--cfg-options', nargs='*', default=[])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
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

    monitor = make_monitor(model, wrapper)
    cost = compare(
        monitor,
        lambda: next(batches),
        lambda batch: model.train_step(batch, wrapper),
        args.pairs,
        args.warmup,
    )
    print(machine(), end='\n\n')
    print(f'{len(monitor.names)} layers, {args.pairs} pairs', end='\n\n')
    print(cost.table(args.target))


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


@dataclass
class Cost:
    """Seconds of an iteration.

    Args:
        whole: With the monitor (True) and without: one entry for each pair.
        host: In the monitor, one for each iteration; the GPU is not waited for.
        device: What the monitor queued there, likewise.
    """

    whole: dict[bool, list[float]] = field(
        default_factory=lambda: {True: [], False: []}
    )
    host: list[float] = field(default_factory=list)
    device: list[float] = field(default_factory=list)

    def table(self, target: str | None) -> str:
        """As Markdown."""
        measured, without = (np.array(self.whole[on]) for on in (True, False))
        base = np.median(without)
        difference, low, high = median_interval(measured - without)
        rows = [
            ['iteration without, median ms', milliseconds(base)],
            ['iteration with, median ms', milliseconds(np.median(measured))],
            [
                'paired difference, median (95 % interval)',
                f'{difference / base:+.2%} ({low / base:+.2%} to {high / base:+.2%})',
            ],
        ]
        for where, seconds in (('', self.host), (', on the GPU', self.device)):
            if seconds:
                mean = np.mean(seconds)
                rows.append(
                    [
                        f'inside the monitor{where}, mean ms (share of an iteration)',
                        f'{milliseconds(mean)} ({mean / base:.2%})',
                    ]
                )
        if target:
            rows.append(['target', target])
        return table(['cost of measuring', ''], rows)


def compare(
    monitor: SphericalMotionMonitor,
    load: Callable[[], object],
    iterate: Callable[[object], object],
    pairs: int,
    warmup: int | None = None,
) -> Cost:
    """Time iterations with and without the monitor in turn.

    Args:
        monitor: Detached.
        load: Gives the batch of a pair; it is not timed.
        iterate: An iteration on a batch.
        pairs: How many are timed.
        warmup: Pairs before them.

    Raises:
        SystemExit: If monitoring stopped.
    """
    block = 10 if torch.cuda.is_available() else 1
    if warmup is None:
        warmup = min(10, max(1, pairs // 4))
    cost = Cost()
    for pair in range(-warmup, pairs):
        if pair == 0:
            cost = Cost()
        batch = load()

        def iterations(batch=batch):
            for _ in range(block):
                iterate(batch)
                if monitor.ready:  # as the hook does
                    monitor.collect(wait=False)

        for monitored in random.sample([True, False], 2):
            clock = Clock(monitor) if monitored else None
            cost.whole[monitored].append(timed(iterations) / block)
            if clock:
                host, device = clock.stop()
                cost.host += host
                cost.device += device
    if monitor.fault is not None:
        raise SystemExit(f'error: monitoring stopped: {monitor.fault}')
    return cost


class Clock:
    """Attaches the monitor between two hooks that take the time."""

    def __init__(self, monitor: SphericalMotionMonitor) -> None:
        self._monitor = monitor
        self._times, self._events = [], []
        register = monitor.optimizer.register_step_post_hook
        self._handles = [register(self._take)]
        monitor.attach()
        self._handles.append(register(self._take))

    def _take(self, *_) -> None:
        if torch.cuda.is_available():
            self._events.append(torch.cuda.Event(enable_timing=True))
            self._events[-1].record()
        self._times.append(time.perf_counter())

    def stop(self) -> tuple[list[float], list[float]]:
        """Detach; seconds of each step on the host and on the GPU."""
        for handle in self._handles:
            handle.remove()
        self._monitor.detach()
        host = [b - a for a, b in zip(self._times[::2], self._times[1::2], strict=True)]
        events = zip(self._events[::2], self._events[1::2], strict=True)
        return host, [a.elapsed_time(b) / 1e3 for a, b in events]


if __name__ == '__main__':
    main()
