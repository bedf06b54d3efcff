"""What measuring costs each process when the layers are shared out.

    python benchmarks/distributed.py [--world 1 2 4] [--steps N] [--json FILE]

Processes exchange by gloo on this machine. Each holds the convolutions of a ResNet-50
with the same gradients, and steps SGD with momentum; timed are the monitor's own hooks.
The processor time of the hook's thread is given beside the time on the clock, since
processes that outnumber the cores wait for one another. Also measured: the values
exchanged in a step, and the longest wait for an exchange.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import machine, resnet50_shapes, table
from torch import distributed as dist
from torch import nn

from smd_mmdet import SphericalMotionMonitor
from smd_mmdet.monitor.sharing import Share

WINDOW = 50


def main():
    parser = argparse.ArgumentParser(description='Cost of measuring in each process.')
    parser.add_argument('--world', type=int, nargs='+', default=[1, 2, 4])
    parser.add_argument('--steps', type=int, default=200)
    parser.add_argument('--warmup', type=int, default=20)
    parser.add_argument('--json', type=Path, help='write the figures to this file')
    parser.add_argument('--rank-of', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank_of:
        measure(args)
        return
    figures = [of_world(world, args) for world in args.world]
    report(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2))


def of_world(world, args):
    """Start the processes; their figures, by rank."""
    with socket.socket() as some:
        some.bind(('127.0.0.1', 0))
        port = str(some.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, '--rank-of', folder]
        command += ['--steps', str(args.steps), '--warmup', str(args.warmup)]
        common = dict(WORLD_SIZE=str(world), MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
        processes = [
            subprocess.Popen(command, env=os.environ | common | {'RANK': str(rank)})
            for rank in range(world)
        ]
        if any([process.wait() for process in processes]):
            sys.exit(1)
        ranks = [
            json.loads(Path(folder, f'{rank}.json').read_text())
            for rank in range(world)
        ]
    return {'world': world, 'ranks': ranks}


def resnet50_weights():
    """Weights of the 53 convolutions of a ResNet-50."""
    generator = torch.Generator().manual_seed(0)
    return {
        f'conv{i}': nn.Parameter(0.05 * torch.randn(shape, generator=generator))
        for i, shape in enumerate(resnet50_shapes())
    }


def measure(args):
    """One process: time the hooks of a monitor over the steps."""
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    world, rank = dist.get_world_size(), dist.get_rank()
    named = resnet50_weights()
    for weight in named.values():
        weight.grad = 1e-3 * weight.detach().sign()
    optimizer = torch.optim.SGD(named.values(), 0.01, momentum=0.9, weight_decay=1e-4)
    waits = time_receives()
    begin, clock, processor = [], [], []
    optimizer.register_step_post_hook(lambda *_: begin.append(now()))
    group = dist.group.WORLD if world > 1 else None
    monitor = SphericalMotionMonitor(optimizer, named, WINDOW, process_group=group)

    def end(*_):
        wall, cpu = now()
        clock.append(wall - begin[-1][0])
        processor.append(cpu - begin[-1][1])

    optimizer.register_step_post_hook(end)
    for _ in range(args.warmup + args.steps):
        optimizer.step()
        dist.barrier()  # as the gradients' exchange would
        monitor.collect(wait=False)
    share = monitor._share
    own = share.layers if share else range(len(named))
    sizes = [weight.numel() for weight in named.values()]
    figures = {
        'layers': len(own),
        'elements': sum(sizes[layer] for layer in own),
        'clock_ms': 1e3 * float(np.median(clock[args.warmup :])),
        'processor_ms': 1e3 * float(np.median(processor[args.warmup :])),
        'bytes_per_step': share._slots[0].nbytes if share else 0,
        'longest_wait_ms': 1e3 * max(waits, default=0.0),
    }
    Path(args.rank_of, f'{rank}.json').write_text(json.dumps(figures))
    dist.barrier()
    dist.destroy_process_group()


def now():
    return time.perf_counter(), time.thread_time()


def time_receives():
    """The time that each wait for an exchange took."""
    waits = []
    take = Share._next

    def timed(share):
        begin = time.perf_counter()
        slot = take(share)
        waits.append(time.perf_counter() - begin)
        return slot

    Share._next = timed
    return waits


def report(figures):
    head = ['processes', 'rank', 'layers', 'M elements', 'wall ms', 'processor ms']
    head += ['bytes a step', 'longest wait ms']
    rows = [
        [
            of_world['world'],
            rank,
            row['layers'],
            f'{row["elements"] / 1e6:.2f}',
            f'{row["clock_ms"]:.2f}',
            f'{row["processor_ms"]:.2f}',
            row['bytes_per_step'],
            f'{row["longest_wait_ms"]:.2f}',
        ]
        for of_world in figures
        for rank, row in enumerate(of_world['ranks'])
    ]
    print(machine(), end='\n\n')
    print(table(head, rows))


if __name__ == '__main__':
    main()
