"""What the processes of test_sharing.py do, in a plain torch loop.

RANK=0 WORLD_SIZE=2 ... python tests/torch_ranks.py FOLDER FUNCTION ...
"""

import copy
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from smd_mmdet import SphericalMotionMonitor

MAX_NORM = 0.5


class Net(nn.Module):
    """Three scale-invariant convolutions, one of them not used in every step."""

    def __init__(self):
        super().__init__()
        self.a, self.na = nn.Conv2d(3, 8, 3, bias=False), nn.GroupNorm(2, 8)
        self.b, self.nb = nn.Conv2d(8, 6, 3, bias=False), nn.GroupNorm(2, 6)
        self.c, self.nc = nn.Conv2d(6, 6, 3, bias=False), nn.GroupNorm(2, 6)
        self.out = nn.Linear(6, 4)

    def forward(self, x, use_c=True):
        x = self.nb(self.b(self.na(self.a(x)).relu())).relu()
        if use_c:
            x = self.nc(self.c(x)).relu()
        return self.out(x.mean((2, 3)))


def batch(step, part=slice(None)):
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(8, 3, 10, 10, generator=generator)
    return images[part], (torch.arange(8) % 4)[part]


OPTIMIZERS = {
    'momentum': lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=5e-3),
    'plain': lambda p: torch.optim.SGD(p, 0.1, weight_decay=5e-3),
    'adamw': lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.1),
    'rmsprop': lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.9),
}


class Training:
    """Data-parallel training: each rank takes its part of every batch of 8."""

    def __init__(self, optimizer='momentum', parallel=True):
        torch.manual_seed(0)
        self.net = Net()
        self.monitors = []  # those that are told of clipping
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.model, self.part = self.net, slice(None)
        if parallel:
            self.model = DistributedDataParallel(self.net, find_unused_parameters=True)
            self.part = slice(self.rank, None, self.ranks)
        self.optimizer = OPTIMIZERS[optimizer](self.net.parameters())
        # A linear weight besides, larger than its neighbours.
        self.named = {
            f'{name}.weight': getattr(self.net, name).weight
            for name in ('a', 'out', 'b', 'c')
        }

    def monitor(self, window, shared=True):
        group = dist.new_group() if shared else None
        monitor = SphericalMotionMonitor(
            self.optimizer, self.named, window, process_group=group
        )
        self.monitors.append(monitor)
        return monitor

    def step(self, number):
        """At 7 no rank uses c, at 9 gradients of two batches add up; a drop at 20."""
        self.optimizer.param_groups[0]['lr'] = 0.01 if number >= 20 else 0.1
        self.optimizer.zero_grad(set_to_none=True)
        for images in [number, 1000] if number == 9 else [number]:
            x, y = batch(images, self.part)
            loss = nn.functional.cross_entropy(self.model(x, number != 7), y)
            loss.backward()
        total_norm = nn.utils.clip_grad_norm_(self.net.parameters(), MAX_NORM)
        for monitor in self.monitors:
            monitor.note_clipping(total_norm, MAX_NORM)
        if number == 7 and self.net.c.weight.grad is not None:
            # DDP leaves zeros of a parameter that no rank used; without it, None.
            self.net.c.weight.grad = None
        self.optimizer.step()


def monitors(folder):
    """Shared and alone, in the same training; then alone on the whole batch."""
    cases = [('momentum', 1), ('momentum', 50), *((name, 6) for name in OPTIMIZERS)]
    for optimizer, window in cases:
        training = Training(optimizer)
        shared = training.monitor(window)
        alone = training.monitor(window, shared=False)
        for number in range(30):
            training.step(number)
        shared.end_window()
        alone.end_window()
        rows = shared.collect()
        if training.rank > 0:
            assert len(rows['iter']) == 0
            continue
        expected = alone.collect()
        assert len(expected['iter']) > 0
        same(rows, expected)
        single = Training(optimizer, parallel=False)
        whole = single.monitor(window, shared=False)
        for number in range(30):
            single.step(number)
        whole.end_window()
        keep(folder, f'{optimizer}_{window}', rows, whole.collect())


def same(rows, expected):
    assert rows.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(rows[name], expected[name], err_msg=name)


def keep(folder, name, rows, whole):
    numbers = [key for key in rows if rows[key].dtype != object]
    both = {f'shared/{key}': rows[key] for key in numbers}
    both |= {f'single/{key}': whole[key] for key in numbers}
    np.savez(Path(folder, f'{name}.npz'), **both)


