"""Which Python is taken or made, what is said where that cannot be, and going on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT, assert_one_line, bash

sys.path.append(str(ROOT / 'tools'))  # behind tests, which has a processes.py too
import setup_env
from build_mmcv import Failure

MINOR = sys.version_info[1]
SETUP = ROOT / 'tools/setup_env.sh'


def test_setup_names_what_a_python_lacks(tmp_path):
    # A Python of its own, with nothing installed.
    subprocess.run(
        [sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'bare'], check=True
    )
    python = tmp_path / 'bare/bin/python'
    line = assert_one_line(bash(SETUP, SMD_PYTHON=str(python)))
    assert str(python) in line
    assert all(name in line for name in ('torch', 'mmengine', 'mmcv', 'mmdet'))
    line = assert_one_line(bash(SETUP, SMD_PYTHON='/none/python'))
    assert '/none/python' in line
    assert 'usage' in assert_one_line(bash(SETUP, '--nonsense'))
    assert 'usage' in assert_one_line(bash(ROOT / 'tools/quickstart.sh', '--nonsense'))


def test_setup_needs_a_compiler_and_a_python(tmp_path):
    """On a machine with neither, in a copy: nothing is left behind."""
    copy = tmp_path / 'copy'
    for part in ('tools', 'requirements'):
        (copy / part).mkdir(parents=True)
        for file in (ROOT / part).glob('*.*'):
            (copy / part / file.name).write_bytes(file.read_bytes())
    for name in ('setup.py', 'pyproject.toml'):
        (copy / name).write_bytes((ROOT / name).read_bytes())
    programs = tmp_path / 'bin'
    programs.mkdir()
    for name in ('bash', 'dirname'):
        found = subprocess.run(
            ['bash', '-c', f'command -v {name}'], capture_output=True, text=True
        ).stdout.strip()
        (programs / name).symlink_to(found)
    env = {
        'PATH': str(programs), 'SMD_PYTHON': '', 'VIRTUAL_ENV': '', 'CONDA_PREFIX': '',
        'XDG_CACHE_HOME': str(tmp_path / 'cache'), 'CXX': 'no-compiler',
    }  # fmt: skip
    script = copy / 'tools/setup_env.sh'
    assert 'no Python 3.10 to 3.13' in assert_one_line(bash(script, **env))
    (programs / 'python3').symlink_to(sys.executable)
    assert 'compiler' in assert_one_line(bash(script, **env))
    assert not (copy / '.venv').exists() and not (tmp_path / 'cache').exists()


@pytest.mark.parametrize(
    ('there', 'taken'),
    [
        ({'python3': (3, 11)}, 'python3'),
        ({'python3.12': (3, 12), 'python3': (3, 9)}, 'python3.12'),
        # The best proven comes first, wherever it stands.
        ({'python3': (3, 13), 'python3.11': (3, 11)}, 'python3.11'),
        ({'python3': (3, 13), 'python3.10': (3, 10)}, 'python3'),
        ({'python': (3, 10)}, 'python'),
    ],
)
def test_the_python_to_start_from(monkeypatch, there, taken):
    monkeypatch.setattr(setup_env.shutil, 'which', lambda name: None)
    assert setup_env.base_python(there.get) == taken


@pytest.mark.parametrize(
    'there', [{}, {'python3': (3, 9)}, {'python3': (3, 14), 'python': (3, 8)}]
)
def test_a_python_without_wheels_is_refused_and_what_would_work_named(there):
    with pytest.raises(Failure) as raised:
        setup_env.base_python(there.get)
    line = str(raised.value)
    assert '\n' not in line and 'Install one' in line and 'SMD_PYTHON' in line
    for version in ('3.10', '3.11', '3.12', '3.13'):
        assert version in line
    for major, minor in there.values():
        assert f'{major}.{minor}' in line


def test_every_pin_has_a_version_for_every_python():
    """One line a package, or one for each side of a Python version."""
    from packaging.requirements import Requirement

    for name in ('runtime', 'tests', 'build'):
        lines = (ROOT / f'requirements/{name}.txt').read_text().splitlines()
        pins = [Requirement(line) for line in lines if line and line[0] != '#']
        for version in setup_env.PYTHONS:
            env = {'python_version': '{}.{}'.format(*version)}
            kept = [p.name for p in pins if not p.marker or p.marker.evaluate(env)]
            assert len(kept) == len(set(kept))
            missing = {pin.name for pin in pins} - set(kept)
            # MMPretrain's modelindex asks for it where it can have it.
            assert missing <= {'lazy-importer'}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty .venv elsewhere; what is run to fill it is noted and not done."""
    venv, ran = tmp_path / '.venv', []

    def run(what, command, log, env=None, cwd=None):
        ran.append(what)
        if what == 'making .venv':
            python(venv)

    monkeypatch.setattr(setup_env, 'VENV', venv)
    monkeypatch.setattr(setup_env, 'LOG', venv / 'setup.log')
    monkeypatch.setattr(setup_env, 'CACHE', tmp_path / 'cache')
    monkeypatch.setattr(setup_env, 'ROOT', tmp_path)
    for name in ('setup.py', 'pyproject.toml'):
        (tmp_path / name).touch()
    monkeypatch.setattr(setup_env, 'run', run)
    monkeypatch.setattr(setup_env.shutil, 'which', lambda name: None)
    monkeypatch.setattr(setup_env, 'base_python', lambda: sys.executable)
    monkeypatch.setattr(setup_env, 'install_mmcv', lambda: ran.append('mmcv'))
    monkeypatch.setattr(setup_env, 'why_not', lambda python: '')
    monkeypatch.setattr(setup_env.build_mmcv, 'compiler', lambda std: None)
    monkeypatch.setattr(setup_env.build_mmcv, 'need_headers', lambda facts: None)
    monkeypatch.delenv('SMD_TORCH_SPEC', raising=False)
    return venv, ran


