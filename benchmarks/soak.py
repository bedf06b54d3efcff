"""Whether memory stays flat over a long run: a tiny model, many iterations.

    python benchmarks/soak.py [--iterations 100000]

Windows are written to disk as in a real run; the slope of the resident memory is
fitted over the second half.
"""

import argparse
import tempfile
import time

import numpy as np
import psutil
import torch
from common import machine, table
from torch import nn

from smd_mmdet import SphericalMotionMonitor
from smd_mmdet.records import RecordWriter

SAMPLES = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--iterations', type=int, default=100_000)
    parser.add_argument('--window', type=int, default=50)
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = nn.Sequential(
        nn.Linear(16, 16, bias=False),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 16, bias=False),
        nn.BatchNorm1d(16),
    )
    optimizer = torch.optim.SGD(
        net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3
    )
    weights = {'0.weight': net[0].weight, '3.weight': net[3].weight}
    batch = torch.randn(32, 16)
    every = max(1, args.iterations // SAMPLES)
    seen, memory, process = [], [], psutil.Process()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        writer = RecordWriter(folder, {'theory': 'sgd', 'window': args.window})
        with SphericalMotionMonitor(optimizer, weights, args.window) as monitor:
            for iteration in range(1, args.iterations + 1):
                optimizer.zero_grad()
                (net(batch) - batch).square().mean().backward()
                optimizer.step()
                if monitor.ready:
                    writer.append(monitor.collect(wait=False))
                if iteration % every == 0:
                    seen.append(iteration)
                    memory.append(process.memory_info().rss)
        if monitor.fault is not None:
            raise SystemExit(f'error: monitoring stopped: {monitor.fault}')
    half = len(seen) // 2
    slope = np.polyfit(seen[half:], memory[half:], 1)[0]
    print(machine(), end='\n\n')
    rows = [
        ['iterations', args.iterations],
        ['seconds', f'{time.perf_counter() - begin:.0f}'],
        ['resident memory at the middle, MB', f'{memory[half] / 1e6:.1f}'],
        ['resident memory at the end, MB', f'{memory[-1] / 1e6:.1f}'],
        ['slope over the second half, bytes an iteration', f'{slope:.2f}'],
    ]
    print(table(['soak', ''], rows))


if __name__ == '__main__':
    main()
