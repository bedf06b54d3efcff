"""A ResNet-50 classification loop with and without the monitor; needs no mmcv.

    python benchmarks/classify.py [--pairs N] [--batch N] [--size N] [--amp bfloat16]

Random images; timed as overhead.py does.
"""

import argparse
import contextlib

import torch
from common import machine
from overhead import compare
from torch import nn

from smd_mmdet import SphericalMotionMonitor


class Bottleneck(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = 4 * width
        self.body = nn.Sequential(
            *(nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width)),
            *(nn.ReLU(), nn.Conv2d(width, width, 3, stride, 1, bias=False)),
            *(nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, after, 1, bias=False), nn.BatchNorm2d(after)),
        )
        self.shortcut = nn.Identity()
        if before != after or stride != 1:
            conv = nn.Conv2d(before, after, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(after))

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet50() -> nn.Module:
    """He et al. (2016), the stride in the 3×3 convolutions."""
    stem = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
    layers = [stem, nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    before = 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(blocks):
            stride = 2 if stage and block == 0 else 1
            layers.append(Bottleneck(before, width, stride))
            before = 4 * width
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 1000)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    there = torch.cuda.is_available()
    parser.add_argument('--pairs', type=int, default=100)
    parser.add_argument('--batch', type=int, default=64 if there else 2)
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--amp', choices=['float16', 'bfloat16'])
    parser.add_argument('--channels-last', action='store_true')
    parser.add_argument('--target', default='at most 0.3 % on a GPU')
    args = parser.parse_args()
    device = 'cuda' if there else 'cpu'
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    model = resnet50().to(device, memory_format=layout).train()
    images = torch.randn(args.batch, 3, args.size, args.size, device=device)
    labels = torch.randint(1000, (args.batch,), device=device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4
    )
    weights = {
        f'{name}.weight': module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    }
    monitor = SphericalMotionMonitor(optimizer, weights, window=50)
    monitor.detach()
    cast = contextlib.nullcontext
    if args.amp:
        dtype = getattr(torch, args.amp)

        def cast():
            return torch.autocast(device, dtype)

    def iterate(_):
        optimizer.zero_grad()
        with cast():
            loss = nn.functional.cross_entropy(model(images).float(), labels)
        (loss * 128).backward() if args.amp == 'float16' else loss.backward()
        optimizer.step()

    cost = compare(monitor, lambda: None, iterate, args.pairs)
    print(machine(), end='\n\n')
    print(f'{len(weights)} layers, {args.pairs} pairs', end='\n\n')
    print(cost.table(args.target))


if __name__ == '__main__':
    main()
