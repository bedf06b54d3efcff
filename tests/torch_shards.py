"""What the processes of test_shards.py do: sharded training in a plain torch loop.

RANK=0 WORLD_SIZE=2 ... python tests/torch_shards.py FOLDER FUNCTION ...
"""

import copy
import datetime
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from truth import OF_SGD, Truth, assert_window_equals

from smd_mmdet import SphericalMotionMonitor
from smd_mmdet.monitor.quantities import QUANTITIES

STEPS = 24
OPTIMIZERS = {
    'momentum': lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=5e-3),
    'dampened': lambda p: torch.optim.SGD(
        p, 0.1, momentum=0.9, dampening=0.5, maximize=True
    ),
    'nesterov': lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    'plain': lambda p: torch.optim.SGD(p, 0.1, weight_decay=5e-3),
    'adamw': lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.1),
    'rmsprop': lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.9),
}


class Net(nn.Module):
    """Convolutions whose 7, 3 and 1 filters cannot be dealt out evenly."""

    def __init__(self):
        super().__init__()
        self.a, self.na = nn.Conv2d(3, 7, 3, bias=False), nn.GroupNorm(1, 7)
        self.b, self.nb = nn.Conv2d(7, 3, 3, bias=False), nn.GroupNorm(1, 3)
        self.c, self.nc = nn.Conv2d(3, 1, 3, bias=False), nn.GroupNorm(1, 1)
        self.out = nn.Linear(16, 4)

    def forward(self, x, use_c=True):
        x = self.nb(self.b(self.na(self.a(x)).relu())).relu()
        x = self.nc(self.c(x)) if use_c else x[:, :1, :-2, :-2]
        return self.out(x.flatten(1))


NAMES = ('a.weight', 'out.bias', 'b.weight', 'c.weight', 'na.weight')


def make_net(dtype):
    torch.manual_seed(0)
    net = Net().to(dtype)
    with torch.no_grad():
        net.na.weight += torch.arange(7) / 10
    return net


def batch(step, part=slice(None), dtype=torch.float64):
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(8, 3, 10, 10, generator=generator, dtype=dtype)
    return images[part], (torch.arange(8) % 4)[part]


def fully(net, **settings):
    from torch.distributed.fsdp import fully_shard

    for part in (net.a, net.b):
        fully_shard(part, **settings)
    return fully_shard(net, **settings)


def ddp(net):
    return DistributedDataParallel(net, find_unused_parameters=True)


def mesh_of(*shape):
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh('cpu', shape)


class Training:
    """Each rank takes its part of every batch of 8; alone, it takes all of it."""

    def __init__(self, optimizer='momentum', wrap=None, dtype=torch.float64):
        rank, ranks = dist.get_rank(), dist.get_world_size()
        self.net, self.dtype = make_net(dtype), dtype
        self.part = slice(None) if wrap is None else slice(rank, None, ranks)
        self.model = self.net if wrap is None else wrap(self.net)
        parameters = (
            (name.replace('_fsdp_wrapped_module.', ''), param)
            for name, param in self.model.named_parameters()
        )
        self.named = {name.removeprefix('module.'): p for name, p in parameters}
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.monitors = []

    def monitor(self, window=6, shared=True, **settings):
        monitor = SphericalMotionMonitor(
            self.optimizer,
            {name: self.named[name] for name in NAMES},
            window,
            process_group=dist.new_group() if shared else None,
            **settings,
        )
        self.monitors.append(monitor)
        return monitor

    def step(self, number, clip=1.0):
        """At 7 no rank uses c, at 9 gradients of two batches add up; a drop at 18."""
        self.optimizer.param_groups[0]['lr'] *= 0.1 if number == 18 else 1
        self.optimizer.zero_grad()
        for images in [number, 1000] if number == 9 else [number]:
            x, y = batch(images, self.part, self.dtype)
            loss = nn.functional.cross_entropy(self.model(x, number != 7).float(), y)
            loss.backward()
        if clip:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), clip)
            for monitor in self.monitors:
                monitor.note_clipping(norm, clip)
        self.optimizer.step()

    def run(self, steps=range(STEPS), **settings):
        for number in steps:
            self.step(number, **settings)
        return self

    def weights(self):
        return {name: whole(param) for name, param in self.named.items()}


