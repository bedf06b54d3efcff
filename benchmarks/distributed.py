"""What measuring costs each process when it is shared out, and what is exchanged.

    python benchmarks/distributed.py [--world 1 2 4] [--steps N] [--json FILE]

Processes exchange by gloo on this machine. Each holds the convolutions of a ResNet-50
with the same gradients, or its part of each (as fully_shard cuts them), and steps SGD
with momentum; timed are the monitor's own hooks. The processor time of the hook's
thread is given beside the time on the clock, since processes that outnumber the cores
wait for one another. Also measured: the values exchanged in a step, the longest wait
for an exchange, and how long one takes that somebody waits for.

What it would be among 64 and 512 processes is calculated: the size is known, and the
time follows from the number of messages that come one after another.
"""

import argparse
import importlib.util
import json
import math
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
from smd_mmdet.monitor.readers import ROW
from smd_mmdet.monitor.shards import local_of
from smd_mmdet.monitor.sharing import Share

WINDOW = 50
# Seconds from one process to another and bytes a second, as they are usual: between
# GPUs of a machine, and between machines by InfiniBand and by Ethernet (TCP).
LINKS = {
    'NVLink': (3e-6, 200e9),
    'InfiniBand, 200 Gbit/s': (5e-6, 20e9),
    'Ethernet, 25 Gbit/s': (30e-6, 2.5e9),
}
PAPER_RANKS = (8, 64, 512)


def main():
    parser = argparse.ArgumentParser(description='Cost of measuring in each process.')
    parser.add_argument('--world', type=int, nargs='+', default=[1, 2, 4])
    parser.add_argument('--steps', type=int, default=200)
    parser.add_argument('--warmup', type=int, default=20)
    parser.add_argument('--json', type=Path, help='write the figures to this file')
    parser.add_argument('--rank-of', type=Path, help=argparse.SUPPRESS)
    parser.add_argument('--sharded', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank_of:
        measure(args)
        return
    figures = [of_world(world, args) for world in args.world]
    if importlib.util.find_spec('torch.distributed.tensor'):
        worlds = [world for world in args.world if world > 1]
        figures += [of_world(world, args, '--sharded') for world in worlds]
    report(figures)
    on_paper()
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2))


def of_world(world, args, *options):
    """Start the processes; their figures, by rank."""
    with socket.socket() as some:
        some.bind(('127.0.0.1', 0))
        port = str(some.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, '--rank-of', folder]
        command += ['--steps', str(args.steps), '--warmup', str(args.warmup), *options]
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
    kind = 'sharded' if options else 'whole'
    return {'world': world, 'weights': kind, 'ranks': ranks}


def resnet50_weights():
    """Weights of the 53 convolutions of a ResNet-50."""
    generator = torch.Generator().manual_seed(0)
    return {
        f'conv{i}': nn.Parameter(0.05 * torch.randn(shape, generator=generator))
        for i, shape in enumerate(resnet50_shapes())
    }


def part_of(tensor):
    """This process's part of a tensor, as fully_shard cuts it."""
    from torch.distributed.tensor import DTensor, Shard, init_device_mesh

    mesh = init_device_mesh('cpu', (dist.get_world_size(),))
    parts = tensor.chunk(dist.get_world_size())
    rank = dist.get_rank()
    own = parts[rank] if rank < len(parts) else tensor[:0]
    size = dict(shape=tensor.shape, stride=tensor.stride())
    return DTensor.from_local(own.clone(), mesh, [Shard(0)], run_check=False, **size)


def measure(args):
    """One process: time the hooks of a monitor over the steps."""
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    world, rank = dist.get_world_size(), dist.get_rank()
    named = resnet50_weights()
    if args.sharded:
        named = {
            name: nn.Parameter(part_of(weight.detach()))
            for name, weight in named.items()
        }
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
    weights = list(named.values())
    own = local_of([weights[layer] for layer in monitor._own])
    figures = {
        'layers': len(own),
        'elements': sum(weight.numel() for weight in own),
        'clock_ms': 1e3 * float(np.median(clock[args.warmup :])),
        'processor_ms': 1e3 * float(np.median(processor[args.warmup :])),
        'bytes_per_step': share._slots[0].nbytes if share else 0,
        'longest_wait_ms': 1e3 * max(waits, default=0.0),
        'exchange_ms': 1e3 * time_exchange(share) if share else 0.0,
    }
    Path(args.rank_of, f'{rank}.json').write_text(json.dumps(figures))
    if share:
        share.finish()  # what is under way when the group goes can end the process
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


def time_exchange(share, times=100):
    """The median time of an exchange that every process waits for."""
    taken = []
    for _ in range(times):
        dist.barrier()
        begin = time.perf_counter()
        dist.all_reduce(share._slots[0])
        taken.append(time.perf_counter() - begin)
    return float(np.median(taken))


def exchange_time(ranks, size, latency, bandwidth):
    """Seconds of a sum over ranks, in a tree up and down as NCCL does small ones.

    Args:
        ranks: Number of processes.
        size: Bytes of the table.
        latency: Seconds from one process to another.
        bandwidth: Bytes a second.
    """
    return 2 * math.ceil(math.log2(ranks)) * (latency + size / bandwidth)


def ring_time(ranks, size, latency, bandwidth):
    """The same in a ring, as gloo does it, and NCCL for what is large."""
    return 2 * (ranks - 1) * (latency + size / ranks / bandwidth)


def on_paper():
    """The exchange among many processes, beside that of the gradients."""
    shapes = resnet50_shapes()
    step = (len(shapes) + 1) * ROW * 8
    filters = (sum(shape[0] for shape in shapes) + 1) * ROW * 8
    gradients = 4 * sum(math.prod(shape) for shape in shapes)
    rows = [
        [
            name,
            ranks,
            f'{1e6 * exchange_time(ranks, step, *link):.0f}',
            f'{1e6 * ring_time(ranks, step, *link):.0f}',
            f'{1e3 * exchange_time(ranks, filters, *link):.2f}',
            f'{1e3 * ring_time(ranks, gradients, *link):.0f}',
        ]
        for name, link in LINKS.items()
        for ranks in PAPER_RANKS
    ]
    head = ['link', 'processes', 'layers, tree µs', 'layers, ring µs']
    head += ['filters, tree ms', 'gradients, ring ms']
    print(
        f'\nOn paper: {step} bytes a step by layer, {filters} by filter '
        f'({gradients} bytes of gradients); latency and bandwidth are taken as '
        + ', '.join(f'{1e6 * a:g} µs, {b / 1e9:g} GB/s' for a, b in LINKS.values())
        + '.\n'
    )
    print(table(head, rows))


def report(figures):
    head = ['weights', 'processes', 'rank', 'layers', 'M elements', 'wall ms']
    head += ['processor ms', 'bytes a step', 'longest wait ms', 'exchange ms']
    rows = [
        [
            of_world['weights'],
            of_world['world'],
            rank,
            row['layers'],
            f'{row["elements"] / 1e6:.2f}',
            f'{row["clock_ms"]:.2f}',
            f'{row["processor_ms"]:.2f}',
            row['bytes_per_step'],
            f'{row["longest_wait_ms"]:.2f}',
            f'{row["exchange_ms"]:.2f}',
        ]
        for of_world in figures
        for rank, row in enumerate(of_world['ranks'])
    ]
    print(machine(), end='\n\n')
    print(table(head, rows))


if __name__ == '__main__':
    main()
