"""Several processes: measuring together, faults, kills, resumes, launchers."""

import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import ranks
import tiny
import torch
from torch import distributed as dist

from smd_mmdet import SphericalMotionMonitor
from smd_mmdet.engine import SettingError
from smd_mmdet.engine.parallel import refuse_sharded
from smd_mmdet.monitor.quantities import QUANTITIES
from smd_mmdet.monitor.sharing import PER_LAYER, share_out
from smd_mmdet.records import read_records

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
# Of seconds: for a process that waits for another for ever.
TIMEOUT = 240


# Functions of ranks.py that need no run.
PLAIN = ('monitors', 'scaled', 'followed', 'saved', 'broken')


def free_port():
    with socket.socket() as some:
        some.bind(('127.0.0.1', 0))
        return some.getsockname()[1]


def environment(**more):
    """For processes on the CPU: a machine may have fewer GPUs than a test has ranks."""
    paths = [str(ROOT), str(TESTS), os.environ.get('PYTHONPATH', '')]
    fixed = {
        'PYTHONPATH': os.pathsep.join(filter(None, paths)),
        'OMP_NUM_THREADS': '1',
        'CUDA_VISIBLE_DEVICES': '-1',
    }
    return os.environ | fixed | more


def on_ranks(world, folder, *functions):
    """Run functions of ranks.py in so many processes."""
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, TESTS / 'ranks.py', folder, *functions],
            env=environment(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world),
                MASTER_ADDR='127.0.0.1', MASTER_PORT=port,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=TIMEOUT)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes), '\n'.join(outputs)


# ---------------------------------------------------------------- shares


def test_every_rank_has_about_as_much_to_read():
    generator = np.random.default_rng(0)
    for world in (1, 2, 4, 8):
        sizes = (10 ** generator.uniform(2, 6.4, 60)).astype(int).tolist()
        shares = share_out(sizes, world)
        assert sorted(itertools.chain(*shares)) == list(range(60))
        loads = [sum(sizes[i] + PER_LAYER for i in share) for share in shares]
        # Of this greedy rule: no load exceeds the mean by more than the last layer
        # it was given, and that is not above what the mean leaves room for.
        assert max(loads) <= sum(loads) / world + max(sizes) + PER_LAYER
        assert max(loads) <= 4 / 3 * max(sum(loads) / world, max(sizes) + PER_LAYER)


def test_more_ranks_than_layers():
    assert share_out([5, 7], 4) == [[1], [0], [], []]


# ---------------------------------------------------------------- plain torch


KEYS = ('iter', 'count', 'lr', 'weight_decay', 'momentum', 'stage')


def assert_equal_but_for_rounding(rows, expected, quantities):
    """Of float32 training, whose sums were taken in another order."""
    for key in KEYS:
        np.testing.assert_array_equal(rows[key], expected[key], err_msg=key)
    for quantity in quantities:
        key = f'{quantity}_mean'
        tolerance = {'atol': 1e-5} if quantity == 'cosine' else {'rtol': 1e-3}
        np.testing.assert_allclose(
            rows[key], expected[key], **{'rtol': 0, **tolerance}, err_msg=key
        )


@pytest.mark.parametrize(
    'world', [2, pytest.param(4, marks=pytest.mark.slow)]
)  # fmt: skip
def test_ranks_measure_together_what_one_measures_alone(tmp_path, world):
    on_ranks(world, tmp_path, *PLAIN)
    files = sorted(tmp_path.glob('*.npz'))
    assert len(files) == 6
    for file in files:
        both = np.load(file)
        rows, expected = (
            {key.split('/')[1]: both[key] for key in both if key.startswith(which)}
            for which in ('shared', 'single')
        )
        assert_equal_but_for_rounding(rows, expected, QUANTITIES)


# ---------------------------------------------------------------- runs


def table(work_dir):
    return read_records(work_dir).table.to_pandas()


def same_rows(work_dir, expected):
    rows, expected = table(work_dir), table(expected)
    assert list(rows.columns) == list(expected.columns)
    for name in expected.columns:
        for got, want in zip(rows[name], expected[name], strict=True):
            np.testing.assert_array_equal(got, want, err_msg=name)


def same_weights(work_dir, expected, rank=0):
    got = torch.load(work_dir / f'rank{rank}.pt')
    want = torch.load(expected / f'rank{rank}.pt')
    assert got.keys() == want.keys()
    for name in want:
        assert torch.equal(got[name], want[name]), name