def whole(tensor):
    tensor = tensor.detach()
    return tensor.full_tensor() if hasattr(tensor, 'full_tensor') else tensor


def end(monitor):
    monitor.end_window()
    return monitor.collect()


def first():
    return dist.get_rank() == 0


def near(rows, expected, rtol=1e-6):
    """That rows tell the same but for the order of sums."""
    assert rows.keys() == expected.keys() and len(rows['iter'])
    for name, want in expected.items():
        if want.dtype == object or name in ('iter', 'count', 'stage'):
            np.testing.assert_array_equal(rows[name], want, err_msg=name)
            continue
        # A cosine that is 0 in truth is 0 up to rounding, and so are a maximum of
        # such, and a variance of numbers that are all the same.
        atol = 1e-6 if 'cosine' in name else 0
        if name.endswith('_var'):
            mean = expected[name.removesuffix('_var') + '_mean']
            atol = 1e-12 * np.nanmax(np.abs(mean), initial=0) ** 2
        np.testing.assert_allclose(
            rows[name], want, rtol, atol, equal_nan=True, err_msg=name
        )


def same(rows, expected):
    assert rows.keys() == expected.keys()
    for name, want in expected.items():
        np.testing.assert_array_equal(rows[name], want, err_msg=name)


def same_weights(one, other):
    for name, weight in one.weights().items():
        assert torch.equal(weight, other.weights()[name]), name


# ------------------------------------------------------------------ fully_shard


def trained(folder):
    """Sharded, on parts of the batches, and on one rank, on whole ones."""
    for optimizer in OPTIMIZERS:
        training = Training(optimizer, fully)
        monitor = training.monitor(50 if optimizer == 'momentum' else 6)
        training.run()
        rows = end(monitor)
        if not first():
            assert len(rows['iter']) == 0
            continue
        alone = Training(optimizer)
        expected = alone.monitor(monitor.window, shared=False)
        alone.run()
        near(rows, end(expected))
        if optimizer == 'momentum':
            assert 0 < np.nanmean(rows['clipped_share']) < 1
        assert rows['shape'][0] == (7, 3, 3, 3)


