"""Lint, format and types of the whole repository, as its tools see them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    'tool',
    [('ruff', 'check', '.'), ('ruff', 'format', '--check', '.'), ('mypy',)],
    ids=['lint', 'format', 'types'],
)
def test_nothing_to_complain_about(tool):
    pytest.importorskip(tool[0])
    done = subprocess.run(
        [sys.executable, '-m', *tool],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
