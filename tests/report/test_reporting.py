"""Reports that the hook writes while a run goes on."""

import pytest
from runs import validating_config
from tiny import tiny_config


def test_hook_writes_reports_and_shows_figures(tmp_path):
    from mmengine.runner import Runner

    Runner.from_cfg(validating_config(tmp_path, 'val')).train()
    assert (tmp_path / 'report' / 'report.html').is_file()
    shown = {path.name for path in tmp_path.glob('*/vis_data/vis_image/smd_*')}
    assert {'smd_angular_update_30.png', 'smd_angular_update_40.png'} <= shown


def test_hook_survives_a_report_that_fails(tmp_path, monkeypatch):
    from mmengine.runner import Runner

    def fail(work_dir):
        raise RuntimeError('no ink')

    monkeypatch.setattr('smd_mmdet.engine.reporting.write_report', fail)
    config = tiny_config(tmp_path, max_iters=10, hook=dict(report=True, window=5))
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter == 10
    assert 'no ink' in next(tmp_path.glob('*/*.log')).read_text()


def test_hook_setting_is_checked():
    from smd_mmdet.engine import SettingError, SMDHook

    assert [SMDHook(report=s).report for s in (False, True, 'val')] == [
        False,
        True,
        'val',
    ]
    with pytest.raises(SettingError, match="report must be False, True or 'val'"):
        SMDHook(report='always')
