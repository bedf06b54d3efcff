"""Sharded training in a plain torch loop: its records, its weights, what is refused."""

import sys
from types import ModuleType

import pytest
import torch
from processes import on_ranks
from versions import needs_torch

from smd_mmdet import SphericalMotionMonitor
from smd_mmdet.monitor.shards import sharded

needs_fully_shard = needs_torch(2, 6, 'public fully_shard')
SHARDED = (
    'trained',
    'mixed',
    'filters',
    'saved',
    'broken',
    'placed',
    'flat',
    'flat_unused',
)


def test_state_and_filters_that_are_dealt_out(tmp_path):
    on_ranks(2, tmp_path, 'zero', 'filters_of_whole', program='torch_shards.py')


@needs_fully_shard
@pytest.mark.parametrize(
    ('world', 'functions'),
    [
        pytest.param(2, (*SHARDED, 'refused', 'documented'), id='2'),
        pytest.param(4, ('placed',), id='4-placed'),
        pytest.param(4, SHARDED, id='4', marks=pytest.mark.slow),
    ],
)
def test_ranks_measure_parts_as_one_measures_the_whole(tmp_path, world, functions):
    on_ranks(world, tmp_path, *functions, program='torch_shards.py')


def test_what_deepspeed_trains_is_refused(monkeypatch):
    """Its classes are of its package, and it marks each parameter that it cuts up."""
    weight = torch.nn.Parameter(torch.ones(2))
    marked = torch.nn.Parameter(torch.ones(2))
    marked.ds_id = 0
    kind = type('DeepSpeedOptimizer', (torch.optim.SGD,), {'__module__': 'deepspeed.x'})
    for optimizer, param in (
        (kind([weight], lr=0.1), weight),
        (torch.optim.SGD([marked], lr=0.1), marked),
    ):
        with pytest.raises(
            ValueError, match=r'DeepSpeed is not measured: .*fully_shard'
        ):
            SphericalMotionMonitor(optimizer, {'weight': param})
    engine = type('DeepSpeedEngine', (), {})
    module = ModuleType('deepspeed')
    module.DeepSpeedEngine = engine
    monkeypatch.setitem(sys.modules, 'deepspeed', module)
    assert sharded([engine()]) == 'DeepSpeed'
