"""How tools/build_mmcv.py shares files out among units, on sources made up here."""

import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from launching import ROOT, assert_one_line

sys.path.append(str(ROOT / 'tools'))  # behind tests, which has a processes.py too
import build_mmcv
from build_mmcv import Failure

PLAIN = 'int {0}() {{ return {1}; }}\n'


def source(tmp_path, files):
    """Sources that lie as mmcv's do."""
    folder = tmp_path / 'source/mmcv/ops/csrc/pytorch'
    (folder / 'cpu').mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return tmp_path / 'source'


def compiles(unit: Path) -> bool:
    _, cxx = build_mmcv.compiler('c++17')
    command = [cxx, '-std=c++17', '-fsyntax-only', unit]
    return subprocess.run(command, capture_output=True).returncode == 0


def has_build_tools(work):
    (work / 'tools').mkdir()
    (work / 'tools' / 'complete').touch()


CLASHING = {
    'cpu/one.cpp': 'template <typename T>\nT twice(T x) { return x + x; }\n'
    'int one() { return twice(1); }\n',
    'cpu/two.cpp': 'template <typename T>\nT twice(T x) { return 2 * x; }\n'
    'int two() { return twice(1); }\n',
    'cpu/helper.cpp': 'static inline int half(int x) { return x / 2; }\n'
    'int three() { return half(6); }\n',
    'helper.cpp': '// struct Box is not defined here\n'
    'static inline int half(int x) { return x >> 1; }\n'
    'struct Box { int left; };\nint four() { return half(8); }\n',
    'box.cpp': 'struct Box { long left; };\nint five() { return 5; }\n',
    'macro.cpp': '#define seven() 6\nint six() { return seven(); }\n',
    'seven.cpp': 'int seven() { return 7; }\n',
}


def test_files_that_define_the_same_name_are_kept_apart(tmp_path):
    folder, groups = build_mmcv.prepare(source(tmp_path, CLASHING), jobs=1)
    units = build_mmcv.write_units(folder, groups)
    names = [{str(f.relative_to(folder)) for f in files} for files in units.values()]
    assert sorted(name for unit in names for name in unit) == sorted(
        f'{name}.inc' for name in CLASHING
    )
    for one, other in (
        ('cpu/one', 'cpu/two'),
        ('cpu/helper', 'helper'),
        ('helper', 'box'),
    ):
        assert not any({f'{one}.cpp.inc', f'{other}.cpp.inc'} <= unit for unit in names)
    assert len(units) < len(CLASHING)
    assert all(compiles(folder / f'{unit}.cpp') for unit in units)


def test_one_unit_of_all_would_not_compile(tmp_path):
    """So the test above can fail."""
    folder, groups = build_mmcv.prepare(source(tmp_path, CLASHING), jobs=1)
    [unit] = build_mmcv.write_units(folder, [[file for one in groups for file in one]])
    assert not compiles(folder / f'{unit}.cpp')


def test_macros_of_a_file_do_not_reach_the_next(tmp_path):
    files = {name: CLASHING[name] for name in ('macro.cpp', 'seven.cpp')}
    folder, _ = build_mmcv.prepare(source(tmp_path, files), jobs=1)
    together = [folder / f'{name}.inc' for name in files]
    [unit] = build_mmcv.write_units(folder, [together])
    assert compiles(folder / f'{unit}.cpp')
    joined = ''.join((folder / f'{name}.inc').read_text() for name in files)
    (folder / 'joined.cpp').write_text(joined)
    assert not compiles(folder / 'joined.cpp')


def test_units_are_of_about_the_same_size(tmp_path):
    files = {f'f{i}.cpp': PLAIN.format(f'f{i}', i) * (1 + i % 5) for i in range(40)}
    _, groups = build_mmcv.prepare(source(tmp_path, files), jobs=8)
    sizes = [sum(len(file.read_text()) for file in files) for files in groups]
    assert len(groups) == 8 and max(sizes) < 1.2 * min(sizes)


def test_units_that_fail_are_halved_down_to_single_files():
    files = [Path(f'{name}.cpp.inc') for name in 'abcdefg']
    groups = [files[:4], files[4:]]
    units = {'unit_4_a': groups[0], 'unit_3_e': groups[1]}
    halved = build_mmcv.smaller(groups, {'unit_4_a'}, units)
    assert halved == [files[:2], files[2:4], files[4:]]
    # Where nothing tells which (it did not link), all are suspect.
    assert build_mmcv.smaller([files[:2], files[2:4]], set(), {}) == [
        [file] for file in files[:4]
    ]
    alone = [[file] for file in files]
    assert build_mmcv.smaller(alone, set(), {}) is None


