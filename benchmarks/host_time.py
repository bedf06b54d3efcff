"""Host time of a measured step, beside what the pass over the weights takes.

    python benchmarks/host_time.py [--against CHECKOUT] [--rounds N]

The pass is replaced by an empty function, and so is its launch on a GPU, so that what
is left is Python: reading the optimizer, checking tables, and the window's reductions.
A figure is a window's time divided by its steps: of each step of the window the least
time of many windows. --against measures another checkout of this project in the same
process, in turn with this one, and compares the windows of both to the bit.
"""

import argparse
import contextlib
import importlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from common import ROOT, machine, table
from torch import nn

PACKAGE = 'smd_mmdet'
WINDOW = 50
OPTIMIZERS: dict[str, Callable] = {
    'SGD': lambda groups: torch.optim.SGD(
        groups, lr=0.1, momentum=0.9, weight_decay=1e-4
    ),
    'AdamW': lambda groups: torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.05),
}


@dataclass
class Case:
    """What is measured.

    Args:
        optimizer: A name in :data:`OPTIMIZERS`.
        layers: Number of layers.
        groups: Parameter groups; None puts every layer in one of its own.
        clipped: Whether a norm is told before every step, a tensor as torch has it.
        moving: Whether the learning rate changes at every step.
        device: 'cpu' or 'gpu': whose way is taken, on tensors of the CPU.
    """

    optimizer: str = 'SGD'
    layers: int = 53
    groups: int | None = 1
    clipped: bool = False
    moving: bool = False
    device: str = 'cpu'

    def words(self) -> list[str]:
        extra = [f'{self.groups or self.layers} groups'] if self.groups != 1 else []
        extra += ['clipped'] * self.clipped + ['moving rate'] * self.moving
        return [self.device, ', '.join([self.optimizer, *extra]), str(self.layers)]


