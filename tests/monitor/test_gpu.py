"""What only a GPU can show: nothing waits for it, and its sums are right."""

import copy

import numpy as np
import pytest
import torch
from processes import assert_equal_but_for_rounding
from torch import distributed as dist
from torch import nn
from truth import OF_SGD, Truth, assert_window_equals, batch, small_net, weights_of
from versions import needs_torch

from smd_mmdet import SphericalMotionMonitor
from smd_mmdet.monitor.kernels import gpu, gram
from smd_mmdet.monitor.transfers import Download, Upload

DEVICE = 'cuda'
pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason='there is no GPU that torch sees'
)


@pytest.fixture
def no_synchronization():
    """Any call that waits for the device raises, from a first step on."""

    def switch(on):
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode('error' if on else 'default')

    yield switch
    torch.cuda.set_sync_debug_mode('default')


def test_the_guard_itself_sees_a_synchronization(no_synchronization):
    no_synchronization(True)
    with pytest.raises(RuntimeError, match='synchronizing'):
        torch.ones(1, device='cuda').item()


MAKE = {
    'SGD': lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
    'fused SGD': lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    'AdamW': lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.1),
    'fused AdamW': lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
}


@pytest.mark.parametrize('triton', [True, False], ids=['triton', 'torch'])
@pytest.mark.parametrize('granularity', ['layer', 'filter'])
@pytest.mark.parametrize('make', MAKE.values(), ids=MAKE)
def test_no_step_waits_for_the_device(
    make, granularity, triton, no_synchronization, monkeypatch
):
    """Through window ends, blocks, schedules and gradients that are made anew."""
    if not triton:
        monkeypatch.setattr(gpu, '_fault', RuntimeError('switched off'))
    net = small_net().cuda()
    optimizer = make(net.parameters())
    images = torch.randn(8, 3, 8, 8, device='cuda')
    monitor = SphericalMotionMonitor(
        optimizer, weights_of(net), window=7, granularity=granularity
    )
    seen = []
    for step in range(120):
        no_synchronization(step > 0)
        optimizer.param_groups[0]['lr'] = 1e-3 * (min(step, 20) + 1) / (1 + step // 60)
        optimizer.zero_grad(set_to_none=True)
        net(images).square().mean().backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), 1e-9)
        monitor.note_clipping(norm, 1e-9)
        optimizer.step()
        seen.append(monitor.collect(wait=False))
    no_synchronization(False)
    assert monitor.fault is None
    monitor.end_window()
    seen.append(monitor.collect())
    assert {share for rows in seen for share in rows['clipped_share']} == {1.0}
    assert monitor.iteration == 120


@pytest.mark.parametrize('fused', [False, True])
def test_steps_that_amp_skips_are_not_measured(fused, no_synchronization):
    net = small_net().cuda()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=fused)
    scaler = torch.amp.GradScaler('cuda', init_scale=2.0**10, growth_interval=1000)
    monitor = SphericalMotionMonitor(optimizer, weights_of(net), window=20)
    images = torch.randn(8, 3, 8, 8, device='cuda')
    for step in range(20):
        # The scaler of an optimizer that is not fused reads found_inf on the host.
        no_synchronization(fused and step > 0)
        optimizer.zero_grad()
        with torch.autocast('cuda', dtype=torch.float16):
            loss = net(images).float().square().mean()
        scaler.scale(loss).backward()
        if step in (5, 6):
            net[0].weight.grad.fill_(torch.inf)
        scaler.step(optimizer)
        scaler.update()
    no_synchronization(False)
    monitor.end_window()
    rows = monitor.collect()
    assert rows['count'].tolist() == [18, 18]
    assert np.isfinite(rows['angular_update_max']).all()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_rows_match_float64_recomputation(dtype, layout):
    net = small_net().cuda().to(memory_format=layout)
    params = weights_of(net)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-3
    )
    truth = Truth(optimizer, params)
    monitor = SphericalMotionMonitor(optimizer, params, window=5)
    for _ in range(20):
        optimizer.zero_grad()
        images = torch.randn(8, 3, 8, 8, device='cuda')
        with torch.autocast('cuda', dtype, enabled=dtype is not torch.float32):
            net(images).float().square().mean().backward()
        optimizer.step()
    rows = monitor.collect()
    for layer in params:
        for last in (5, 10, 15, 20):
            steps = slice(last - 5, last)
            assert_window_equals(rows, truth, layer, last, steps, 2e-5)