def python(venv: Path, works: bool = True) -> None:
    """A program that does what is asked of a Python here: it ends well, or does not."""
    program = venv / 'bin/python'
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f'#!/bin/sh\nexit {int(not works)}\n')
    program.chmod(0o755)


def test_an_environment_is_made_once(checkout, monkeypatch):
    venv, ran = checkout
    made = setup_env.own_environment(tests=False)
    assert made == venv / 'bin/python' and ran[0] == 'making .venv' and 'mmcv' in ran
    ran.clear()
    setup_env.own_environment(tests=False)
    assert ran == []
    setup_env.own_environment(tests=True)  # the tests need more
    assert ran and 'making .venv' not in ran
    ran.clear()
    setup_env.own_environment(tests=True)
    setup_env.own_environment(tests=False)
    assert ran == []
    monkeypatch.setenv('SMD_TORCH_SPEC', 'torch==2.12.0')
    setup_env.own_environment(tests=False)
    assert 'installing torch==2.12.0' in ran and 'making .venv' not in ran
    # It stays when nothing is said, and so do the tests.
    monkeypatch.delenv('SMD_TORCH_SPEC')
    ran.clear()
    setup_env.own_environment(tests=True)
    assert ran == []


@pytest.mark.parametrize('after', ['installing libraries', 'mmcv'])
def test_an_interrupted_setup_goes_on(checkout, monkeypatch, after):
    venv, ran = checkout

    def interrupted(*arguments):
        ran.append(arguments[0] if arguments else 'mmcv')
        if arguments and arguments[0] == 'making .venv':
            python(venv)
        if ran[-1] == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(setup_env, 'run', interrupted)
        patch.setattr(setup_env, 'install_mmcv', interrupted)
        with pytest.raises(KeyboardInterrupt):
            setup_env.own_environment(tests=False)
    assert not (venv / 'stamp').exists()
    kept = venv / 'kept'
    kept.touch()
    ran.clear()
    setup_env.own_environment(tests=False)
    assert 'making .venv' not in ran and 'mmcv' in ran and kept.exists()


def test_what_was_left_broken_is_made_anew(checkout, monkeypatch):
    venv, ran = checkout
    venv.mkdir()
    (venv / 'made-by-setup_env').touch()
    python(venv, works=False)  # interrupted before it had pip
    setup_env.own_environment(tests=False)
    assert ran[0] == 'making .venv'
    # And where it looks whole and is not: half of a package, say.
    (venv / 'stamp').unlink()
    answers = ['torch fails to import', '']
    monkeypatch.setattr(setup_env, 'why_not', lambda python: answers.pop(0))
    ran.clear()
    setup_env.own_environment(tests=False)
    assert ran.count('making .venv') == 1 and not answers
    monkeypatch.setattr(setup_env, 'why_not', lambda python: 'torch missing')
    (venv / 'stamp').unlink()
    with pytest.raises(Failure, match='torch missing'):
        setup_env.own_environment(tests=False)
    assert not (venv / 'stamp').exists()


