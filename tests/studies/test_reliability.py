"""What runs survive: the cases of benchmarks/reliability.py, and single guards."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from smd_mmdet.engine import lock
from smd_mmdet.monitor.monitor import SphericalMotionMonitor
from smd_mmdet.records import RecordsError, RecordWriter, read_records

ROOT = Path(__file__).resolve().parents[2]


def cases():
    """The module itself: benchmarks are no package."""
    path = ROOT / 'benchmarks' / 'reliability.py'
    spec = importlib.util.spec_from_file_location('reliability_cases', path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


reliability = cases()
FAST = {
    *('disk_full_injected', 'records_deleted', 'a_file_in_the_way'),
    *('visualizer_fails', 'commands_on_damaged_records', 'all_frozen'),
    *('commands_on_incomplete_records', 'optimizer_without_the_layers'),
    'hostile_settings',
}


@pytest.mark.parametrize(
    'case',
    [
        pytest.param(
            case,
            id=case.run.__name__,
            marks=() if case.run.__name__ in FAST else pytest.mark.slow,
        )
        for case in reliability.CASES
        if case.run.__name__ != 'kills'
    ],
)
def test_a_run_survives(case, tmp_path):
    try:
        case.run(tmp_path)
    except reliability.CannotTest as why:
        pytest.skip(str(why))


def test_killed_runs_end_as_if_they_had_not_been(tmp_path):
    reliability.killed_runs(tmp_path, 1)


@pytest.mark.slow
def test_runs_killed_fifty_times_end_as_if_they_had_not_been(tmp_path):
    reliability.killed_runs(tmp_path, 50)


def test_the_table_tells_a_failure():
    def fails(folder):
        """It fails."""
        raise AssertionError('a | b')

    case = reliability.Case('Group', 'title', fails)
    text = reliability.page([reliability.examine(case)])
    assert '| title | It fails | AssertionError: a \\| b | **fails** |' in text


# ---------------------------------------------------------------- lock

HOLDER = """
import sys, time
sys.path.insert(0, {root!r})
from smd_mmdet import lock
lock.hold({folder!r})
print('held', flush=True)
time.sleep(600)
"""


def test_a_folder_is_held_until_its_process_ends(tmp_path):
    code = HOLDER.format(root=str(ROOT), folder=str(tmp_path))
    holder = subprocess.Popen(
        [sys.executable, '-c', code], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == 'held\n'
        with pytest.raises(lock.FolderInUse, match=rf'process {holder.pid} on \S+'):
            lock.hold(tmp_path)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    lock.hold(tmp_path)
    lock.hold(tmp_path)  # a process is no obstacle to itself
    lock.release(tmp_path)


def test_workers_that_outlive_a_killed_run_do_not_hold_its_folder(tmp_path):
    lock.hold(tmp_path)
    worker = os.fork()
    if worker == 0:
        time.sleep(60)
        os._exit(0)
    try:
        lock.release(tmp_path)
        code = HOLDER.format(root=str(ROOT), folder=str(tmp_path))
        code = code.replace('time.sleep(600)', '')
        done = subprocess.run([sys.executable, '-c', code], capture_output=True)
        assert done.stdout == b'held\n', done.stderr
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


@pytest.mark.parametrize('fault', [OSError(37, 'No locks'), OSError(95, 'Unsupported')])
def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch, fault):
    def refuse(*args):
        raise fault

    monkeypatch.setattr(lock.fcntl, 'lockf', refuse)
    lock.hold(tmp_path)
    lock.hold(tmp_path / 'not there')


# ---------------------------------------------------------------- records


def rows(iteration, **more):
    shape = np.empty(1, dtype=object)
    shape[0] = (3,)
    return {
        'iter': np.array([iteration]),
        'count': np.array([1]),
        'layer': np.array(['a'], dtype=object),
        'shape': shape,
        'stage': np.array([0]),
        **{name: np.array([value]) for name, value in more.items()},
    }


def test_a_failing_merge_neither_loses_nor_doubles_rows(tmp_path, monkeypatch):
    monkeypatch.setattr('smd_mmdet.records.MERGE_AT', 4)
    writer = RecordWriter(tmp_path)
    write = pq.write_table

    def refuses_merges(table, *args, **kwargs):
        if table.num_rows > 1:
            raise OSError(28, 'No space left on device')
        write(table, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr('smd_mmdet.records.pq.write_table', refuses_merges)
        for iteration in range(1, 6):
            writer.append(rows(iteration))
    for iteration in range(6, 20):
        writer.append(rows(iteration))
    assert read_records(tmp_path).table['iter'].to_pylist() == list(range(1, 20))


def test_parts_with_other_columns_are_read_together(tmp_path):
    RecordWriter(tmp_path).append(rows(1, old=1.0))
    RecordWriter(tmp_path, resume_from=2).append(rows(2, new=2.0))
    table = read_records(tmp_path).table.to_pandas()
    assert table['new'].isna().tolist() == [True, False]
    assert table['old'].isna().tolist() == [False, True]


def test_a_changed_byte_in_the_data_is_noticed(tmp_path):
    writer = RecordWriter(tmp_path)
    values = np.random.default_rng(0).normal(size=1000)
    writer.append(
        {name: np.repeat(column, 1000) for name, column in rows(1).items()}
        | {'weight_norm_mean': values}
    )
    [part] = (tmp_path / 'smd').glob('*.parquet')
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(RecordsError, match='not readable'):
        read_records(tmp_path)


# ---------------------------------------------------------------- monitor


def layers(number=2):
    return nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(number))


def make_step(model, optimizer):
    optimizer.zero_grad()
    sum(layer(torch.ones(1, 4)).square().sum() for layer in model).backward()
    optimizer.step()


def test_a_layer_that_moves_to_another_group_is_measured_with_its_settings():
    model = layers()
    groups = [{'params': [layer.weight], 'lr': lr} for layer, lr in zip(
        model, (0.1, 0.2), strict=True)]  # fmt: skip
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    named = {str(i): layer.weight for i, layer in enumerate(model)}
    with SphericalMotionMonitor(optimizer, named) as monitor:
        make_step(model, optimizer)
        optimizer.param_groups.reverse()
        make_step(model, optimizer)
        optimizer.param_groups.pop()
        make_step(model, optimizer)
        columns = monitor.collect()
    assert monitor.fault is None
    of_first = columns['layer'] == '0'
    assert columns['lr'][of_first][:2].tolist() == [0.1, 0.1]
    assert columns['count'][of_first].tolist() == [1, 1, 0]
    assert columns['lr'][~of_first].tolist() == [0.2] * 3
    assert columns['count'][~of_first].tolist() == [1, 1, 1]


def test_following_an_optimizer_without_the_layers_is_refused():
    model = layers()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    named = {'0': model[0].weight}
    with SphericalMotionMonitor(optimizer, named) as monitor:
        with pytest.raises(ValueError, match='not among the parameters'):
            monitor.follow(torch.optim.SGD(model[1].parameters(), lr=0.1))
        make_step(model, optimizer)
        assert monitor.collect()['count'].tolist() == [1]
