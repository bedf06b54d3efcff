"""The shell scripts in tools/: launching and set-up."""

import re
import socket
import subprocess
import sys

from launching import ROOT, assert_one_line, bash


def test_launch_scripts_refuse_bad_arguments(tiny):
    train = ROOT / 'tools/dist_train.sh'
    assert 'usage' in assert_one_line(bash(train, tiny / 'config.py'))
    assert 'no such config' in assert_one_line(bash(train, tiny / 'none.py', 2))
    assert "'two'" in assert_one_line(bash(train, tiny / 'config.py', 'two'))
    with socket.socket() as taken:
        taken.bind(('', 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = bash(train, tiny / 'config.py', 2, PORT=port)
    assert port in assert_one_line(done)


def test_setup_names_what_a_python_lacks(tmp_path):
    # A Python of its own, with nothing installed.
    subprocess.run(
        [sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'bare'], check=True
    )
    python = tmp_path / 'bare/bin/python'
    line = assert_one_line(bash(ROOT / 'tools/setup_env.sh', SMD_PYTHON=str(python)))
    assert str(python) in line
    assert all(name in line for name in ('torch', 'mmengine', 'mmcv', 'mmdet'))
    line = assert_one_line(bash(ROOT / 'tools/setup_env.sh', SMD_PYTHON='/none/python'))
    assert '/none/python' in line
    assert 'usage' in assert_one_line(bash(ROOT / 'tools/setup_env.sh', '--nonsense'))
    assert 'usage' in assert_one_line(bash(ROOT / 'tools/quickstart.sh', '--nonsense'))


def test_setup_needs_a_compiler_and_the_right_python(tmp_path):
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
    needed = 'bash cat cksum dirname flock grep head mkdir rm sed sleep tail uname'
    for name in needed.split():
        found = subprocess.run(
            ['bash', '-c', f'command -v {name}'], capture_output=True, text=True
        ).stdout.strip()
        if found:
            (programs / name).symlink_to(found)
    env = {
        'PATH': str(programs), 'SMD_PYTHON': '', 'VIRTUAL_ENV': '', 'CONDA_PREFIX': '',
        'XDG_CACHE_HOME': str(tmp_path / 'cache'), 'CXX': 'no-compiler',
    }  # fmt: skip
    script = copy / 'tools/setup_env.sh'
    assert 'Python 3.11' in assert_one_line(bash(script, **env))
    if sys.version_info[:2] == (3, 11):
        (programs / 'python3.11').symlink_to(sys.executable)
        assert 'compiler' in assert_one_line(bash(script, **env))
    assert not (copy / '.venv').exists()


def test_pins_agree():
    """The extra of pyproject.toml and requirements/stack.txt name the same stack."""
    stack = (ROOT / 'requirements/stack.txt').read_text()
    for pin in re.findall(r'^mm\w+==.+$', stack, re.MULTILINE):
        assert f'"{pin}"' in (ROOT / 'pyproject.toml').read_text()