def mixed(folder):
    """A forward pass in bfloat16; weights are those without the monitor."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32)

    def wrap(net):
        return fully(net, mp_policy=policy)

    for optimizer in ('momentum', 'adamw'):
        training = Training(optimizer, wrap, torch.float32)
        twin = {n: nn.Parameter(whole(training.named[n]).clone()) for n in NAMES}
        replay = OPTIMIZERS[optimizer](twin.values())
        truth = Truth(replay, twin)
        monitor = training.monitor()

        def follow(*_, training=training, twin=twin, replay=replay):
            for name, weight in twin.items():
                grad = training.named[name].grad
                weight.grad = None if grad is None else whole(grad)
            replay.param_groups[0]['lr'] = training.optimizer.param_groups[0]['lr']
            replay.step()

        training.optimizer.register_step_post_hook(follow)
        training.run(clip=None)
        rows = end(monitor)
        if first():
            of_adamw = [q for q in QUANTITIES if q not in ('unit_h', 'momentum_norm')]
            quantities = OF_SGD if optimizer == 'momentum' else of_adamw
            for last in (6, 12, 18, 24):
                steps = slice(last - 6, last)
                for name in ('a.weight', 'b.weight', 'out.bias'):
                    assert_window_equals(
                        rows, truth, name, last, steps, 1e-4, quantities
                    )
        same_weights(Training(optimizer, wrap, torch.float32).run(clip=None), training)


FILTERS = dict(granularity='filter', by_filter=['a.weight', 'b.weight'])


def filters(folder):
    """Filters, some of them on ranks that have none of other layers."""
    for optimizer in ('momentum', 'adamw'):
        training = Training(optimizer, fully)
        monitor = training.monitor(**FILTERS)
        training.run(range(10))
        rows = end(monitor)
        if first():
            alone = Training(optimizer)
            expected = alone.monitor(shared=False, **FILTERS)
            alone.run(range(10))
            near(rows, end(expected))
            assert np.isfinite(rows['angular_update_filter_q95'][0])


def filters_of_whole(folder):
    """Filters shared out among ranks that hold the same; one of them measures alone."""
    for optimizer in ('momentum', 'adamw'):
        training = Training(optimizer, ddp)
        shared, alone = (training.monitor(shared=s, **FILTERS) for s in (True, False))
        training.run(range(10))
        rows = end(shared)
        if first():
            same(rows, end(alone))


def saved(folder):
    """A window under way is saved; shards, and then one process, go on with it."""
    settings = dict(window=13, granularity='filter')
    training = Training('momentum', fully)
    whole_run, cut = training.monitor(**settings), training.monitor(**settings)
    parts, state = [], None
    for number in range(STEPS):
        training.step(number)
        if number == 16:
            if first():
                parts.append(cut.collect(wait=False))
                state = copy.deepcopy(cut.state_dict())
            cut.detach()
            cut = training.monitor(**settings)
            if first():
                cut.load_state_dict(state)
    if first():
        expected = end(whole_run)
        parts.append(end(cut))
        same({k: np.concatenate([p[k] for p in parts]) for k in parts[0]}, expected)
        alone = Training('momentum').run(range(17))
        alone_monitor = alone.monitor(shared=False, **settings)
        alone_monitor.load_state_dict(state)
        alone.run(range(17, STEPS))
        late = expected['iter'] > 13
        near(end(alone_monitor), {k: v[late] for k, v in expected.items()})


def broken(folder):
    """Measuring breaks in one rank, then in another; training ends as without."""
    plain = Training('momentum', fully).run()
    for culprit in range(dist.get_world_size()):
        training = Training('momentum', fully)
        monitor = training.monitor(5)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            for number in range(STEPS):
                if number == 12 and dist.get_rank() == culprit:
                    monitor._reader.tensors = out_of_luck
                training.step(number)
            rows = end(monitor)
        told = [str(w.message) for w in caught if 'monitoring' in str(w.message)]
        assert len(told) == (dist.get_rank() in (0, culprit)), told
        if first():
            assert monitor.fault is not None
            assert set(rows['iter']) <= {5, 10}
        same_weights(training, plain)


def out_of_luck(*_):
    raise RuntimeError('out of luck')


# ------------------------------------------------------------------ DTensors


def placed(folder):
    """Weights laid on a mesh by hand; rank 0 makes its steps before any other does.

    A step asks nothing of other ranks here. So if the monitor waited in one for them,
    rank 0 would wait for ever.
    """
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    ranks = dist.get_world_size()
    line = mesh_of(ranks)
    cases = [(line, [Replicate()]), (line, [Shard(0)]), (line, [Shard(1)])]
    if ranks == 4:  # copies of shards, and a weight cut in both dimensions
        square = mesh_of(2, 2)
        cases += [(square, p) for p in ([Replicate(), Shard(0)], [Shard(0), Shard(1)])]
    for mesh, placements in cases:

        def laid(tensor, mesh=mesh, placements=placements):
            return distribute_tensor(tensor, mesh, placements)

        generator = torch.Generator().manual_seed(1)
        sizes = {'wide': (7, 5), 'one': (1, 6), 'square': (9, 9), 'tall': (30, 2)}
        twin = {
            name: nn.Parameter(torch.randn(size, generator=generator).double())
            for name, size in sizes.items()
        }
        parts = {
            name: nn.Parameter(laid(w.detach().clone())) for name, w in twin.items()
        }
        plain = {'whole': nn.Parameter(torch.ones(3, 3).double())}  # not on the mesh
        twin['whole'] = nn.Parameter(torch.ones(3, 3).double())
        parts |= plain
        grads = [
            {
                name: torch.randn(weight.shape, generator=generator).double() / 10
                for name, weight in twin.items()
            }
            for _ in range(12)
        ]
        of_parts = [
            {n: g if n in plain else laid(g) for n, g in step.items()} for step in grads
        ]
        optimizer = OPTIMIZERS['momentum'](parts.values())
        group = dist.new_group()
        monitor = SphericalMotionMonitor(optimizer, parts, 12, process_group=group)
        store = dist.PrefixStore(
            str(placements), dist.distributed_c10d._get_default_store()
        )
        if not first():
            store.wait(['stepped'], datetime.timedelta(seconds=60))
        for step in of_parts:
            for name, grad in step.items():
                parts[name].grad = grad
            optimizer.step()
        store.set('stepped', '1')
        rows = end(monitor)
        if first():
            alone = OPTIMIZERS['momentum'](twin.values())
            expected = SphericalMotionMonitor(alone, twin, 12)
            truth = Truth(alone, twin)
            for step in grads:
                for name, grad in step.items():
                    twin[name].grad = grad
                alone.step()
            near(rows, end(expected))
            for name in twin:
                assert_window_equals(rows, truth, name, 12, slice(12), 1e-9)


# ------------------------------------------------------------------ others


def zero(folder):
    """State on one rank each; everything is to the bit what it is without."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    kinds = {
        'momentum': (torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=5e-3)),
        'adamw': (torch.optim.AdamW, dict(lr=1e-2, weight_decay=0.1)),
    }

    for name, (kind, settings) in kinds.items():
        training = Training(name, ddp)
        training.optimizer = ZeroRedundancyOptimizer(
            training.model.parameters(), kind, **settings
        )
        monitor = training.monitor()
        assert monitor.theory == {'momentum': 'sgd', 'adamw': 'adamw'}[name]
        training.run()
        plain = Training(name, ddp)
        expected = plain.monitor(shared=False)
        plain.run()
        same_weights(training, plain)
        rows = end(monitor)
        if first():
            same(rows, end(expected))
    zero_followed(kinds)


