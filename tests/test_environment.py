"""`smd env`: that it tells the truth, and comes to an end where something is broken."""

import json
import os
import platform
import re
import subprocess
import sys
import types
from importlib import metadata
from pathlib import Path

import pytest
import torch

from smd_mmdet import environment as env
from smd_mmdet.cli import main
from smd_mmdet.monitor.kernels import cpu, gpu, plain

ROOT = Path(__file__).parents[1]


def told(capsys, *options):
    """What the command prints; nothing may be on standard error."""
    assert main(['env', *options]) == 0
    return capsys.readouterr().out


@pytest.fixture(scope='module')
def found():
    return env.environment()


def test_versions_are_those_of_what_is_installed(found):
    installed = {d.name.lower(): d.version for d in metadata.distributions()}
    for module, package in found['packages'].items():
        names = [name.lower() for name in env.PACKAGES[module]]
        there = {installed[name] for name in names if name in installed}
        assert package['version'] in (there or {None}), module
        assert package['fault'] is None
    assert found['python'] == platform.python_version()
    assert found['system'].startswith(platform.system())


def test_a_checkout_tells_its_commit_and_whether_it_was_changed(tmp_path, monkeypatch):
    package = tmp_path / 'smd_mmdet'
    package.mkdir()
    for file in (package / 'environment.py', tmp_path / 'pyproject.toml'):
        file.touch()
    monkeypatch.setattr(env, '__file__', str(package / 'environment.py'))
    assert env.own_version()['commit'] is None
    who = ('-c', 'user.name=a', '-c', 'user.email=a@b')

    def git(*words):
        command = ['git', '-C', str(tmp_path), *who, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True)

    git('init', '-q')
    git('add', '.')
    git('commit', '-qm', 'first')
    ours = env.own_version()
    assert git('rev-parse', 'HEAD').stdout.startswith(ours['commit'])
    assert ours['changed'] is False
    (tmp_path / 'pyproject.toml').write_text('changed')
    assert env._our_line(env.own_version()).endswith(f'{ours["commit"]}, with changes')
    monkeypatch.setenv('PATH', '')  # a machine without git
    assert env.own_version()['commit'] is None


def test_cores_and_threads_are_those_of_this_process(found, monkeypatch):
    processor = found['processor']
    assert processor['cores'] == os.cpu_count()
    assert 0 < processor['usable'] <= len(os.sched_getaffinity(0))
    monkeypatch.setenv('OMP_NUM_THREADS', '3')
    assert env._processor()['threads'] == 3
    monkeypatch.delenv('OMP_NUM_THREADS')
    assert 1 <= env._processor()['threads'] <= processor['usable']


def test_mmcvs_operators_are_told_as_mmcv_tells_them(found):
    info = pytest.importorskip('mmcv.ops.info')
    cuda = info.get_compiling_cuda_version()
    expected = 'the CPU only' if cuda == 'not available' else f'CUDA {cuda}'
    assert found['mmcv_operators'].startswith(f'operators for {expected}')
    assert found['mmcv_operators'].endswith(info.get_compiler_version())


def test_an_mmcv_without_operators_says_so(monkeypatch):
    loader = pytest.importorskip('mmcv.utils.ext_loader')

    def missing(*_):
        raise ModuleNotFoundError("No module named 'mmcv._ext'")

    monkeypatch.setattr(loader, 'load_ext', missing)
    assert 'no operators that work' in env._operators()
    assert 'mmcv._ext' in env._operators()


# ------------------------------------------------------------------ kernels


def test_the_kernel_that_is_told_is_the_one_that_measures(monkeypatch):
    """The other one is taken away, and it measures all the same."""

    def instead(*_):
        raise AssertionError('another kernel measured')

    kernel, why = env._kernel('cpu')
    if kernel == 'C library':
        monkeypatch.setattr(plain, 'write', instead)
        assert env._kernel('cpu') == (kernel, why)
    monkeypatch.undo()
    monkeypatch.setattr(cpu, 'write', instead)
    monkeypatch.setattr(cpu, '_library', lambda: None)
    assert env._kernel('cpu')[0] == "torch's operations"


def test_why_there_is_no_c_library(tmp_path, monkeypatch):
    monkeypatch.setattr(env, '__file__', str(tmp_path / 'environment.py'))
    assert 'no C compiler' in env._why_plain('cpu', [])
    folder = tmp_path / 'monitor' / 'kernels'
    folder.mkdir(parents=True)
    (folder / '_fused.cpython-39-other.so').touch()
    why = env._why_plain('cpu', [])
    assert '_fused.cpython-39-other.so was built for another Python' in why


