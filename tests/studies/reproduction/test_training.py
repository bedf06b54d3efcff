"""The reproduction's trainings: in order, one at a time each, going on after a kill."""

import fcntl
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from studies.reproduction import training
from studies.reproduction.experiments import EXPERIMENTS, Experiment

ROOT = Path(__file__).resolve().parents[3]

# Trains in steps of a file, as tools/train.py does in iterations of a checkpoint.
TRAINER = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
with open(folder / 'starts', 'a') as file:
    file.write('x')
step = folder / 'step'
done = int(step.read_text()) if step.exists() else 0
for number in range(done + 1, 4):
    if (folder / 'fail').exists():
        sys.exit('the reason')
    step.write_text(str(number))
    (folder / f'iter_{number}.pth').touch()
    while number == 2 and (folder / 'hang').exists():
        time.sleep(0.01)
"""


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """Tasks that train in no time, and what is said of them."""
    script = tmp_path / 'trainer.py'
    script.write_text(TRAINER)
    monkeypatch.setattr(
        training.Task,
        'command',
        lambda task: [sys.executable, str(script), str(task.folder)],
    )
    experiment = Experiment('walk', 'none.py', 'A model', 'plain', 0, 3, data='')
    tasks = training.tasks_of([experiment], tmp_path / 'runs')
    for task in tasks:
        task.folder.mkdir(parents=True)
    return tasks


def starts(task):
    path = task.folder / 'starts'
    return len(path.read_text()) if path.exists() else 0


def test_a_finished_run_is_not_trained_again(trainer):
    said = []
    assert training.train_all(trainer, 2, said.append) == 0
    assert [starts(task) for task in trainer] == [1, 1, 1]
    assert [line.split(',')[0] for line in said] == [
        f'walk-seed{k}: goes on' for k in range(3)
    ]
    assert training.train_all(trainer, 2, said.append) == 0
    assert [starts(task) for task in trainer] == [1, 1, 1]
    assert not list(trainer[0].folder.glob('*.pth'))
    assert not (trainer[0].folder / training.OUTPUT).exists()


def test_a_failed_run_is_told_and_tried_again(trainer):
    said = []
    (trainer[1].folder / 'fail').touch()
    assert training.train_all(trainer, 1, said.append) == 1
    assert said[-2] == 'walk-seed1: failed with exit status 1: the reason'
    assert [task.state for task in trainer] == ['finished', 'interrupted', 'finished']
    (trainer[1].folder / 'fail').unlink()
    assert training.train_all(trainer, 1, said.append) == 0
    assert [starts(task) for task in trainer] == [1, 2, 1]


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize('how', [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_goes_on(trainer, how):
    task, step = trainer[0], trainer[0].folder / 'step'
    (task.folder / 'hang').touch()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            os.set_inheritable(writer, True)
            training.train_all([task], 1, lambda line: None)
        finally:
            os._exit(0)
    os.close(writer)
    wait_for(lambda: step.exists() and step.read_text() == '2')
    os.kill(pid, how)
    os.waitpid(pid, 0)
    assert task.state == 'interrupted'
    if how == signal.SIGKILL:
        # What it started lives on: it must not be joined by a second one.
        lock = os.open(task.folder / 'lock', os.O_WRONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(lock)
    (task.folder / 'hang').unlink()
    assert training.train_all([task], 1, lambda line: None) == 0
    assert task.state == 'finished'
    assert starts(task) == 2
    os.close(reader)


def test_runs_are_ordered_by_importance_and_chosen_by_name(tmp_path):
    def names(**rest):
        return [task.name for task in training.tasks_of(EXPERIMENTS, tmp_path, **rest)]

    assert names()[:4] == [
        'mask-rcnn_bn_3stage-seed0',
        'mask-rcnn_bn_3stage-rescaled-seed0',
        'mask-rcnn_bn_3stage-seed1',
        'mask-rcnn_bn_3stage-rescaled-seed1',
    ]
    assert len(names()) == len(set(names()))
    assert set(names(quick=True)) < set(names())
    assert all(name.endswith('-seed0') for name in names(quick=True))
    assert names(only='*-seed2') == [n for n in names() if n.endswith('-seed2')]


def test_the_command_is_a_call_of_train_py(tmp_path):
    experiment = replace(EXPERIMENTS[0], options={'train_cfg.max_iters': 5})
    words = training.Task(experiment, 2, tmp_path).command()
    assert words[3:5] == [str(ROOT / 'tools/train.py'), str(ROOT / experiment.config)]
    assert words[5:8] == ['--work-dir', str(tmp_path / f'{experiment.name}-seed2'),
                          '--resume']  # fmt: skip
    assert words[-2:] == ['randomness.seed=2', 'train_cfg.max_iters=5']


def test_a_folder_that_was_moved_goes_on_from_its_own_checkpoint(tmp_path):
    task = training.Task(EXPERIMENTS[0], 0, tmp_path)
    task.folder.mkdir()
    (task.folder / 'last_checkpoint').write_text('/where/it/was/iter_300.pth')
    assert 'iter_300.pth' not in ' '.join(task.command())
    here = task.folder / 'iter_300.pth'
    here.touch()
    words = task.command()
    assert words[words.index('--resume') + 1] == str(here)