CASES = [
    Case(),
    Case(layers=153),
    Case(device='gpu'),
    Case(layers=153, device='gpu'),
    Case(groups=None),
    Case(moving=True),
    Case(clipped=True),
    Case(optimizer='AdamW'),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--against', type=Path, metavar='CHECKOUT')
    parser.add_argument('--rounds', type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(), end='\n\n')
    checkouts = {'this': ROOT} | ({'other': args.against} if args.against else {})
    monitors = {name: monitor_of(path.resolve()) for name, path in checkouts.items()}
    if args.against:
        for name in OPTIMIZERS:
            assert_equal_windows(list(monitors.values()), name)
    rows = []
    for case in CASES:
        least = times_of(case, monitors, args.rounds)
        row = [*case.words(), *(f'{least[name] * 1e6:.1f}' for name in checkouts)]
        if args.against:
            row.append(f'{least["this"] / least["other"]:.2f}')
        rows.append(row)
    head = ['way', 'optimizer', 'layers', 'µs a step']
    print(table([*head, *(['other µs', 'ratio'] if args.against else [])], rows))


def monitor_of(checkout: Path) -> SimpleNamespace:
    """The monitor and the kernels of a checkout, beside those loaded before it."""
    for name in [name for name in sys.modules if name.partition('.')[0] == PACKAGE]:
        del sys.modules[name]
    sys.path.insert(0, str(checkout))
    importlib.invalidate_caches()
    try:
        monitor = importlib.import_module(f'{PACKAGE}.monitor')
        kernels = importlib.import_module(f'{PACKAGE}.monitor.kernels')
    finally:
        sys.path.remove(str(checkout))
    found = Path(monitor.__file__).parents[2]
    if found != checkout:
        raise SystemExit(f'error: the monitor of {found} was found, not of {checkout}')
    return SimpleNamespace(Monitor=monitor.SphericalMotionMonitor, kernels=kernels)


# ------------------------------------------------- a step, without the pass


class Loop:
    """Steps as a monitor sees them: two sets of gradients in turn, as if made anew."""

    def __init__(self, case: Case, monitor: SimpleNamespace) -> None:
        torch.manual_seed(0)
        weights = [nn.Parameter(torch.randn(8)) for _ in range(case.layers)]
        groups = [{'params': weights}]
        if case.groups is None:
            groups = [{'params': [weight]} for weight in weights]
        self.optimizer = OPTIMIZERS[case.optimizer](groups)
        self.case, self.weights = case, weights
        self.grads = [[torch.randn(8) for _ in weights] for _ in range(2)]
        self.set_gradients(0)
        self.optimizer.step()  # makes the buffers
        named = {str(i): weight for i, weight in enumerate(weights)}
        self.monitor = monitor.Monitor(self.optimizer, named, window=WINDOW)
        self.monitor.unclipped = not case.clipped
        self.norm = torch.tensor(2.0)

    def set_gradients(self, step: int) -> None:
        for weight, grad in zip(self.weights, self.grads[step % 2], strict=True):
            weight.grad = grad

    def window(self) -> list[float]:
        """Seconds that the monitor takes of each step of a window."""
        seconds = []
        before = list(self.optimizer._optimizer_step_pre_hooks.values())
        after = list(self.optimizer._optimizer_step_post_hooks.values())
        for step in range(WINDOW):
            self.set_gradients(step)
            if self.case.moving:
                for group in self.optimizer.param_groups:
                    group['lr'] *= 0.9999
            begin = time.perf_counter()
            if self.case.clipped:
                self.monitor.note_clipping(self.norm, 1.0)
            for hook in before + after:
                hook(self.optimizer, (), {})
            seconds.append(time.perf_counter() - begin)
        self.monitor.collect(wait=False)  # the next step closes the window
        if self.monitor.fault is not None:
            raise SystemExit(f'error: monitoring stopped: {self.monitor.fault}')
        return seconds


def times_of(
    case: Case, monitors: dict[str, SimpleNamespace], rounds: int
) -> dict[str, float]:
    """Seconds of a step of every checkout, averaged over a window."""
    loops = {name: Loop(case, monitor) for name, monitor in monitors.items()}
    times: dict[str, list[list[float]]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            with without_the_pass(monitors[name].kernels, case.device):
                times[name].append(loop.window())
    return {name: np.min(values, axis=0).mean() for name, values in times.items()}


@contextlib.contextmanager
def without_the_pass(kernels: ModuleType, device: str) -> Iterator[None]:
    """Replace what reads the weights by empty functions."""
    cpu, gpu = kernels.cpu, kernels.gpu
    library = SimpleNamespace(smd_gram=lambda *_: 0)
    launch = _Launch()
    programs = SimpleNamespace(
        chunk_products=launch, row_sums=launch, DTYPES={torch.float32: 0}
    )
    on_gpu = device == 'gpu'
    replaced = [
        (cpu, '_library', lambda: library),
        (cpu, 'supports', lambda _: not on_gpu),
        (gpu, 'supports', lambda _: on_gpu),
        (kernels, 'programs', programs),
    ]
    name = f'{PACKAGE}.monitor.kernels'
    loaded = {name: kernels, f'{name}.programs': programs}
    missing = object()
    modules = {key: sys.modules.get(key) for key in loaded}
    values = [getattr(where, what, missing) for where, what, _ in replaced]
    try:
        sys.modules.update(loaded)
        for where, what, value in replaced:
            setattr(where, what, value)
        yield
    finally:
        for (where, what, _), value in zip(replaced, values, strict=True):
            delattr(where, what) if value is missing else setattr(where, what, value)
        for key, value in modules.items():
            sys.modules.pop(key) if value is None else sys.modules.update({key: value})


class _Launch:
    """Called as a Triton program is, and does nothing."""

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return lambda *_, **__: None


# ------------------------------------------------- the same windows


def assert_equal_windows(monitors: list[SimpleNamespace], optimizer: str) -> None:
    """End the script unless all checkouts measure the same training alike."""
    tables = []
    for monitor in monitors:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 10))
        groups = [{'params': [weight]} for weight in net.parameters()]
        its = OPTIMIZERS[optimizer](groups)
        measured = monitor.Monitor(its, dict(net.named_parameters()), window=WINDOW)
        for step in range(4 * WINDOW):
            net(torch.randn(16, 40)).square().mean().backward()
            if step > 2 * WINDOW:
                norm = nn.utils.clip_grad_norm_(net.parameters(), 0.01)
                measured.note_clipping(norm, 0.01)
            measured.unclipped = step < WINDOW
            its.param_groups[0]['lr'] *= 0.999 if step > 3 * WINDOW else 1
            its.step()
            its.zero_grad()
            if step % 7 == 0:
                net[2].bias.requires_grad_(step % 2 == 0)
        measured.end_window()
        tables.append(measured.collect())
    first, *others = tables
    for other in others:
        for column, values in first.items():
            np.testing.assert_array_equal(values, other[column], err_msg=column)
    print(f'{optimizer}: {len(first["iter"])} rows, the same to the bit', end='\n\n')


if __name__ == '__main__':
    main()
