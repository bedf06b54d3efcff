"""Errors of a run are told in one line, or handed to torchrun."""

import json
import signal

import pytest
from launching import one_error

from smd_mmdet.config.errors import SettingError
from smd_mmdet.config.load import load_config
from smd_mmdet.launch.runner import one_line_errors


def test_unusable_config_is_one_line(tiny, capsys):
    config = tiny / 'config.py'
    assert 'no such config' in one_error(capsys, 'train.py', tiny / 'none.py')
    assert 'no such config' in one_error(capsys, 'train.py', 'mmdet::none/none.py')
    (tiny / 'broken.py').write_text('a = 1\nb = (\n')
    assert 'broken.py, line 2' in one_error(capsys, 'train.py', tiny / 'broken.py')
    (tiny / 'raises.py').write_text('a = 1 / 0')
    assert 'ZeroDivision' in one_error(capsys, 'train.py', tiny / 'raises.py')
    (tiny / 'base.py').write_text("_base_ = ['missing.py']")
    assert 'missing.py' in one_error(capsys, 'train.py', tiny / 'base.py')
    (tiny / 'text.txt').write_text('a')
    one_error(capsys, 'train.py', tiny / 'text.txt')
    one_error(capsys, 'train.py')
    one_error(capsys, 'test.py', config, tiny / 'none.pth')
    (tiny / 'some.pth').write_bytes(b'')
    out = ('--out', 'x.json')
    assert '.pkl' in one_error(capsys, 'test.py', config, tiny / 'some.pth', *out)


def test_shipped_config():
    cfg = load_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    assert cfg.model.type == 'RetinaNet'


def fail_with(error):
    with pytest.raises(SystemExit) as exit, one_line_errors():
        raise error
    return exit.value.code


def test_a_wrong_setting_is_one_line(capsys, monkeypatch):
    monkeypatch.delenv('TORCHELASTIC_ERROR_FILE', raising=False)
    assert fail_with(SettingError('lr is\nwrong')) == 2
    assert capsys.readouterr() == ('', 'error: lr is wrong\n')


def test_any_other_error_is_raised(monkeypatch):
    monkeypatch.delenv('TORCHELASTIC_ERROR_FILE', raising=False)
    with pytest.raises(KeyError, match='a bug'), one_line_errors():
        raise KeyError('a bug')


@pytest.mark.parametrize(
    ('error', 'code'), [(SettingError('lr is wrong'), 2), (KeyError('a bug'), 1)]
)
def test_under_torchrun_an_error_is_handed_over(
    tmp_path, monkeypatch, capsys, error, code
):
    file = tmp_path / 'error.json'
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(file))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert fail_with(error) == code
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr() == ('', '')
    told = json.loads(file.read_text())['message']
    assert told['message'] == f'{type(error).__name__}: {error}'
    assert 'Traceback' in told['extraInfo']['py_callstack']
