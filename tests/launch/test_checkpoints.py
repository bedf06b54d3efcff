"""Which checkpoints are loaded, and which are refused: unsafe, damaged, not there."""

import errno
import os
import pickle
import sys

import numpy as np
import pytest
import torch
from launching import one_error
from mmengine.config import Config
from mmengine.fileio import io
from mmengine.fileio.backends import registry_utils
from mmengine.logging import HistoryBuffer
from mmengine.runner import save_checkpoint
from versions import needs_safe_globals

from smd_mmdet.config.errors import SettingError
from smd_mmdet.launch.checkpoints import check_checkpoint, find_last_checkpoint
from smd_mmdet.launch.whole_files import write_whole_files


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


@needs_safe_globals
def test_checkpoint_that_runs_code_is_refused(tiny, capsys):
    checkpoint = tiny / 'evil.pth'
    hub = dict(log_scalars={'loss': HistoryBuffer([1.0], [1])}, evil=Evil(tiny / 'ran'))
    torch.save(dict(state_dict={}, message_hub=hub), checkpoint)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(checkpoint, weights_only=True)
    sys.path.insert(0, str(tiny))
    try:
        error = one_error(
            capsys, 'test.py', tiny / 'config.py', checkpoint, '--work-dir', tiny / 'w'
        )
    finally:
        sys.path.remove(str(tiny))
    assert 'refused' in error and 'system' in error
    assert not (tiny / 'ran').exists()

    torch.save(np.array([Evil(tiny / 'ran')], dtype=object), checkpoint)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(checkpoint, weights_only=True)
    assert not (tiny / 'ran').exists()


class Getattr:
    """Pickled as getattr(owner, name)."""

    def __init__(self, owner, name):
        self.args = owner, name

    def __reduce__(self):
        return getattr, self.args


@pytest.mark.parametrize(
    'content',
    [
        Getattr(HistoryBuffer, '__init__'),
        Getattr(HistoryBuffer, '_set_default_statistics'),
        Getattr(HistoryBuffer, 'register_statistics'),
        Getattr(np.ndarray, 'tofile'),
        Getattr(torch.Tensor, 'numpy'),
    ],
)
def test_checkpoint_reaches_nothing_by_getattr(tmp_path, content):
    torch.save({'x': content}, tmp_path / 'x.pt')
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / 'x.pt', weights_only=True)


@needs_safe_globals
@pytest.mark.parametrize(
    'value', [np.float64(0.5), np.float32(2), np.int64(7), np.bool_(True),
              np.arange(3), np.zeros((2, 2), np.float32)],
)  # fmt: skip
def test_plain_numbers_load(tmp_path, value):
    torch.save({'value': value}, tmp_path / 'x.pt')
    loaded = torch.load(tmp_path / 'x.pt', weights_only=True)['value']
    assert loaded.dtype == value.dtype and np.array_equal(loaded, value)


@needs_safe_globals
def test_what_is_allowed_outlives_a_load_that_takes_its_own_list_back(tmp_path):
    torch.save({'history': HistoryBuffer([1.0], [1])}, tmp_path / 'x.pt')
    # As the maintained fork of MMEngine does around every load.
    with torch.serialization.safe_globals([HistoryBuffer, np.ndarray, np.dtype]):
        pass
    history = torch.load(tmp_path / 'x.pt', weights_only=True)['history']
    assert history.current() == 1.0


@pytest.fixture
def copied(tmp_path):
    """Two work dirs, the second a copy of the first, and the config of the second."""
    for name in 'first', 'copy':
        work_dir = tmp_path / name
        work_dir.mkdir()
        torch.save({'name': name}, work_dir / 'iter_8.pth')
        (work_dir / 'last_checkpoint').write_text(str(tmp_path / 'first/iter_8.pth'))
    return Config(dict(work_dir=str(tmp_path / 'copy')))


def test_a_copied_work_dir_goes_on_from_its_own_checkpoint(copied, tmp_path):
    assert torch.load(find_last_checkpoint(copied)) == {'name': 'copy'}
    copied.work_dir = str(tmp_path / 'first')
    assert find_last_checkpoint(copied) is None  # MMEngine finds it
    copied.work_dir = str(tmp_path / 'new')
    assert find_last_checkpoint(copied) is None  # nothing to go on from


def test_a_checkpoint_that_was_not_copied_is_refused(copied, tmp_path):
    (tmp_path / 'copy/iter_8.pth').unlink()
    with pytest.raises(SettingError, match=r'copy has no iter_8.pth; .*--resume'):
        find_last_checkpoint(copied)
    copied.default_hooks = dict(checkpoint=dict(out_dir=str(tmp_path)))
    assert find_last_checkpoint(copied) is None


def test_a_damaged_checkpoint_is_refused(copied, tmp_path):
    file = tmp_path / 'copy/iter_8.pth'
    check_checkpoint(str(file))
    whole = file.read_bytes()
    for length, says in (len(whole) // 2, 'cut off'), (0, 'empty'):
        file.write_bytes(whole[:length])
        with pytest.raises(SettingError, match=says):
            find_last_checkpoint(copied)
    file.write_text('a text')
    with pytest.raises(SettingError, match='another kind of file'):
        check_checkpoint(str(file))
    with pytest.raises(SettingError, match='is a folder'):
        check_checkpoint(str(tmp_path))
    (tmp_path / 'copy/last_checkpoint').write_text('')
    with pytest.raises(SettingError, match=r'last_checkpoint is empty; .*--resume'):
        find_last_checkpoint(copied)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(registry_utils, 'backends', dict(registry_utils.backends))
    kept = dict(registry_utils.prefix_to_backends)
    monkeypatch.setattr(registry_utils, 'prefix_to_backends', kept)
    monkeypatch.setattr(io, 'prefix_to_backends', kept)
    monkeypatch.setattr(io, 'backends', registry_utils.backends)
    write_whole_files()
    try:
        file = tmp_path / 'new/a.pth'
        save_checkpoint({'step': 1}, str(file))
        with monkeypatch.context() as patch:
            patch.setattr(os, 'fsync', _full)
            with pytest.raises(OSError, match='No space'):
                save_checkpoint({'step': 2}, str(file))
        assert torch.load(file) == {'step': 1}
        assert [path.name for path in file.parent.iterdir()] == ['a.pth']
        save_checkpoint({'step': 3}, str(file))
        assert torch.load(file) == {'step': 3}
    finally:
        io.backend_instances.clear()


def _full(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
