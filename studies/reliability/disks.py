"""Runs whose disk is full, read-only or emptied, and whose scalars cannot be shown."""

import contextlib
import shutil
from pathlib import Path
from unittest.mock import patch

from disturbed import log_of, small_disk, train
from mmengine.visualization import Visualizer

from smd_mmdet import records

from .case import (
    WINDOWS_OF_A_RUN,
    CannotTest,
    Group,
    ask,
    commands_end,
    make,
    unchanged,
    windows,
)

__all__ = ['DISKS']

DISKS = Group('Disks')


@DISKS.case('disk full')
def disk_full(folder: Path) -> str:
    """`WORK_DIR/smd` is a file system of 48 KiB, made larger before iteration 50."""
    smd_folder = folder / 'run' / 'smd'
    with contextlib.ExitStack() as stack:
        try:
            remount = stack.enter_context(small_disk(smd_folder, '48k'))
        except PermissionError as error:
            raise CannotTest(str(error)) from None
        runner = train(
            folder / 'run',
            lambda runner: remount('size=10m'),
            at=49,
            hook=dict(window=2),
        )
        log, got = log_of(runner), windows(folder / 'run')
    ask('No space left on device' in log, 'no warning')
    ask(runner.iter == 60, 'training stopped')
    ask(got[-1] == 60 and len(got) >= 30, f'rows are missing: {got}')
    warned = log.count('records cannot be written')
    return f'{warned} warnings; training went on; all {len(got)} windows are there'


@DISKS.case('disk full, injected')
def disk_full_injected(folder: Path) -> str:
    """`OSError(ENOSPC)` from writing a part, three times in a row."""
    write, calls = records.pq.write_table, iter(range(1000))

    def full(*args, **kwargs):
        if 2 <= next(calls) < 5:
            raise OSError(28, 'No space left on device')
        return write(*args, **kwargs)

    with patch.object(records.pq, 'write_table', full):
        runner = train(folder)
    ask('No space left' in log_of(runner), 'no warning')
    ask(windows(folder) == WINDOWS_OF_A_RUN, 'rows are missing')
    unchanged(runner, folder)
    return 'warned; training went on with the same weights; every row is there'


@DISKS.case('read-only folder')
def read_only(folder: Path) -> str:
    """`WORK_DIR/smd` is mounted read-only from the start, writable from iteration 50
    on."""
    with contextlib.ExitStack() as stack:
        try:
            remount = stack.enter_context(small_disk(folder / 'run' / 'smd', '10m'))
        except PermissionError as error:
            raise CannotTest(str(error)) from None
        remount('ro')
        runner = train(folder / 'run', lambda runner: remount('rw'), at=49)
        log, got = log_of(runner), windows(folder / 'run')
    ask('Read-only file system' in log, 'no warning')
    ask(got == WINDOWS_OF_A_RUN, f'rows are missing: {got}')
    return 'warned; training went on; every row is there'


@DISKS.case('records folder that is a file')
def a_file_in_the_way(folder: Path) -> str:
    """`WORK_DIR/smd` is a file throughout."""
    (folder / 'smd').write_text('mine')
    runner = train(folder)
    ask('records cannot be written' in log_of(runner), 'no warning')
    ask((folder / 'smd').read_text() == 'mine', 'the file was changed')
    codes = commands_end(folder, make(folder / 'x'), {2}, 'check')
    return f'warned; training went on; the file is as it was; {codes}'


@DISKS.case('records deleted')
def records_deleted(folder: Path) -> str:
    """`WORK_DIR/smd` is deleted before iteration 31."""
    runner = train(folder, lambda runner: shutil.rmtree(folder / 'smd'))
    later = windows(folder)
    # The rows of the window before may be on their way when the folder goes.
    whole = later in ([39, 40, 50, 60], [29, 39, 40, 50, 60])
    ask(whole, f'windows {later}')
    unchanged(runner, folder)
    return (
        'the folder is made again and has every row from then on; training went on '
        'with the same weights'
    )


@DISKS.case('WORK_DIR deleted')
def work_dir_deleted(folder: Path) -> str:
    """The whole folder is deleted before iteration 31. MMEngine's own LocalVisBackend
    does not survive that, so there is none."""
    run = folder / 'run'
    runner = train(
        run,
        lambda runner: shutil.rmtree(run),
        visualizer=dict(type='Visualizer', vis_backends=None),
    )
    ask(runner.iter == 60, 'training stopped')
    ask(windows(run)[-3:] == [40, 50, 60], f'windows {windows(run)}')
    return 'training went on; rows from then on are there'


@DISKS.case('Visualizer that fails')
def visualizer_fails(folder: Path) -> str:
    """`add_scalars` raises whenever it is given scalars of ours."""
    add = Visualizer.add_scalars

    def fail(self, values, *args, **kwargs):
        if any(key.startswith('smd/') for key in values):
            raise ConnectionError('no route to host')
        return add(self, values, *args, **kwargs)

    with patch.object(Visualizer, 'add_scalars', fail):
        runner = train(folder)
    ask(log_of(runner).count('no route to host') == 1, 'not warned once')
    ask(windows(folder) == WINDOWS_OF_A_RUN, 'rows are missing')
    return 'warned once; training went on; every row is there'