def log_of(work_dir):
    return '\n'.join(path.read_text() for path in work_dir.glob('*/*.log'))


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Runs of two processes, and of one with the same batches."""
    folder = tmp_path_factory.mktemp('runs')
    ranks.train(ranks.parallel_config(folder / 'single'))
    shutil.copytree(folder / 'single', folder / 'single_whole')
    on_ranks(2, folder, 'runs')
    return folder


def test_records_are_to_the_bit_those_of_the_first_process_alone(runs):
    for run in ('whole', 'accumulated'):
        same_rows(runs / run, runs / run / 'alone')
    spans = table(runs / 'whole')[['iter', 'count', 'stage']].values.tolist()[::2]
    assert spans == [
        *[[9, 9, -1], [19, 10, 0], [29, 10, 0], [39, 10, 0], [40, 1, 0]],
        *[[50, 10, 1], [60, 10, 1]],
    ]
    counts = table(runs / 'accumulated')['count']
    assert (
        counts.groupby(table(runs / 'accumulated')['layer']).sum().tolist() == [15] * 2
    )


def test_records_are_those_of_one_process_on_the_same_batches(runs):
    assert_equal_but_for_rounding(
        table(runs / 'whole'), table(runs / 'single_whole'), QUANTITIES
    )


def test_weights_are_to_the_bit_those_without_the_hook(runs):
    for rank in range(2):
        same_weights(runs / 'whole', runs / 'plain', rank)


def test_filters_are_measured_by_the_first_process(runs):
    assert table(runs / 'alone_filters')['angular_update_filter_q50'].notna().all()


@pytest.mark.parametrize('rank', [0, 1])
def test_a_process_that_cannot_measure_does_not_stop_the_others(runs, rank):
    work_dir = runs / f'broken{rank}'
    for process in range(2):
        same_weights(work_dir, runs / 'whole', process)
    assert log_of(work_dir).count('monitoring stopped') == 1
    whole = table(runs / 'whole')
    rows = table(work_dir)
    assert rows['iter'].max() == 19
    assert rows.equals(whole[whole['iter'] <= 19])


def test_one_process_resumed_by_two(runs):
    assert_equal_but_for_rounding(
        table(runs / 'single'), table(runs / 'single_whole'), QUANTITIES
    )


def test_two_processes_resumed_by_one(runs, tmp_path):
    work_dir = tmp_path / 'run'
    shutil.copytree(runs / 'whole', work_dir)
    config = ranks.parallel_config(work_dir, resume=True)
    config.load_from = str(work_dir / 'iter_25.pth')
    ranks.train(config)
    assert_equal_but_for_rounding(table(work_dir), table(runs / 'whole'), QUANTITIES)
    # The window under way at 25 was taken over, and ends where it would have.
    rows, whole = table(work_dir), table(runs / 'whole')
    early = whole['iter'] <= 19
    assert rows[early].equals(whole[early])


def test_checkpoints_by_epoch_carry_the_window_under_way(runs):
    same_rows(runs / 'epochs_resumed', runs / 'epochs')
    same_weights(runs / 'epochs_resumed', runs / 'epochs')
    [best] = (runs / 'epochs').glob('best_score_*.pth')
    state = torch.load(best, weights_only=True)['smd_monitor']
    assert best.stem == 'best_score_epoch_2' and state['iteration'] == 8


# ---------------------------------------------------------------- sharded training


@pytest.fixture
def one_process(monkeypatch):
    """A process group of one, as a run under torchrun with one process has."""
    monkeypatch.setenv('LOCAL_RANK', '0')
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def with_zero(net):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(net.parameters(), torch.optim.SGD, lr=0.1)


def with_fully_shard(net):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    fully_shard(net, mesh=init_device_mesh('cpu', (1,)))
    return torch.optim.SGD(net.parameters(), lr=0.1)


def with_flat_parameters(net):
    from torch.distributed.fsdp import FullyShardedDataParallel

    net = FullyShardedDataParallel(net, device_id=torch.device('cpu'))
    return torch.optim.SGD(net.parameters(), lr=0.1)


@pytest.mark.parametrize('make', [with_zero, with_fully_shard, with_flat_parameters])
def test_the_monitor_refuses_shards(one_process, make):
    net = torch.nn.Linear(4, 4)
    optimizer = make(net)
    [weight, *_] = optimizer.param_groups[0]['params']
    with pytest.raises(ValueError, match='each process has a part'):
        SphericalMotionMonitor(optimizer, {'weight': weight})


SHARDED = {
    'FSDP': (
        {
            'model_wrapper_cfg': dict(
                type='MMFullyShardedDataParallel', device_id=torch.device('cpu')
            )
        },
        r'model_wrapper_cfg.type=MMFullySharded.*set model_wrapper_cfg.type=MMDistrib',
    ),
    'ZeRO': (
        {
            'optim_wrapper.optimizer': dict(
                type='ZeroRedundancyOptimizer',
                optimizer_type='SGD',
                lr=0.1,
                _delete_=True,
            )
        },
        r'optim_wrapper.optimizer.type=ZeroRedund.*optim_wrapper.optimizer.type=SGD',
    ),
}


@pytest.mark.parametrize('kind', SHARDED)
@pytest.mark.parametrize('constructor', ['SMDOptimWrapperConstructor', None])
def test_the_hook_refuses_sharded_runs(
    one_process, tmp_path, monkeypatch, kind, constructor
):
    if kind == 'FSDP' and torch.cuda.is_available():
        pytest.skip('torch makes no FSDP of the CPU where there is a GPU')
    changes, message = SHARDED[kind]

    def trained(*args, **kwargs):
        raise AssertionError('an iteration was run')

    monkeypatch.setattr(tiny.TinyNet, 'forward', trained)
    config = ranks.parallel_config(tmp_path, **changes)
    config.launcher = 'pytorch'
    if constructor is None:
        config.optim_wrapper.pop('constructor')
    with pytest.raises(SettingError, match=f'SMDHook: {message}'):
        ranks.train(config)


def test_fully_shard_and_strategies_are_refused_by_name(one_process):
    from mmengine._strategy import DeepSpeedStrategy

    net = torch.nn.Sequential(torch.nn.Linear(4, 4))
    optimizer = with_fully_shard(net)
    runner = SimpleNamespace(
        model=net, optim_wrapper=SimpleNamespace(optimizer=optimizer)
    )
    with pytest.raises(SettingError, match=r'Some: 0.weight is sharded by fully_shard'):
        refuse_sharded(runner, 'Some')
    runner.strategy = DeepSpeedStrategy.__new__(DeepSpeedStrategy)
    with pytest.raises(
        SettingError, match=r'strategy\.type=DeepSpeedStrategy.*leave strategy out'
    ):
        refuse_sharded(runner, 'Some')


# ---------------------------------------------------------------- launchers


def tool(name, *args, **env):
    return subprocess.Popen(
        ['bash', ROOT / 'tools' / name, *map(str, args)],
        env=environment(SMD_PYTHON=sys.executable, **env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process):
    """The exit status and stderr."""
    try:
        _, errors = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    return process.returncode, errors


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'config.py'
    config = ranks.parallel_config(tmp_path / 'run')
    config.train_dataloader.batch_size = 8
    config.pop('launcher')
    config.dump(path)
    return path


def processes_of(config):
    return [
        process.pid
        for process in psutil.process_iter(['cmdline'])
        if str(config) in (process.info['cmdline'] or [])
    ]


def assert_killed(process, rank, config):
    status, errors = end(process)
    assert status == 1, errors
    [line] = errors.splitlines()
    assert re.match(rf'error: process {rank} \(pid \d+\) was killed by SIGKILL', line)
    assert 'readable' in line and '--resume' in line
    assert not processes_of(config)


def test_a_killed_process_ends_the_run_and_it_can_go_on(config, runs):
    work_dir = config.parent / 'run'
    assert_killed(tool('dist_train.sh', config, 2, STRIKE='kill 1 37'), 1, config)
    assert sorted(set(table(work_dir)['iter'])) == [9, 19, 29]
    status, errors = end(tool('dist_train.sh', config, 2, '--resume'))
    assert status == 0, errors
    same_rows(work_dir, runs / 'whole')
    for rank in range(2):
        same_weights(work_dir, runs / 'whole', rank)


@pytest.mark.slow
def test_the_first_process_killed(config):
    assert_killed(tool('dist_train.sh', config, 2, STRIKE='kill 0 37'), 0, config)
    assert sorted(set(table(config.parent / 'run')['iter'])) == [9, 19, 29]


def test_an_error_in_one_process_is_told_by_its_traceback_alone(config):
    status, errors = end(tool('dist_train.sh', config, 2, STRIKE='raise 1 5'))
    assert status == 1
    assert errors.count('Traceback') == 1 and "KeyError: 'a bug of the user'" in errors
    assert 'error: process 1' in errors.splitlines()[-1]
    assert not processes_of(config)


@pytest.mark.slow
def test_no_process_outlives_its_launcher(config):
    launcher = tool(
        'dist_train.sh', config, 2,
        '--cfg-options', 'train_cfg.max_iters=1000000',
        'train_dataloader.num_workers=1',
    )  # fmt: skip
    records = config.parent / 'run' / 'smd'
    wait_for(lambda: records.is_dir() and any(records.iterdir()))
    launcher.kill()
    wait_for(lambda: not processes_of(config))


def wait_for(condition, seconds=60):
    for _ in range(seconds * 10):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError('it did not come about')


SRUN = """#!{python}
import os, socket, subprocess, sys
args = sys.argv[1:]
split = next(i for i, arg in enumerate(args) if not arg.startswith('--'))
options = dict(arg.removeprefix('--').partition('=')[::2] for arg in args[:split])
with open(os.environ['SRUN_LOG'], 'w') as log:
    log.write(' '.join(args))