def scaled(folder):
    """Mixed precision; two steps are left out, for what one rank's gradients are."""
    for fused in (False, True):
        training = Training()
        if fused:
            training.optimizer = torch.optim.SGD(
                training.net.parameters(), 0.1, momentum=0.9, fused=True
            )
        shared, alone = training.monitor(4), training.monitor(4, shared=False)
        scaler = torch.amp.GradScaler('cpu', init_scale=1024.0, growth_interval=5)
        for number in range(14):
            training.optimizer.zero_grad()
            x, y = batch(number, training.part)
            with torch.autocast('cpu', torch.bfloat16):
                loss = nn.functional.cross_entropy(training.model(x).float(), y)
            if number in (3, 8) and training.rank == training.ranks - 1:
                loss = loss * float('inf')
            scaler.scale(loss).backward()
            scaler.step(training.optimizer)
            scaler.update()
        shared.end_window()
        alone.end_window()
        rows = shared.collect()
        if training.rank == 0:
            same(rows, alone.collect())
            assert rows['count'][rows['layer'] == 'a.weight'].sum() == 12
        dist.barrier()


def followed(folder):
    """Another optimizer takes the place of the first; all ranks go on with it."""
    training = Training()
    shared, alone = training.monitor(4), training.monitor(4, shared=False)
    for number in range(20):
        if number == 10:
            parameters = training.net.parameters()
            training.optimizer = torch.optim.AdamW(parameters, 1e-3)
            for monitor in (shared, alone):
                monitor.follow(training.optimizer)
        training.step(number)
    shared.end_window()
    alone.end_window()
    rows = shared.collect()
    if training.rank == 0:
        same(rows, alone.collect())
        assert rows['iter'][::4].tolist() == [4, 8, 10, 14, 18, 20]


def saved(folder):
    """Rank 0 saves a window under way, by itself; another monitor goes on with it."""
    training = Training()
    whole, cut = training.monitor(13), training.monitor(13)
    parts = []
    for number in range(30):
        training.step(number)
        if number == 16:
            state = None
            if training.rank == 0:
                parts.append(cut.collect(wait=False))
                state = copy.deepcopy(cut.state_dict())
            cut.detach()
            cut = training.monitor(13)
            if training.rank == 0:
                cut.load_state_dict(state)
    if training.rank == 0:
        whole.end_window()
        cut.end_window()
        parts.append(cut.collect())
        joined = {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}
        same(joined, whole.collect())


def broken(folder):
    """Measuring breaks in one rank, then in another; training ends as without."""
    plain = Training()
    for number in range(30):
        plain.step(number)
    for culprit in range(dist.get_world_size()):
        training = Training()
        shared = training.monitor(5)
        alone = training.monitor(5, shared=False)
        collected = []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            for number in range(30):
                if number == 12 and training.rank == culprit:
                    shared._reader.tensors = out_of_luck
                training.step(number)
                if training.rank == 0:
                    collected.append(shared.collect(wait=False))
                    if number == 13 and culprit > 0:
                        refused(shared.state_dict)
            if training.rank == 0:
                shared.end_window()
                collected.append(shared.collect())
        told = [
            str(w.message) for w in caught if 'monitoring stopped' in str(w.message)
        ]
        if training.rank == culprit:
            [text] = told
            assert f'iteration 13 in process {culprit}' in text and 'luck' in text
        elif training.rank == 0:
            [text] = told
            assert 'measuring failed in another process' in text
        else:
            assert not told
        if training.rank == 0:
            assert shared.fault is not None
            joined = {
                key: np.concatenate([part[key] for part in collected])
                for key in collected[0]
            }
            # Ten steps, in two windows, were whole before the fault.
            expected = alone.collect()
            before = expected['iter'] <= 10
            same(joined, {key: values[before] for key, values in expected.items()})
        for name, value in plain.net.state_dict().items():
            assert torch.equal(training.net.state_dict()[name], value), name


def out_of_luck():
    raise RuntimeError('out of luck')


def refused(state_dict):
    try:
        state_dict()
    except RuntimeError:
        return
    raise AssertionError('a window with a hole in it was saved')


if __name__ == '__main__':
    dist.init_process_group('gloo')
    torch.set_num_threads(1)
    for name in sys.argv[2:]:
        globals()[name](sys.argv[1])
    dist.barrier()
    dist.destroy_process_group()