def test_an_environment_of_someone_else_is_left_alone(checkout):
    venv, ran = checkout
    venv.mkdir()
    with pytest.raises(Failure, match='was not made by this script'):
        setup_env.own_environment(tests=False)
    assert ran == [] and list(venv.iterdir()) == []


def test_uv_is_used_where_it_can_and_pip_elsewhere(checkout, monkeypatch):
    tried = []

    def run(what, command, log, env=None, cwd=None):
        tried.append(str(command[0]))
        if command[0] == '/bin/uv':
            raise Failure('uv has no such index')

    monkeypatch.setattr(setup_env, 'run', run)
    monkeypatch.setattr(setup_env.shutil, 'which', lambda name: '/bin/uv')
    setup_env.install('installing a', 'a==1')
    assert tried == ['/bin/uv', str(setup_env.VENV / 'bin/python')]


def test_an_interrupted_pip_leaves_nothing_behind(checkout, monkeypatch):
    def run(what, command, log, env=None, cwd=None):
        left = Path(env['TMPDIR'], 'pip-unpack-1')
        assert left.is_relative_to(setup_env.VENV) and not left.exists()
        left.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(setup_env, 'run', run)
    (setup_env.VENV / 'tmp/pip-unpack-1').mkdir(parents=True)  # it was killed
    with pytest.raises(KeyboardInterrupt):
        setup_env.install('installing a', 'a==1')
    assert list(setup_env.VENV.iterdir()) == []


def test_numpy_1_gets_a_pyarrow_that_it_can_load():
    assert setup_env.suited('pyarrow', 'torch==2.1.2\nnumpy==1.26.4\n') == 'pyarrow<26'
    assert setup_env.suited('pyarrow', 'numpy==2.4.6\n') == 'pyarrow'
    assert setup_env.suited('rich', 'numpy==1.26.4\n') == 'rich'


def test_help_is_help():
    for name in ('setup_env.sh', 'quickstart.sh', 'run_tests.sh'):
        done = bash(ROOT / 'tools' / name, '--help')
        assert done.returncode == 0 and f'tools/{name}' in done.stdout
        assert done.stderr == '' and 'set -euo' not in done.stdout


