"""Runs of several processes: measuring together, faults, kills, resumes, launchers."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import ranks
import torch
from processes import (
    ROOT,
    TIMEOUT,
    assert_equal_but_for_rounding,
    environment,
    on_ranks,
)
from tiny import rows_of
from versions import load

from smd_mmdet.monitor.quantities import QUANTITIES
from smd_mmdet.records import read_records


def same_rows(work_dir, expected):
    rows, expected = rows_of(work_dir), rows_of(expected)
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
    spans = rows_of(runs / 'whole')[['iter', 'count', 'stage']].values.tolist()[::2]
    assert spans == [
        *[[9, 9, -1], [19, 10, 0], [29, 10, 0], [39, 10, 0], [40, 1, 0]],
        *[[50, 10, 1], [60, 10, 1]],
    ]
    counts = rows_of(runs / 'accumulated')['count']
    assert (
        counts.groupby(rows_of(runs / 'accumulated')['layer']).sum().tolist()
        == [15] * 2
    )


def test_all_processes_rescale_alike_where_gradients_are_clipped(runs):
    one, other = (torch.load(runs / 'rescaled' / f'rank{rank}.pt') for rank in (0, 1))
    for name in one:
        assert torch.equal(one[name], other[name]), name
    told = read_records(runs / 'rescaled').metadata['rescaled']
    assert [entry['cause'] for entry in told] == [
        'start at equilibrium',
        'learning rate',
    ]
    assert all(0 < entry['clipped_share'] <= 1 for entry in told)
    assert told[1]['factor_max'] < 0.98 * 10**-0.25
    assert rows_of(runs / 'accumulated')['clipped_share'].max() > 0


def test_records_are_those_of_one_process_on_the_same_batches(runs):
    assert_equal_but_for_rounding(
        rows_of(runs / 'whole'), rows_of(runs / 'single_whole'), QUANTITIES
    )


def test_weights_are_to_the_bit_those_without_the_hook(runs):
    for rank in range(2):
        same_weights(runs / 'whole', runs / 'plain', rank)


def test_filters_are_measured_together(runs):
    assert rows_of(runs / 'alone_filters')['angular_update_filter_q50'].notna().all()


@pytest.mark.parametrize('rank', [0, 1])
def test_a_process_that_cannot_measure_does_not_stop_the_others(runs, rank):
    work_dir = runs / f'broken{rank}'
    for process in range(2):
        same_weights(work_dir, runs / 'whole', process)
    assert log_of(work_dir).count('monitoring stopped') == 1
    whole = rows_of(runs / 'whole')
    rows = rows_of(work_dir)
    assert rows['iter'].max() == 19
    assert rows.equals(whole[whole['iter'] <= 19])


@pytest.fixture(scope='module')
def faults(tmp_path_factory):
    """Runs of two processes in which something goes wrong before training."""
    folder = tmp_path_factory.mktemp('faults')
    on_ranks(2, folder, 'faults')
    return folder


@pytest.mark.parametrize('fault', ['scale_invariance_of_1', 'proved_0', 'filterwise_1'])
def test_a_fault_of_one_process_before_training_is_told_by_the_first(
    faults, runs, fault
):
    for process in range(2):
        same_weights(faults / fault, runs / 'plain', process)
    log = log_of(faults / fault)
    assert log.count('monitoring stopped at iteration 1,') == 1
    assert f'process {fault[-1]}: RuntimeError: out of luck' in log


def test_parts_that_are_wrapped_one_by_one_are_measured_by_the_first_process(faults):
    for process in range(2):
        same_weights(faults / 'parts', faults / 'parts_plain', process)
    log = log_of(faults / 'parts')
    assert 'layers is wrapped for DDP by itself' in log
    assert set(rows_of(faults / 'parts')['layer']) == {
        'layers.module.0.weight',
        'layers.module.3.weight',
    }


def test_one_process_resumed_by_two(runs):
    assert_equal_but_for_rounding(
        rows_of(runs / 'single'), rows_of(runs / 'single_whole'), QUANTITIES
    )


def test_two_processes_resumed_by_one(runs, tmp_path):
    work_dir = tmp_path / 'run'
    shutil.copytree(runs / 'whole', work_dir)
    config = ranks.parallel_config(work_dir, resume=True)
    config.load_from = str(work_dir / 'iter_25.pth')
    ranks.train(config)
    assert_equal_but_for_rounding(
        rows_of(work_dir), rows_of(runs / 'whole'), QUANTITIES
    )
    # The window under way at 25 was taken over, and ends where it would have.
    rows, whole = rows_of(work_dir), rows_of(runs / 'whole')
    early = whole['iter'] <= 19
    assert rows[early].equals(whole[early])


def test_checkpoints_by_epoch_carry_the_window_under_way(runs):
    same_rows(runs / 'epochs_resumed', runs / 'epochs')
    same_weights(runs / 'epochs_resumed', runs / 'epochs')
    [best] = (runs / 'epochs').glob('best_score_*.pth')
    state = load(best)['smd_monitor']
    assert best.stem == 'best_score_epoch_2' and state['iteration'] == 8


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
    assert sorted(set(rows_of(work_dir)['iter'])) == [9, 19, 29]
    status, errors = end(tool('dist_train.sh', config, 2, '--resume'))
    assert status == 0, errors
    same_rows(work_dir, runs / 'whole')
    for rank in range(2):
        same_weights(work_dir, runs / 'whole', rank)


@pytest.mark.slow
def test_the_first_process_killed(config):
    assert_killed(tool('dist_train.sh', config, 2, STRIKE='kill 0 37'), 0, config)
    assert sorted(set(rows_of(config.parent / 'run')['iter'])) == [9, 19, 29]


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
