"""Options that are merged into a config."""

import pytest

from smd_mmdet.config.load import load_config


@pytest.fixture
def config(tmp_path):
    file = tmp_path / 'config.py'
    file.write_text("optim_wrapper = dict(type='OptimWrapper')\nmine = 1\n")
    return str(file)


def test_an_option_for_no_section_is_a_warning(config, capsys):
    load_config(config, {'optim_wraper.optimizer.lr': 0.1, 'optim_wraper.type': 'X'})
    told = capsys.readouterr().err
    assert told.count('\n') == 1 and told.startswith('warning: ')
    assert "no optim_wraper, and none is read; did you mean 'optim_wrapper'?" in told


def test_what_the_config_or_the_runner_has_is_no_warning(config, capsys):
    options = {'optim_wrapper.clip_grad.max_norm': 1, 'mine': 2, 'randomness.seed': 3}
    cfg = load_config(config, {**options, 'sync_bn': 'torch', 'load_from': 'a.pth'})
    assert cfg.optim_wrapper.clip_grad.max_norm == 1 and cfg.mine == 2
    assert capsys.readouterr().err == ''