def test_folders_that_a_shell_is_told_to_search_do_not_mislead(tmp_path):
    """With CDPATH, `cd tools/..` prints the folder, and may go to another one."""
    done = subprocess.run(
        ['bash', 'tools/setup_env.sh', '--how-long'], cwd=ROOT,
        env=os.environ | {'CDPATH': f'.:{tmp_path}', 'SMD_PYTHON': sys.executable},
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ('0\n', '')


def test_a_relative_python_is_told_from_where_the_user_is(tmp_path):
    """quickstart.sh changes the folder."""
    program = tmp_path / 'venv/bin/python'
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho it was asked >&2; exit 1\n')
    program.chmod(0o755)
    done = subprocess.run(
        ['bash', ROOT / 'tools/quickstart.sh'], cwd=tmp_path,
        env=os.environ | {'SMD_PYTHON': 'venv/bin/python'},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.endswith(
        f'error: SMD_PYTHON={program} cannot run MMDetection: it does not run: '
        'it was asked\n'
    )


def test_emptying_the_environment_can_be_interrupted(checkout, monkeypatch):
    """What is left is still known to be ours, whatever was removed first."""
    venv, ran = checkout
    setup_env.own_environment(tests=False)
    (venv / 'torch-spec').write_text('torch==2.12.0')

    def interrupted(path, *_, **__):
        for file in venv.iterdir():
            if file.is_file() and file.name not in ('made-by-setup_env', 'torch-spec'):
                file.unlink()
        raise KeyboardInterrupt

    python(venv, works=False)
    (venv / 'stamp').unlink()
    with monkeypatch.context() as patch:
        patch.setattr(setup_env.shutil, 'rmtree', interrupted)
        with pytest.raises(KeyboardInterrupt):
            setup_env.own_environment(tests=False)
    ran.clear()
    setup_env.own_environment(tests=False)
    assert ran[0] == 'making .venv' and 'installing torch==2.12.0' in ran
    assert not (venv / 'lib').exists()


def test_a_checkout_that_was_moved_is_activated_where_it_is(checkout):
    venv, ran = checkout
    setup_env.own_environment(tests=False)
    script = venv / 'bin/activate'
    for told, runs in ((f'VIRTUAL_ENV="{venv}"\n', 0), ('VIRTUAL_ENV="/old"\n', 1)):
        script.write_text(told)
        (venv / 'stamp').unlink()
        ran.clear()
        setup_env.own_environment(tests=False)
        assert ran.count('telling .venv where it is now') == runs
    # And what is run there does so.
    home = venv.with_name('a b')
    make = [sys.executable, '-m', 'venv', '--without-pip']
    subprocess.run([*make, home], check=True)
    moved = home.rename(venv.with_name('c d'))
    command = [moved / 'bin/python', *make[1:], moved]
    subprocess.run(command, check=True)
    assert str(moved) in (moved / 'bin/activate').read_text()


def test_without_a_python_uv_brings_one_or_says_why_not(tmp_path):
    for name in ('bash', 'dirname'):
        (tmp_path / name).symlink_to(setup_env.shutil.which(name))
    uv = tmp_path / 'uv'
    env = {'PATH': str(tmp_path), 'XDG_CACHE_HOME': str(tmp_path / 'cache')}
    uv.write_text('#!/bin/sh\necho "No interpreter\nhint: offline" >&2; exit 2\n')
    uv.chmod(0o755)
    (tmp_path / 'cache/smd_mmdet/python').mkdir(parents=True)
    assert 'offline?' in assert_one_line(bash(SETUP, '--how-long', **env))
    uv.write_text(
        f'#!/bin/sh\nshift 5\n[ $1 = python ] && shift\n{sys.executable} "$@"'
    )
    done = bash(SETUP, '--how-long', **env)
    assert (done.returncode, done.stdout, done.stderr) == (0, '0\n', '')


def test_a_mistaken_torch_does_not_stay(checkout, monkeypatch):
    _, ran = checkout
    setup_env.own_environment(tests=False)
    monkeypatch.setenv('SMD_TORCH_SPEC', 'torch==9')
    done = setup_env.run

    def run(what, *arguments):
        if what == 'installing torch==9':
            raise Failure('there is none')
        done(what, *arguments)

    monkeypatch.setattr(setup_env, 'run', run)
    with pytest.raises(Failure, match='there is none'):
        setup_env.own_environment(tests=False)
    monkeypatch.delenv('SMD_TORCH_SPEC')
    setup_env.own_environment(tests=False)
    assert f'installing torch=={setup_env.pinned("torch")}' in ran


def test_an_active_venv_is_not_made_from_its_own_python(checkout, monkeypatch):
    """It comes first on the path, and is removed before it would be called."""
    venv, _ = checkout
    python(venv)
    monkeypatch.setenv('PATH', f'{venv}/bin{os.pathsep}/usr/bin')
    seen = []

    def base():
        seen.append(os.environ['PATH'])
        return sys.executable

    monkeypatch.setattr(setup_env, 'base_python', base)
    setup_env.make_venv()
    assert seen == ['/usr/bin']


def test_an_active_environment_without_the_stack_takes_no_time_off(
    checkout, tmp_path, monkeypatch
):
    monkeypatch.delenv('SMD_PYTHON', raising=False)
    active = tmp_path / 'base'
    (active / 'bin').mkdir(parents=True)
    program = active / 'bin/python'
    program.write_text('#!/bin/sh\necho \'["mmdet"]\'\n')
    program.chmod(0o755)
    monkeypatch.delenv('VIRTUAL_ENV', raising=False)
    monkeypatch.setenv('CONDA_PREFIX', str(active))
    assert setup_env.minutes() > 0
    program.write_text("#!/bin/sh\necho '[]'\n")
    assert setup_env.minutes() == 0
    program.write_text('#!/bin/sh\nexit 1\n')
    assert setup_env.minutes() > 0