def zero_followed(kinds):
    """Another optimizer takes the place of the first, and deals out otherwise."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    dealt, plain = Training('momentum', ddp), Training('momentum', ddp)
    kind, settings = kinds['momentum']
    dealt.optimizer = ZeroRedundancyOptimizer(
        dealt.model.parameters(), kind, **settings
    )
    monitor, expected = dealt.monitor(), plain.monitor(shared=False)
    for training in (dealt, plain):
        training.run(range(9))
    kind, settings = kinds['adamw']
    groups = [[p] for p in dealt.model.parameters()]
    dealt.optimizer = ZeroRedundancyOptimizer(
        [{'params': group} for group in reversed(groups)], kind, **settings
    )
    plain.optimizer = OPTIMIZERS['adamw'](plain.model.parameters())
    before = monitor._own
    monitor.follow(dealt.optimizer)
    assert monitor._own != before
    expected.follow(plain.optimizer)
    for training in (dealt, plain):
        training.run(range(9, 15))
    same_weights(dealt, plain)
    rows = end(monitor)
    if first():
        same(rows, end(expected))


def flat(folder):
    """FullyShardedDataParallel with the parameters as the user made them."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    def wrap(net):
        cpu = torch.device('cpu')
        return FullyShardedDataParallel(net, use_orig_params=True, device_id=cpu)

    shapes = {name: p.shape for name, p in make_net(torch.float64).named_parameters()}
    for optimizer in ('momentum', 'adamw'):
        training = Training(optimizer, wrap)
        monitor = training.monitor(shapes=shapes)
        # Its own clipping wants float32; it gives what nobody used a gradient of 0.
        how = dict(steps=range(7), clip=None)
        training.run(**how)
        rows = end(monitor)
        if first():
            alone = Training(optimizer)
            expected = alone.monitor(shared=False)
            alone.run(**how)
            near(rows, end(expected))