def test_a_build_falls_back_to_smaller_units(tmp_path, monkeypatch):
    """With a compiler that takes no two files of one kind at once."""
    files = {f'f{i}.cpp': PLAIN.format(f'f{i}', i) for i in range(8)}
    root = source(tmp_path, files)
    (root / 'setup.py').write_text('-std=c++17')
    has_build_tools(tmp_path)
    tried = []

    def run(what, command, log, env=None, cwd=None):
        if 'bdist_wheel' not in command:
            return
        units = sorted(root.rglob('unit_*.cpp'))
        tried.append(len(units))
        bad = [u for u in units if 'f1.cpp' in u.read_text() and 'f5' in u.read_text()]
        bad += [u for u in units if u.read_text().count('#include') > 3]
        log.write_text(''.join(f'FAILED: [code=1] /b/{u.stem}.o \n' for u in bad))
        if bad:
            raise Failure('building failed')
        Path(command[-1]).mkdir(parents=True)
        (Path(command[-1]) / 'mmcv-2.1.0.whl').touch()

    monkeypatch.setattr(build_mmcv, 'run', run)
    monkeypatch.setattr(build_mmcv, 'FEWEST_UNITS', 1)
    facts = {'torch': '2.13.0+cpu'}
    arguments = (Path(sys.executable), root, facts, None, 1, tmp_path, tmp_path / 'log')
    assert build_mmcv.build(*arguments).name == 'mmcv-2.1.0.whl'
    assert tried[0] == 1 and tried == sorted(set(tried)) and tried[-1] <= 8


@pytest.mark.parametrize(
    'output',
    [
        'cuda_runtime_api.h:148:10: fatal error: crt/a.h: No such file or directory',
        '/usr/bin/ld: cannot find -lcudart: No such file or directory',
    ],
)
def test_what_no_smaller_unit_makes_good_ends_the_build(tmp_path, monkeypatch, output):
    files = {f'f{i}.cpp': PLAIN.format(f'f{i}', i) for i in range(8)}
    root = source(tmp_path, files)
    (root / 'setup.py').write_text('-std=c++17')
    has_build_tools(tmp_path)
    tried = []

    def run(what, command, log, env=None, cwd=None):
        if 'bdist_wheel' in command:
            tried.append(what)
            log.write_text(f'FAILED: [code=1] /b/unit_4_f0.o \n{output}\n')
            raise Failure('building failed')

    monkeypatch.setattr(build_mmcv, 'run', run)
    with pytest.raises(Failure):
        build_mmcv.build(
            *(Path(sys.executable), root, {'torch': '2.13.0+cpu'}, None, 1),
            *(tmp_path, tmp_path / 'log'),
        )
    assert len(tried) == 1


def test_a_file_that_does_not_compile_ends_the_build(tmp_path, monkeypatch):
    root = source(tmp_path, {'f.cpp': 'int f(', 'g.cpp': 'int g();'})
    (root / 'setup.py').write_text('')
    has_build_tools(tmp_path)

    def run(what, command, log, env=None, cwd=None):
        log.write_text('FAILED: /b/unit_1_f.o\n')
        if 'bdist_wheel' in command:
            raise Failure('building failed')

    monkeypatch.setattr(build_mmcv, 'run', run)
    arguments = ({'torch': '2.13.0'}, None, 1, tmp_path, tmp_path / 'log')
    with pytest.raises(Failure, match='building failed'):
        build_mmcv.build(Path(sys.executable), root, *arguments)


@pytest.mark.parametrize(
    ('torch', 'std'),
    [('2.1.2', '17'), ('2.13.0+cpu', '17'), ('2.14.1', '20'), ('3.0.0a1', '20')],
)
def test_the_standard_is_what_torch_asks_for(torch, std):
    assert build_mmcv.standard(torch) == f'c++{std}'


