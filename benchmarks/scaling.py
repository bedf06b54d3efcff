"""Cost of the monitor against the number of layers, of parameters and of processes.

    python benchmarks/scaling.py [--threads N] [--rounds N]

A share is what the busiest of several data-parallel processes reads; the exchange of
the rows, a few kilobytes, is not in it.
"""

import numpy as np
import torch
from common import (
    arguments,
    interleaved,
    machine,
    milliseconds,
    plain_read,
    random_layers,
    resnet50_shapes,
    table,
)

from smd_mmdet.monitor.kernels import gram
from smd_mmdet.monitor.sharing import share_out


def pass_over(layers):
    device = layers[0][0].device
    out = torch.empty(len(layers), 6, dtype=torch.float64, device=device)
    return lambda: gram(layers, out)


def times_of(layers, rounds):
    ways = {'gram': pass_over(layers), 'read': plain_read(layers)}
    times = interleaved(ways, rounds)
    ratio = np.median(times['gram'] / times['read'])
    return [milliseconds(np.median(times['gram'])), f'{ratio:.2f}']


def main() -> None:
    args = arguments(__doc__, rounds=20).parse_args()
    torch.set_num_threads(args.threads)
    print(machine(), end='\n\n')
    rows = []
    for layers, size in (
        *((count, 10_000) for count in (1, 10, 100, 1000)),
        *((10, size) for size in (1000, 100_000, 1_000_000)),
    ):
        measured = random_layers([(size,)] * layers, args.device)
        total = f'{layers * size / 1e6:g} M'
        rows.append([layers, total, *times_of(measured, args.rounds)])
    print(table(['layers', 'parameters', 'median ms', 'times a plain read'], rows))
    shapes, rows = resnet50_shapes(), []
    sizes = [int(np.prod(shape)) for shape in shapes]
    for ranks in (1, 2, 4, 8, 16):
        shares = share_out(sizes, ranks)
        busiest = max(shares, key=lambda share: sum(sizes[i] for i in share))
        measured = random_layers([shapes[i] for i in busiest], args.device)
        rows.append([ranks, len(busiest), *times_of(measured, args.rounds)])
    print('\nResNet-50, the layers shared out:\n')
    head = ['processes', 'layers of the busiest', 'median ms', 'times a plain read']
    print(table(head, rows))


if __name__ == '__main__':
    main()
