"""What the benchmarks share: layers, interleaved timing, tables, the machine.

Benchmarks are scripts, started as ``python benchmarks/NAME.py``; they import this file
by its bare name.
"""

import argparse
import platform
import random
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
# The packages of this checkout: smd_mmdet, and studies for the tables.
sys.path.insert(0, str(ROOT))

from studies.markdown import table  # noqa: E402

__all__ = [
    'ROOT',
    'Layers',
    'arguments',
    'interleaved',
    'machine',
    'median_interval',
    'milliseconds',
    'plain_read',
    'quickstart_shapes',
    'random_layers',
    'resnet50_shapes',
    'synchronize',
    'table',
    'timed',
]

Layers = list[tuple[Tensor, Tensor, Tensor]]


def resnet50_shapes() -> list[tuple[int, ...]]:
    """The 53 convolution weights of ResNet-50, 23.5 million elements."""
    shapes, before = [(64, 3, 7, 7)], 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(width, before, 1, 1), (width, width, 3, 3)]
            shapes.append((4 * width, width, 1, 1))
            if block == 0:
                shapes.append((4 * width, before, 1, 1))
            before = 4 * width
    return shapes


def quickstart_shapes() -> list[tuple[int, ...]]:
    """The scale-invariant weights of the quickstart's Mask R-CNN."""
    from mmdet.registry import MODELS
    from mmengine.registry import init_default_scope

    from smd_mmdet.config.load import load_config
    from smd_mmdet.invariance import find_scale_invariant

    init_default_scope('mmdet')
    config = load_config(str(ROOT / 'configs/shapes/mask-rcnn_r18_fpn_shapes.py'))
    model = MODELS.build(config.model).train()
    entries = find_scale_invariant(model)
    parameters = dict(model.named_parameters())
    return [tuple(parameters[e.name].shape) for e in entries if e.invariant]


def random_layers(
    shapes: Sequence[tuple[int, ...]],
    device: str = 'cpu',
    dtype: torch.dtype = torch.float32,
) -> Layers:
    """A weight, its gradient and its momentum buffer (w, g, v) of every shape."""
    return [
        tuple(torch.randn(shape, device=device, dtype=dtype) * 0.1 for _ in range(3))
        for shape in shapes
    ]


def plain_read(layers: Layers) -> Callable[[], object]:
    """A function that reads every element once and does next to nothing with it.

    On a GPU it reads one tensor that holds all layers: with a call for each layer the
    calls would be timed.
    """
    if layers[0][0].is_cuda:
        return torch.cat([t.reshape(-1) for layer in layers for t in layer]).sum

    def read() -> None:
        for layer in layers:
            for tensor in layer:
                tensor.sum()

    return read


def arguments(doc: str, rounds: int) -> argparse.ArgumentParser:
    """A parser of what most benchmarks take.

    Args:
        doc: Docstring of the script; its first line describes it.
        rounds: Rounds of measurement by default.
    """
    parser = argparse.ArgumentParser(description=doc.split('\n')[0])
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--rounds', type=int, default=rounds)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    parser.add_argument('--device', default=device)
    return parser


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call, the device's work included."""
    synchronize()
    begin = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - begin


def interleaved(
    ways: dict[str, Callable[[], object]], rounds: int, warmup: int = 3
) -> dict[str, np.ndarray]:
    """Times of all ways in turn, so that slow moods of a machine hit all alike.

    Returns:
        dict: Name to seconds, one of each round, in the same order for all.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(-warmup, rounds):
        for name in random.sample(list(ways), len(ways)):
            seconds = timed(ways[name])
            if i >= 0:
                times[name].append(seconds)
    return {name: np.array(values) for name, values in times.items()}


def median_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Median, and the bounds of its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    samples = np.median(rng.choice(values, (2000, len(values))), axis=1)
    return float(np.median(values)), *np.percentile(samples, [2.5, 97.5]).tolist()


def milliseconds(seconds: float) -> str:
    """Seconds as text in milliseconds."""
    return f'{seconds * 1e3:.3g}'


def machine() -> str:
    """One paragraph: processor, memory, GPU, load and versions."""
    cpu = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith('model name'):
                cpu = line.partition(':')[2].strip()
                break
    gpu = 'no GPU'
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_name()
    versions = []
    for name in ('torch', 'triton', 'numpy', 'mmengine', 'mmcv', 'mmdet'):
        try:
            versions.append(f'{name} {version(name)}')
        except PackageNotFoundError:
            continue
    load = psutil.getloadavg()[0]
    return (
        f'{cpu}, {psutil.cpu_count()} cores, '
        f'{psutil.virtual_memory().total / 2**30:.0f} GiB, {gpu}; Python '
        f'{platform.python_version()}, {", ".join(versions)}; '
        f'{torch.get_num_threads()} threads, load {load:.1f} before it began.'
    )