@pytest.mark.parametrize(
    ('output', 'says'),
    [
        ("OSError: [Errno 28] No space left on device: 'x'", 'disk is full'),
        ('WARNING: Retrying ... NewConnectionError(...)\nERROR: No match', 'offline'),
        ('g++: fatal error: Killed signal terminated program cc1plus', 'MAX_JOBS=1'),
        ('x\nERROR: No matching distribution found for a==9\n', 'distribution found'),
    ],
)
def test_a_failure_is_told_in_one_line(tmp_path, output, says):
    log = tmp_path / 'log'
    script = f'print({output!r}); raise SystemExit(1)'
    with pytest.raises(Failure) as raised:
        build_mmcv.run('installing a', [sys.executable, '-c', script], log)
    line = str(raised.value)
    assert says in line and str(log) in line and '\n' not in line


def test_a_wheel_in_the_cache_is_found_by_the_name_it_always_had(tmp_path, monkeypatch):
    monkeypatch.setattr(build_mmcv, 'CACHE', tmp_path)
    facts = {'torch': '2.13.0+cpu', 'tag': 'cp311', 'gpus': []}
    machine = build_mmcv.platform.machine()
    folder = tmp_path / f'wheels/mmcv-2.1.0-torch-2.13.0+cpu-cp311-{machine}-cpu'
    folder.mkdir(parents=True)
    wheel = folder / 'mmcv-2.1.0-cp311-cp311-linux_x86_64.whl'
    pack(wheel)
    monkeypatch.setattr(build_mmcv, 'ask', lambda _: facts)
    assert build_mmcv.wheel_for(Path('python')) == wheel


def test_without_a_toolkit_nvcc_comes_from_pip(tmp_path, monkeypatch):
    """Matching torch's CUDA, into the cache folder; not where pip has none."""
    monkeypatch.setattr(build_mmcv, 'CACHE', tmp_path)
    commands = []

    def run(what, command, log, env=None, cwd=None):
        commands.append([str(word) for word in command])
        home = tmp_path / f'cuda-13.0-{build_mmcv.platform.machine()}/nvidia/cu13'
        (home / 'lib').mkdir(parents=True)
        (home / 'lib/libcudart.so.13').touch()

    monkeypatch.setattr(build_mmcv, 'run', run)
    facts = {'torch': '2.13.0', 'cuda': '13.0', 'cuda_home': None, 'gpus': ['9.0'],
             'packages': '/site'}  # fmt: skip
    home = build_mmcv.cuda_toolkit(Path('python'), facts, tmp_path / 'log')
    assert commands[0][-1].startswith('cuda-toolkit[nvcc,')
    assert commands[0][-1].endswith(']==13.0.*')
    assert (home / 'lib64/libcudart.so').exists()
    monkeypatch.delenv('TORCH_CUDA_ARCH_LIST', raising=False)
    assert build_mmcv.cuda_environment(facts, home)['TORCH_CUDA_ARCH_LIST'] == '9.0'
    build_mmcv.cuda_toolkit(Path('python'), facts, tmp_path / 'log')
    assert len(commands) == 1  # it is kept
    with pytest.raises(build_mmcv.NoToolkit, match='CUDA_HOME'):
        old = {**facts, 'cuda': '12.1'}
        build_mmcv.cuda_toolkit(Path('python'), old, tmp_path / 'log')
    with pytest.raises(Failure, match='TORCH_CUDA_ARCH_LIST'):
        build_mmcv.cuda_environment({**facts, 'gpus': []}, home)


def test_an_nvcc_that_calls_another_one_leads_to_the_toolkit(tmp_path):
    """Without its headers the C++ files do not compile, an hour later."""
    toolkit, scripts = tmp_path / 'cuda', tmp_path / 'local'
    for home in (toolkit, scripts):
        (home / 'bin').mkdir(parents=True)
        nvcc = home / 'bin' / 'nvcc'
        nvcc.write_text(f'#!/bin/sh\necho "#$ TOP={toolkit}/bin/.." >&2\n')
        nvcc.chmod(0o755)
    assert build_mmcv.installed_toolkit(str(scripts)) is None
    (toolkit / 'include' / 'crt').mkdir(parents=True)
    (toolkit / 'include' / 'crt' / 'host_defines.h').touch()
    assert build_mmcv.installed_toolkit(str(scripts)) == toolkit
    assert build_mmcv.installed_toolkit(str(toolkit)) == toolkit
    assert build_mmcv.installed_toolkit(str(tmp_path)) is None
    assert build_mmcv.installed_toolkit(None) is None