def flat_unused(folder):
    """A unit that no rank uses in a step, and of whose bias rank 0 has nothing."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    def unit(net):
        cpu = torch.device('cpu')
        return FullyShardedDataParallel(net, use_orig_params=True, device_id=cpu)

    torch.manual_seed(0)
    used, seldom = (unit(nn.Linear(6, 6)) for _ in range(2))
    units = {'used': used, 'seldom': seldom}
    named = {
        f'{name}.{short}': getattr(net, short)
        for name, net in units.items()
        for short in ('weight', 'bias')
    }
    assert (named['seldom.bias'].numel() == 0) == first() or dist.get_world_size() > 2
    shapes = {name: (6, 6) if 'weight' in name else (6,) for name in named}
    optimizer = OPTIMIZERS['momentum'](named.values())
    group = dist.new_group()
    monitor = SphericalMotionMonitor(
        optimizer, named, process_group=group, shapes=shapes
    )
    for number in range(4):
        optimizer.zero_grad()
        x = used(torch.ones(2, 6))
        (seldom(x) if number != 2 else x).square().mean().backward()
        optimizer.step()
    rows = end(monitor)
    if first():
        at = {n: (rows['iter'] == 3) & (rows['layer'] == n) for n in named}
        assert rows['count'][at['seldom.weight']] == 0
        assert np.isnan(rows['weight_norm_mean'][at['seldom.bias']])
        assert np.isfinite(rows['weight_norm_mean'][at['used.bias']])
        others = rows['iter'] != 3
        assert np.isfinite(rows['weight_norm_mean'][others]).all()


def documented(folder):
    """The example of docs/distributed.md, as it stands there."""
    from torch.distributed.fsdp import fully_shard

    page = Path(__file__).parents[1] / 'docs' / 'distributed.md'
    [program] = re.findall(r'```python\n(.*?)```', page.read_text('utf-8'), re.DOTALL)
    names = {}
    exec(program, names)
    torch.manual_seed(0)
    rows = names['train'](fully_shard, [torch.randn(2, 3, 8, 8) for _ in range(4)])
    assert rows['layer'].tolist() == ['0.weight'] * first()
    assert rows['count'].tolist() == [4] * first()


def refused(folder):
    """What does not add up to the weights."""
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
    from torch.distributed.tensor import DTensor, Partial

    groups = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    training = Training('momentum', fully)
    named = {'a.weight': training.named['a.weight']}
    refuse(training.optimizer, named, 'give process_group, the ranks whose parts')
    mine = dict(process_group=groups[dist.get_rank()])
    refuse(training.optimizer, named, 'lies on the ranks', **mine)

    term = nn.Parameter(
        DTensor.from_local(torch.ones(2), mesh_of(dist.get_world_size()), [Partial()])
    )
    everyone = dict(process_group=dist.new_group())
    optimizer = torch.optim.SGD([term], 0.1)
    refuse(optimizer, {'term': term}, 'terms of a sum do not add up', **everyone)

    def flat(net, **settings):
        cpu = torch.device('cpu')
        return FullyShardedDataParallel(net, device_id=cpu, **settings)

    shapes = {'a.weight': (7, 3, 3, 3)}
    copies = Training(
        'momentum',
        lambda net: flat(
            net, use_orig_params=True, sharding_strategy=ShardingStrategy.NO_SHARD
        ),
    )
    named = {'a.weight': copies.named['a.weight']}
    refuse(
        copies.optimizer, named, 'each must be with one rank', shapes=shapes, **everyone
    )
    refuse(copies.optimizer, named, 'hides the shape', **everyone)
    refuse(
        copies.optimizer,
        named,
        'cuts filters at any element',
        **everyone,
        shapes=shapes | {'a.weight': (7 * dist.get_world_size(), 3, 3, 3)},
        granularity='filter',
    )
    several = Training('momentum', flat)
    [name, *_] = several.named
    named = {name: several.named[name]}
    refuse(several.optimizer, named, 'set use_orig_params=True', **everyone)


def refuse(optimizer, named, said, **settings):
    try:
        SphericalMotionMonitor(optimizer, named, **settings)
    except ValueError as error:
        assert said in str(error), error
    else:
        raise AssertionError(f'not refused: {said}')


if __name__ == '__main__':
    dist.init_process_group('gloo')
    torch.set_num_threads(1)
    for name in sys.argv[2:]:
        globals()[name](sys.argv[1])
        dist.barrier()
    dist.destroy_process_group()
