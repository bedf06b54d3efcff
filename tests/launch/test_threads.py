"""The number of threads, on machines made of files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from smd_mmdet.launch import threads

TOOLS = Path(__file__).parents[2] / 'tools'

ALL = frozenset(range(8))


class Machine:
    """Its /proc and /sys, and how much of each core others use while it is watched."""

    def __init__(self, root, busy=(0.0,) * 8):
        self.root, self.busy, self.seconds = root, busy, 0.0
        self.wait(0)

    def write(self, name, text):
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def stat(self, seconds):
        lines = ['cpu 1 2 3 4 5 6 7 8 0 0']
        for core, busy in enumerate(self.busy):
            used = int(100 * seconds * busy)
            idle = int(100 * seconds) - used
            # user nice system idle iowait irq softirq steal guest guest_nice
            lines.append(f'cpu{core} {500 + used} 0 0 {900 + idle} 0 0 0 0 0 0')
        return '\n'.join([*lines, 'intr 7']) + '\n'

    def wait(self, seconds):
        self.seconds += seconds
        self.write('proc/stat', self.stat(self.seconds))

    def choose(self, cores=ALL, processes=1):
        return threads.choose(processes, self.root, cores, self.wait).threads


def test_a_quiet_machine_gives_all_its_cores(tmp_path):
    machine = Machine(tmp_path)
    assert machine.choose() == 8
    assert machine.choose(cores=frozenset({2, 5})) == 2
    assert machine.choose(processes=3) == 2
    assert machine.choose(processes=20) == 1


@pytest.mark.parametrize(
    ('busy', 'threads'),
    [
        ((1.0,) * 8, 1),
        ((1.0,) * 6 + (0.0,) * 2, 2),
        ((0.05,) * 8, 8),  # a moment of something else takes no thread away
        ((0.5,) * 8, 4),
    ],
)
def test_cores_that_others_use_are_left_to_them(tmp_path, busy, threads):
    assert Machine(tmp_path, busy).choose() == threads


def test_a_training_takes_the_same_number_on_a_busy_machine(tmp_path):
    """Another number of threads gives other bits, and a resumed run must not differ."""
    for busy, faster in (((1.0,) * 8, 1), ((0.0,) * 8, 0)):
        machine = Machine(tmp_path, busy)
        found = threads.choose(1, tmp_path, ALL, machine.wait, steady=True)
        assert found.threads == 8 and found.faster == faster
        assert ('OMP_NUM_THREADS=1 is faster' in str(found)) == bool(faster)
    for launcher in ('train.py', 'test.py', 'common.sh'):
        assert 'steady' in (TOOLS / launcher).read_text()


def test_only_the_cores_that_it_may_use_are_watched(tmp_path):
    machine = Machine(tmp_path, (1.0,) * 6 + (0.0,) * 2)
    assert machine.choose(cores=frozenset({6, 7})) == 2
    assert machine.choose(cores=frozenset({0, 7})) == 1


@pytest.mark.parametrize(
    ('files', 'cores'),
    [
        # Version 2: its own group is open, the one above has two cores.
        (
            {
                'proc/self/cgroup': '0::/pod/job\n',
                'sys/fs/cgroup/pod/job/cpu.max': 'max 100000\n',
                'sys/fs/cgroup/pod/cpu.max': '200000 100000\n',
            },
            2.0,
        ),
        # In a container of its own, it is at the top.
        (
            {
                'proc/self/cgroup': '0::/\n',
                'sys/fs/cgroup/cpu.max': '150000 100000\n',
            },
            1.5,
        ),
        # Version 1, of which a container shows the top only.
        (
            {
                'proc/self/cgroup': '5:memory:/\n4:cpu,cpuacct:/docker/0a1b\n',
                'sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us': '300000\n',
                'sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us': '100000\n',
            },
            3.0,
        ),
        (
            {
                'proc/self/cgroup': '4:cpu,cpuacct:/\n',
                'sys/fs/cgroup/cpu/cpu.cfs_quota_us': '-1\n',
                'sys/fs/cgroup/cpu/cpu.cfs_period_us': '100000\n',
            },
            8.0,
        ),
        ({}, 8.0),
    ],
)
def test_a_quota_of_a_control_group_is_seen(tmp_path, files, cores):
    machine = Machine(tmp_path)
    for name, text in files.items():
        machine.write(name, text)
    assert threads.cores_allowed(tmp_path, ALL) == cores
    # A thread beyond the quota would stand still and be waited for.
    assert machine.choose() == int(cores)


def test_a_system_without_these_files_gives_its_cores(tmp_path):
    assert threads.choose(1, tmp_path, ALL, lambda _: None).threads == 8


def test_what_the_user_has_set_stays(monkeypatch):
    def never(*_):
        raise AssertionError('the machine was looked at')

    monkeypatch.setattr(threads, 'choose', never)
    env = {'OMP_NUM_THREADS': '3'}
    assert threads.settings(env, tell=never) == {'MKL_NUM_THREADS': '3'}
    assert threads.settings({**env, 'MKL_NUM_THREADS': '2'}, tell=never) == {}
    told = []
    monkeypatch.setattr(
        threads, 'choose', lambda _, steady: threads.Choice(2, '2 cores')
    )
    found = threads.settings({'OMP_WAIT_POLICY': 'ACTIVE'}, tell=told.append)
    assert found['OMP_NUM_THREADS'] == found['MKL_NUM_THREADS'] == '2'
    assert found['OMP_WAIT_POLICY'] == 'ACTIVE' and found['KMP_BLOCKTIME'] == '0'
    assert len(told) == 1 and told[0].startswith('threads: 2 (2 cores)')


def test_torch_computes_with_what_was_chosen():
    """In a shell, as the launchers do it."""
    script = f'eval "$({sys.executable} {threads.__file__} --processes 1000)"\n'
    script += f'{sys.executable} -c "import torch; print(torch.get_num_threads())"'
    env = {k: v for k, v in os.environ.items() if not k.startswith(('OMP_', 'MKL_'))}
    done = subprocess.run(
        ['bash', '-c', script], env=env, capture_output=True, text=True, check=True
    )
    told, count = done.stdout.splitlines()
    assert '1000 processes' in told and count == '1'


@pytest.mark.parametrize('given', ['0', 'abc', '-1', '1 2', '2;echo hacked', ','])
def test_a_number_that_is_none_does_not_count(given, monkeypatch):
    """OpenMP would take every core; and a shell evaluates what is printed."""
    monkeypatch.setattr(
        threads, 'choose', lambda _, steady: threads.Choice(2, '2 cores')
    )
    told = []
    found = threads.settings({'OMP_NUM_THREADS': given}, tell=told.append)
    assert found['OMP_NUM_THREADS'] == found['MKL_NUM_THREADS'] == '2'
    assert repr(given) in told[0] and len(told) == 2
    for good in ('4', ' 2 ', '4,2', '4, 2'):
        found = threads.settings({'OMP_NUM_THREADS': good}, tell=told.append)
        assert found == {'MKL_NUM_THREADS': good.strip()}
    assert len(told) == 2


def test_a_shell_runs_nothing_that_a_variable_holds():
    env = {**os.environ, 'MKL_NUM_THREADS': '', 'OMP_WAIT_POLICY': '$(echo >&2 hacked)'}
    env |= {'OMP_NUM_THREADS': 'x;echo hacked >&2', 'KMP_BLOCKTIME': "0 'a"}
    script = f'eval "$({sys.executable} {threads.__file__})"; echo "$OMP_WAIT_POLICY"'
    done = subprocess.run(
        ['bash', '-c', script], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == ''
    assert done.stdout.endswith('$(echo >&2 hacked)\n')


def test_files_of_the_system_that_make_no_sense_do_not_count(tmp_path):
    machine = Machine(tmp_path)
    for stat in ('', '\n\ncpu0 1 2\n', 'cpu0 a b c d e f g h\ncpu1\n', 'cpu 1 2 3'):
        machine.write('proc/stat', stat)
        assert threads.choose(1, tmp_path, ALL, lambda _: None).threads == 8
    (tmp_path / 'proc/self').mkdir()
    (tmp_path / 'proc/self/cgroup').write_bytes(b'0::/\xff\xfe\nnonsense\n::\n3:cpu')
    for quota in ('max', '', '0 100000', '-5 0', '1 0', 'nan nan', 'a b c'):
        machine.write('sys/fs/cgroup/cpu.max', quota)
        assert threads.cores_allowed(tmp_path, ALL) == 8
    machine.write('sys/fs/cgroup/cpu.max', '50000 100000')
    assert threads.cores_allowed(tmp_path, ALL) == 0.5 and machine.choose() == 1