ranks = int(options['ntasks'])
nodes = {{'SLURM_NODELIST': 'localhost', 'SLURM_NTASKS': str(ranks)}}
nodes |= {{'SLURM_JOB_ID': str(os.getpid()), 'SLURM_STEP_ID': '0'}}
tasks = [
    subprocess.Popen(args[split:], env=os.environ | nodes | {{
        'SLURM_PROCID': str(rank), 'SLURM_LOCALID': str(rank)}})
    for rank in range(ranks)
]
status = max(abs(task.wait()) for task in tasks)
sys.exit(status)
"""
SCONTROL = """#!/bin/sh
[ "$1 $2 $3" = 'show hostnames localhost' ] && echo localhost
"""


@pytest.fixture
def slurm(tmp_path):
    """Programs that do on this machine what Slurm's do; the variables to use them."""
    folder = tmp_path / 'slurm'
    folder.mkdir()
    for name, text in (('srun', SRUN), ('scontrol', SCONTROL)):
        (folder / name).write_text(text.format(python=sys.executable))
        (folder / name).chmod(0o755)
    path = os.pathsep.join([str(folder), os.environ['PATH']])
    return {'PATH': path, 'SRUN_LOG': str(tmp_path / 'srun.log')}


def test_slurm_trains_as_dist_train_does(config, slurm, runs):
    work_dir = config.parent / 'other'
    variables = dict(GPUS='2', CPUS_PER_TASK='1', SRUN_ARGS='--time=10 --quiet')
    status, errors = end(
        tool('slurm_train.sh', 'part', 'name', config, work_dir, **slurm, **variables)
    )
    assert status == 0, errors
    same_rows(work_dir, runs / 'whole')
    said = Path(slurm['SRUN_LOG']).read_text().split()
    assert said[:9] == [
        *('--partition=part', '--job-name=name', '--gres=gpu:2', '--ntasks=2'),
        *('--ntasks-per-node=2', '--cpus-per-task=1', '--kill-on-bad-exit=1'),
        *('--time=10', '--quiet'),
    ]


def test_slurm_scripts_refuse_bad_arguments(config, slurm):
    def line(name, *args, **env):
        status, errors = end(tool(name, *args, **(slurm | env)))
        assert status == 2 and errors.startswith('error: ') and errors.count('\n') == 1
        return errors

    good = ('part', 'name', config, config.parent / 'w')
    assert 'usage: slurm_train.sh' in line('slurm_train.sh', 'part', 'name', config)
    assert 'no such config: no.py' in line('slurm_train.sh', 'p', 'n', 'no.py', 'w')
    assert "GPUS must be a whole number above 0, got 'x'" in line(
        'slurm_train.sh', *good, GPUS='x'
    )
    assert "CPUS_PER_TASK must be a whole number above 0, got '0'" in line(
        'slurm_train.sh', *good, CPUS_PER_TASK='0'
    )
    assert 'no such checkpoint: no.pth' in line(
        'slurm_test.sh', 'p', 'n', config, 'no.pth'
    )
    nowhere = os.pathsep.join(['/usr/bin', '/bin'])
    assert 'no srun' in line('slurm_train.sh', *good, PATH=nowhere)
