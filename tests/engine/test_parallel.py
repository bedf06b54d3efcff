"""Runs that are refused because they are sharded, and consensus of processes."""

from types import SimpleNamespace

import pytest
import ranks
import tiny
import torch
from torch import distributed as dist
from versions import needs_torch

from smd_mmdet.engine import SettingError
from smd_mmdet.engine.parallel import (
    computed_in_main,
    refuse_parts,
    refuse_sharded,
    together,
)
from smd_mmdet.engine.runs import whole_model


@pytest.fixture
def one_process(monkeypatch):
    """A process group of one, as a run under torchrun with one process has."""
    monkeypatch.setenv('LOCAL_RANK', '0')
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def with_fully_shard(net):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    fully_shard(net, mesh=init_device_mesh('cpu', (1,)))
    return torch.optim.SGD(net.parameters(), lr=0.1)


needs_fully_shard = needs_torch(2, 6, 'public fully_shard')
ZERO = {
    'optim_wrapper.optimizer': dict(
        type='ZeroRedundancyOptimizer', optimizer_type='SGD', lr=0.1, _delete_=True
    )
}
FSDP = {
    'model_wrapper_cfg': dict(
        type='MMFullyShardedDataParallel', device_id=torch.device('cpu')
    )
}
CONSTRUCTOR = 'constructor=SMDOptimWrapperConstructor'
REFUSED = {
    'FSDP without a strategy': (
        FSDP,
        'SMDHook',
        r'SMDHook: model_wrapper_cfg.type=MMFullySharded.*train by FlexibleRunner',
    ),
    'FSDP and our constructor': (FSDP, CONSTRUCTOR, f'{CONSTRUCTOR}: FullySharded'),
    'ZeRO and our constructor': (ZERO, CONSTRUCTOR, f'{CONSTRUCTOR}: ZeroRedund'),
    'ZeRO and rescaling': (
        ZERO,
        'SMDRescaleHook',
        r'SMDRescaleHook: optim_wrapper.optimizer.type=ZeroRedund.*: each process has '
        r'.*optim_wrapper.optimizer.type=SGD',
    ),
}


@pytest.mark.parametrize('kind', REFUSED)
def test_what_a_sharded_run_cannot_have_is_refused(
    one_process, tmp_path, monkeypatch, kind
):
    changes, who, message = REFUSED[kind]
    if changes is FSDP and torch.cuda.is_available():
        pytest.skip('torch makes no FSDP of the CPU where there is a GPU')

    def trained(*args, **kwargs):
        raise AssertionError('an iteration was run')

    monkeypatch.setattr(tiny.TinyNet, 'forward', trained)
    config = ranks.parallel_config(tmp_path, **changes)
    config.launcher = 'pytorch'
    if who != CONSTRUCTOR:
        config.optim_wrapper.pop('constructor')
        config.custom_hooks[0] = dict(type=who)
    with pytest.raises(SettingError, match=message):
        ranks.train(config)


@needs_fully_shard
def test_fully_shard_and_strategies_are_refused_by_name(one_process):
    from mmengine._strategy import DeepSpeedStrategy

    net = torch.nn.Sequential(torch.nn.Linear(4, 4))
    optimizer = with_fully_shard(net)
    runner = SimpleNamespace(
        model=net, optim_wrapper=SimpleNamespace(optimizer=optimizer)
    )
    with pytest.raises(SettingError, match=r'Some: 0.weight is sharded by fully_shard'):
        refuse_sharded(runner, 'Some')
    runner.cfg = {}
    with pytest.raises(SettingError, match='give model as a dict'):
        whole_model(runner)
    runner.strategy = DeepSpeedStrategy.__new__(DeepSpeedStrategy)
    with pytest.raises(
        SettingError, match=r'strategy\.type=DeepSpeedStrategy.*leave strategy out'
    ):
        refuse_sharded(runner, 'Some')
    with pytest.raises(
        SettingError, match=r'DeepSpeedStrategy: it steps on flat copies.*FSDPStrategy'
    ):
        refuse_parts(runner, 'SMDHook')
    runner.strategy, optimizer._overlap_with_ddp = None, True
    with pytest.raises(SettingError, match=r'overlap_with_ddp=True: .*leave it out'):
        refuse_parts(runner, 'SMDHook')


# ---------------------------------------------------------------- consensus


def failing():
    raise KeyError('mine')


def test_a_process_alone_has_its_own_faults():
    assert together(lambda: 7, None) == 7
    with pytest.raises(KeyError, match='mine'):
        together(failing, None)


def test_a_fault_in_a_group_names_its_process(one_process):
    assert together(lambda: 7, dist.group.WORLD) == 7
    with pytest.raises(RuntimeError, match=r"^process 0: KeyError: 'mine'$"):
        together(failing, dist.group.WORLD)


def test_what_the_main_process_refuses_is_refused():
    def refuse():
        raise SettingError('no')

    assert computed_in_main(lambda: 7) == 7
    with pytest.raises(SettingError, match='no'):
        computed_in_main(refuse)


def test_rescaling_is_refused_where_parts_are_wrapped_one_by_one(one_process, tmp_path):
    changes = {
        'model_wrapper_cfg': dict(type='MMSeparateDistributedDataParallel'),
        'custom_hooks.0.type': 'SMDRescaleHook',
    }
    config = ranks.parallel_config(tmp_path, **changes)
    del config.custom_hooks[0]['window']
    config.launcher = 'pytorch'
    message = r'^SMDRescaleHook: model_wrapper_cfg.type=MMSep.*: layers is wrapped for'
    with pytest.raises(SettingError, match=message):
        ranks.train(config)
