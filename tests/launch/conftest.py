"""What the tests of this folder share."""

import os
import signal

import pytest
from launching import CONFIG, MODEL


@pytest.fixture(autouse=True)
def interruptible():
    """Ctrl-C ends a program also where pytest itself runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A folder with a config that trains in no time; also on PYTHONPATH."""
    (tmp_path / 'tools_tiny.py').write_text(MODEL)
    (tmp_path / 'config.py').write_text(CONFIG)
    paths = [str(tmp_path), os.environ.get('PYTHONPATH', '')]
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join(filter(None, paths)))
    # A machine may have fewer GPUs than a test has processes.
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')
    monkeypatch.delenv('KILL_AT', raising=False)
    return tmp_path
