"""The lock on a run's folder: held for as long as its process lives, and no longer."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from smd_mmdet.engine import lock

ROOT = Path(__file__).resolve().parents[2]

HOLDER = """
import sys, time
sys.path.insert(0, {root!r})
from smd_mmdet.engine import lock
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
    first = lock.hold(tmp_path)
    second = lock.hold(tmp_path)  # a run broken off is no obstacle to the next one
    assert lock.holds(tmp_path, second) and not lock.holds(tmp_path, first)
    lock.release(tmp_path, first)
    assert lock.holds(tmp_path, second)
    lock.release(tmp_path, second)


def test_a_folder_is_kept_from_another_thread_that_lives(tmp_path):
    taken, end = threading.Event(), threading.Event()

    def measure():
        lock.hold(tmp_path)
        taken.set()
        end.wait()

    thread = threading.Thread(target=measure, name='other-run')
    thread.start()
    taken.wait()
    try:
        with pytest.raises(lock.FolderInUse, match='in use by other-run of this proc'):
            lock.hold(tmp_path)
    finally:
        end.set()
        thread.join()
    lock.release(tmp_path, lock.hold(tmp_path))


def test_workers_that_outlive_a_killed_run_do_not_hold_its_folder(tmp_path):
    held = lock.hold(tmp_path)
    worker = os.fork()
    if worker == 0:
        time.sleep(60)
        os._exit(0)
    try:
        lock.release(tmp_path, held)
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
