"""The shell scripts in tools/ that launch."""

import re
import socket

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


def test_pins_agree():
    """The extra of pyproject.toml and requirements/stack.txt name the same stack."""
    stack = (ROOT / 'requirements/stack.txt').read_text()
    for pin in re.findall(r'^mm\w+==.+$', stack, re.MULTILINE):
        assert f'"{pin}"' in (ROOT / 'pyproject.toml').read_text()