@pytest.mark.parametrize('make', MAKE.values(), ids=MAKE)
def test_weights_are_bit_identical_with_and_without_monitor(make):
    torch.use_deterministic_algorithms(True, warn_only=True)
    results = []
    try:
        for monitored in (False, True):
            net = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64)).cuda()
            net.load_state_dict(copy.deepcopy(_start()))
            optimizer = make(net.parameters())
            if monitored:
                SphericalMotionMonitor(optimizer, {'w': net[0].weight}, window=3)
            generator = torch.Generator('cuda').manual_seed(0)
            for _ in range(20):
                optimizer.zero_grad()
                batch = torch.randn(16, 64, device='cuda', generator=generator)
                (net(batch) - batch).square().mean().backward()
                optimizer.step()
            results.append(net[0].weight.detach().clone())
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(*results)


def _start():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64)).state_dict()


@pytest.mark.skipif(not gpu.available(), reason='Triton is missing')
def test_the_pass_can_be_captured_in_a_graph():
    layers = [tuple(torch.randn(3, n, device='cuda').unbind()) for n in (5, 40_000)]
    others = [tuple(torch.randn(3, n, device='cuda').unbind()) for n in (5, 40_000)]
    out = torch.zeros(2, 6, dtype=torch.float64, device='cuda')
    gram(layers, out)
    assert gpu.available()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        gram(layers, out)
    for scale in (2.0, 3.0):
        for layer in layers:
            for tensor in layer:
                tensor.mul_(scale)
        expected = torch.empty_like(out)
        gram(layers, expected)
        gram(others, torch.empty_like(out))  # moves the tables of the same sizes
        graph.replay()
        torch.testing.assert_close(out, expected, rtol=0, atol=0)


def test_an_upload_may_be_overwritten_at_once(no_synchronization):
    upload = Upload((1000,), torch.float64, torch.device('cuda'))
    values = torch.empty(1000, dtype=torch.float64)
    seen = []
    no_synchronization(True)
    for i in range(50):
        torch.cuda._sleep(1_000_000)  # keeps the device behind the host
        seen.append(upload.send(values.fill_(i)).clone())
    no_synchronization(False)
    assert [int(x[0]) for x in seen] == list(range(50))
    assert all((x == x[0]).all() for x in seen)


def test_buffers_of_downloads_are_used_again(no_synchronization):
    download = Download((10,), torch.device('cuda'))
    values = torch.arange(10.0, dtype=torch.float64, device='cuda')
    for i in range(20):
        no_synchronization(True)
        copies = [download.send(values + i), download.send(values - i)]
        no_synchronization(False)
        assert all(c.arrived for c in copies)
        assert [c.numpy()[0] for c in copies] == [i, -i]
    assert len(download._free) == 2


@needs_torch(2, 6, 'public fully_shard')
def test_what_is_sharded_is_measured_through_nccl():
    """One process, whose shard is the whole: its rows go the way of shards."""
    dist.init_process_group(
        'nccl' if DEVICE == 'cuda' else 'gloo',
        store=dist.HashStore(), rank=0, world_size=1,
    )  # fmt: skip
    try:
        rows = [measured_sharded(sharded) for sharded in (True, False)]
    finally:
        dist.destroy_process_group()
    assert len(rows[0]['iter']) == 2 * 3
    # cuDNN need not add up in the same order twice.
    assert_equal_but_for_rounding(*rows, OF_SGD)


def measured_sharded(sharded):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    net = small_net().to(DEVICE)
    if sharded:
        fully_shard(net, mesh=init_device_mesh(DEVICE, (1,)))
    optimizer = MAKE['SGD'](net.parameters())
    group = dist.group.WORLD if sharded else None
    monitor = SphericalMotionMonitor(
        optimizer, weights_of(net), window=4, process_group=group
    )
    for step in range(12):
        images, labels = (tensor.to(DEVICE) for tensor in batch(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    monitor.end_window()
    rows = monitor.collect()
    monitor.detach()
    return rows
