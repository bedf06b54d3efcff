"""Errors of a run are told in one line, or handed to torchrun."""

import json
import pickle
import signal

import pytest
import torch
from launching import one_error
from mmengine.registry import HOOKS, MODELS, OPTIMIZERS, PARAM_SCHEDULERS

from smd_mmdet.config.errors import SettingError
from smd_mmdet.config.load import load_config
from smd_mmdet.launch.errors import as_setting_error
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


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_end_from_outside_is_one_line(capsys, monkeypatch, number):
    monkeypatch.delenv('TORCHELASTIC_ERROR_FILE', raising=False)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as exit, one_line_errors(training=True):
        signal.raise_signal(number)
    assert exit.value.code == 128 + number
    out, told = capsys.readouterr()
    assert out == '' and told.count('\n') == 1
    assert f'ended by {number.name}; ' in told and '--resume goes on' in told
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_is_told_where_other_code_has_made_an_error_of_it(capsys, monkeypatch):
    monkeypatch.delenv('TORCHELASTIC_ERROR_FILE', raising=False)
    with pytest.raises(SystemExit) as exit, one_line_errors():
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException:
            raise SyntaxError('Failed to format')  # noqa: B904  # as MMEngine does
    assert exit.value.code == 130
    assert capsys.readouterr().err == 'error: the run was ended by SIGINT\n'
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', 'none')
    worker = 'DataLoader worker (pid 7) is killed by signal: Terminated. '
    assert fail_with(RuntimeError(worker)) == 143


@pytest.mark.parametrize(
    ('registry', 'name', 'says'),
    [
        (HOOKS, 'SMDhook', r"no such hook; did you mean 'SMDHook'\?"),
        (OPTIMIZERS, 'sgd', r"no such optimizer; did you mean 'SGD'\?"),
        (PARAM_SCHEDULERS, 'MultistepLR', "did you mean 'MultiStepLR'"),
        (MODELS, 'Nothing.LikeXyz', 'in custom_imports'),
    ],
)
def test_a_name_that_is_not_registered_is_a_wrong_setting(registry, name, says):
    with pytest.raises(KeyError) as raised:
        registry.build(dict(type=name))
    with pytest.raises(SettingError, match=f"^type='{name}': .*{says}"):
        raise as_setting_error(raised.value)


def test_a_full_disk_and_a_damaged_checkpoint_are_told(tmp_path):
    torch.save({'w': torch.zeros(9)}, tmp_path / 'a.pth')
    whole = (tmp_path / 'a.pth').read_bytes()
    for data, kind, says in (
        (whole[:-99], RuntimeError, 'damaged'),
        (b'\x80\x02P', pickle.UnpicklingError, 'none that torch can read'),
    ):
        (tmp_path / 'a.pth').write_bytes(data)
        with pytest.raises(kind) as raised:
            torch.load(tmp_path / 'a.pth', weights_only=True)
        assert says in str(as_setting_error(raised.value))
    with pytest.raises(OSError) as full, open('/dev/full', 'wb', 0) as file:
        file.write(b'a')
    assert 'No space left' in str(as_setting_error(full.value))
    assert as_setting_error(OSError(5, 'Input/output error')) is None


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