def test_a_kernel_that_measures_wrongly_is_seen(monkeypatch):
    monkeypatch.setattr(cpu, '_library', lambda: None)
    monkeypatch.setattr(plain, 'write', lambda layers, rows, out: out.fill_(1))
    device = env._device('cpu', 'the processor')
    assert device['kernel'] is None
    assert 'wrong products' in device['why']
    assert 'nothing measures (wrong products' in env._device_line(device)


class FakeGPU(types.SimpleNamespace):
    name, total_memory, major, minor = 'NVIDIA T', 80 * 2**30, 9, 0


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A machine whose driver knows two GPUs."""
    program = tmp_path / 'nvidia-smi'
    program.write_text('#!/bin/sh\necho "NVIDIA T, 580.95"\necho "NVIDIA T, 580.95"\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)


def test_gpus_are_told_with_driver_and_capability(driver, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda _: FakeGPU())
    asked = []
    kernel = ('Triton', 'it compiles for this GPU')
    monkeypatch.setattr(env, '_kernel', lambda d: asked.append(d) or kernel)
    lines = [env._device_line(device) for device in env._devices()]
    assert asked == ['cpu', 'cuda:0', 'cuda:1']
    gpu_line = 'NVIDIA T, 80 GiB, capability 9.0, driver 580.95; measured by: Triton'
    assert lines[2].startswith(gpu_line)


def test_a_gpu_that_torch_does_not_see_is_told(driver, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.version, 'cuda', None)
    unseen = env._devices()[-1]
    assert (unseen['device'], unseen['driver']) == (None, '580.95')
    assert 'built without CUDA' in env._device_line(unseen)


def test_why_triton_does_not_measure_on_a_gpu():
    assert env._why_plain('cuda:0', ['no\ncompiler']) == 'no compiler'
    assert env._why_plain('cuda:0', []) == 'Triton is not installed'


@pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')
def test_a_real_gpu_is_measured_on():
    device = next(d for d in env._devices() if d['device'] == 'cuda:0')
    expected = 'Triton' if gpu.available() else "torch's operations"
    assert device['kernel'] == expected, device['why']
    assert re.fullmatch(r'[\d.]+', device['driver'])


# ------------------------------------------------------------------ as it is printed


def test_nothing_is_cut_in_80_columns(found, monkeypatch, capsys):
    monkeypatch.setenv('COLUMNS', '80')
    printed = told(capsys)
    assert max(map(len, printed.splitlines())) <= 80
    together = ''.join(printed.split())
    for name, text in env._lines(env.environment()):
        if name != 'threads':  # tells how busy the machine is
            assert name + ''.join(text.split()) in together


def test_json_is_one_document_also_where_a_package_prints(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / 'mmdet.py').write_text("print('hello')\n__version__ = '9'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'mmdet', raising=False)
    assert json.loads(told(capsys, '--json'))['packages']['mmdet']['fault'] is None
    monkeypatch.delitem(sys.modules, 'mmdet', raising=False)


def test_versions_that_do_not_go_together_are_told(tmp_path, monkeypatch, capsys):
    """As mmdet refuses an mmcv that is too new; what it says cannot clear a screen."""
    code = "raise AssertionError('MMCV==2.2.0 is used but \\x1b[2J incompatible')\n"
    (tmp_path / 'mmdet.py').write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'mmdet', raising=False)
    printed = ' '.join(told(capsys).split())
    assert 'does not import: AssertionError: MMCV==2.2.0 is used but' in printed
    assert '\x1b' not in printed


NEEDED = ('numpy', 'wrapt', 'rich', 'markdown-it-py', 'mdurl', 'Pygments', 'pyarrow')


def test_without_torch_and_mmdet_it_says_what_is_not_installed(tmp_path):
    """In a Python that has only what a plain `pip install` of this package brings."""
    site = tmp_path / 'site'
    site.mkdir()
    for name in NEEDED:
        for file in metadata.distribution(name).files:
            top = file.parts[0]
            if top not in ('..', '__pycache__') and not (site / top).exists():
                (site / top).symlink_to(metadata.distribution(name).locate_file(top))
    done = subprocess.run(
        [sys.executable, '-S', '-m', 'smd_mmdet.cli', 'env'],
        env={**os.environ, 'PYTHONPATH': f'{site}{os.pathsep}{ROOT}', 'COLUMNS': '80'},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, '')
    lines = dict(re.findall(r'^(\S+) +(.*?) *$', done.stdout, re.MULTILINE))
    for name in ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmpretrain'):
        assert lines[name] == 'not installed'
    assert lines['devices'] == 'not known without torch'
    assert lines['pyarrow'] == metadata.version('pyarrow')