def test_the_proof_passes_here_and_sees_a_wrong_operator(monkeypatch):
    pytest.importorskip('mmcv.ops')
    import check_mmcv
    from mmcv import ops

    assert {'nms', 'roi_align', 'deform_conv2d'} <= set(check_mmcv.check(ops, 'cpu'))
    nms, roi_align, deform_conv2d = ops.nms, ops.roi_align, ops.deform_conv2d
    for name, wrong in (
        ('nms', lambda boxes, scores, _: nms(boxes, scores, 0.6)),
        ('roi_align', lambda *a: roi_align(*a) * 1.01),
        ('deform_conv2d', lambda x, o, *a: deform_conv2d(x, o.flip(1), *a)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(ops, name, wrong)
            with pytest.raises(check_mmcv.Differs, match=name):
                check_mmcv.check(ops, 'cpu')


BUILD = ROOT / 'tools/build_mmcv.py'


def build(*arguments, **env):
    return subprocess.run(
        [sys.executable, BUILD, *arguments],
        env=os.environ | env,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        (['--jobs', '-3'], "'-3' is not a whole number"),
        (['--mmcv', '../../x'], "'../../x' is not a version"),
        (['--package', 'x'], 'onedl-mmcv'),
        (['--python', '/bin/true'], 'cannot import torch'),
    ],
)
def test_a_wrong_argument_is_told_in_one_line(arguments, says, tmp_path):
    done = build(*arguments, XDG_CACHE_HOME=str(tmp_path / 'cache'))
    assert says in assert_one_line(done)
    assert not (tmp_path / 'cache').exists()


def test_a_cache_folder_is_absolute(monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', 'here')
    monkeypatch.setenv('HOME', '/home/u')
    assert build_mmcv.cache_folder() == Path('/home/u/.cache/smd_mmdet')
    monkeypatch.setenv('XDG_CACHE_HOME', '/c d')
    assert build_mmcv.cache_folder() == Path('/c d/smd_mmdet')
    # A user whom the system does not know, in a container say.
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setattr(build_mmcv.os.path, 'expanduser', lambda path: path)
    with pytest.raises(SystemExit):
        build_mmcv.cache_folder()


def test_an_old_python_is_refused_in_one_line(tmp_path):
    """Started with it, and asked to build for it."""
    code = 'import runpy, sys; sys.version_info = (3, 9, 18); '
    code += f'runpy.run_path({str(BUILD)!r}, run_name="__main__")'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert '3.10' in assert_one_line(done)
    program = tmp_path / 'python'
    program.write_text('#!/bin/sh\necho \'{"tag": "cp39"}\'\n')
    program.chmod(0o755)
    assert '3.10' in assert_one_line(build('--python', program))


def test_a_damaged_wheel_is_not_taken_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(build_mmcv, 'CACHE', tmp_path)
    facts = {'torch': '2.13.0', 'tag': 'cp311', 'gpus': [], 'headers': str(tmp_path)}
    (tmp_path / 'Python.h').touch()
    folder = build_mmcv.folder_of('mmcv', '2.1.0', facts, 'cpu')
    folder.mkdir(parents=True)
    wheel = folder / 'mmcv-2.1.0.whl'
    monkeypatch.setattr(build_mmcv, 'ask', lambda _: facts)
    monkeypatch.setattr(build_mmcv, 'compiler', lambda std: ('cc', 'c++'))
    monkeypatch.setattr(build_mmcv, 'download', lambda *_: tmp_path)
    monkeypatch.setattr(build_mmcv, 'prove', lambda *_: None)
    built = []

    def build(python, source, facts, toolkit, jobs, work, log):
        built.append(work)
        return pack(work / 'mmcv-2.1.0.whl')

    monkeypatch.setattr(build_mmcv, 'build', build)
    whole = pack(tmp_path / 'whole').read_bytes()
    flipped = whole.replace(b'x' * 50, b'x' * 49 + b'y', 1)
    for damaged in (b'', whole[: len(whole) // 2], flipped):
        built.clear()
        wheel.write_bytes(damaged)
        assert build_mmcv.wheel_for(Path('python')).read_bytes() == whole and built
    built.clear()
    assert build_mmcv.wheel_for(Path('python')) == wheel and not built


def pack(file):
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr(zipfile.ZipInfo('mmcv.py'), 'x' * 1000)
    return file


def test_half_of_an_archive_is_not_built(tmp_path, monkeypatch):
    """pip may fail once all is unpacked, but not because the disk is full."""

    def run(what, command, log, env=None, cwd=None):
        half = tmp_path / 'unpacked/pip-download-1/mmcv'
        half.mkdir(parents=True)
        (half / 'setup.py').touch()
        raise Failure(f'downloading failed{build_mmcv.why(output)}')

    monkeypatch.setattr(build_mmcv, 'run', run)
    arguments = (Path('python'), 'mmcv', '2.1.0', tmp_path, tmp_path / 'log')
    output = 'OSError: [Errno 28] No space left on device'
    with pytest.raises(Failure, match='disk is full'):
        build_mmcv.download(*arguments)
    assert not (tmp_path / 'source').exists()
    output = "ModuleNotFoundError: No module named 'torch'"
    assert (build_mmcv.download(*arguments) / 'setup.py').exists()


def test_a_build_without_a_wheel_is_a_failure(tmp_path, monkeypatch):
    root = source(tmp_path, {'f.cpp': 'int f();'})
    (root / 'setup.py').write_text('')
    has_build_tools(tmp_path)
    monkeypatch.setattr(build_mmcv, 'run', lambda *_: (tmp_path / 'log').touch())
    arguments = ({'torch': '2.13.0'}, None, 1, tmp_path, tmp_path / 'log')
    with pytest.raises(Failure, match='no wheel'):
        build_mmcv.build(Path(sys.executable), root, *arguments)


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT', 'SIGHUP'])
def test_what_was_started_ends_with_the_set_up(tmp_path, name):
    """Also where the terminal is closed; else it would go on beside the next call."""
    code = (
        'import sys; from pathlib import Path; '
        'sys.path.insert(0, sys.argv[1]); import build_mmcv as b\n'
        'with b.one_line_errors():\n'
        '    b.run("it", ["sh", "-c", "echo $$ >pid; exec sleep 60"], Path("log"))\n'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', code, BUILD.parent],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )  # fmt: skip
    pid = tmp_path / 'pid'
    while not (pid.exists() and pid.read_text().endswith('\n')):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.Signals[name])
    _, told = process.communicate(timeout=60)
    assert process.returncode == 2
    assert told == 'error: interrupted; the same command again goes on\n'
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_full_disk_is_seen_where_the_command_does_not_tell(tmp_path, monkeypatch):
    """`python -m venv` says only that its ensurepip failed."""
    usage = build_mmcv.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        build_mmcv.shutil, 'disk_usage', lambda _: usage._replace(free=4096)
    )
    with pytest.raises(Failure, match='disk is full'):
        build_mmcv.run('making .venv', ['false'], tmp_path / 'log')


def test_a_full_disk_is_told_where_that_is_known(capsys):
    for name, says in ((None, 'is full\n'), ('/a', 'is full (/a)\n')):
        with pytest.raises(SystemExit), build_mmcv.one_line_errors():
            raise OSError(build_mmcv.errno.ENOSPC, 'No space left on device', name)
        assert capsys.readouterr().err == f'error: the disk {says}'


def test_no_half_of_a_wheel_is_left_on_a_full_disk(tmp_path, capsys, monkeypatch):
    wheel = pack(tmp_path / 'a.whl')
    copied = build_mmcv.copy_into(tmp_path / 'to', wheel)
    assert copied.read_bytes() == wheel.read_bytes()
    full = build_mmcv.errno.ENOSPC, 'No space left on device'

    def copy(source, target):
        Path(target).write_bytes(Path(source).read_bytes()[:10])
        raise OSError(*full, str(source), None, str(target))

    monkeypatch.setattr(build_mmcv.shutil, 'copy', copy)
    with pytest.raises(SystemExit), build_mmcv.one_line_errors():
        build_mmcv.copy_into(tmp_path / 'other', wheel)
    assert list((tmp_path / 'other').iterdir()) == []
    assert f'({tmp_path}/other/a.whl.part)' in capsys.readouterr().err


def test_the_proof_needs_torch_and_says_so(tmp_path):
    (tmp_path / 'torch.py').write_text('raise ImportError("no torch here")\n')
    done = subprocess.run(
        [sys.executable, ROOT / 'tools/check_mmcv.py'],
        env=os.environ | {'PYTHONPATH': str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr == 'error: no torch here\n'
