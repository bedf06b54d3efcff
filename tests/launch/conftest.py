"""What the tests of this folder share."""

import os

import pytest
from launching import CONFIG, MODEL


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
