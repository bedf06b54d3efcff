"""Arguments that cannot be used are one line."""

import pytest
import torch
from launching import one_error

from smd_mmdet.launch import machine
from smd_mmdet.launch.arguments import OneLineParser, add_common_arguments


def test_empty_paths_are_refused(tiny, capsys):
    config = tiny / 'config.py'
    assert 'empty' in one_error(capsys, 'train.py', '')
    assert 'empty' in one_error(capsys, 'train.py', config, '--work-dir', '')
    assert 'empty' in one_error(capsys, 'train.py', config, '--resume', '')
    assert 'empty' in one_error(capsys, 'test.py', config, 'a.pth', '--out', '')


@pytest.mark.parametrize(
    'options, says',
    [
        (['--cfg-options', 'lr'], 'KEY=VALUE'),
        (['--cfg-options', '=3'], 'KEY=VALUE'),
        (['--cfg-options', 'a=[(1]'], 'Imbalanced'),
        (['--cfg-options', "a=[{'b':1}]"], 'a: a dict cannot be given'),
        (['--cfg-options', 'a.b=dict(c=1)'], 'a.b: a dict cannot be given'),
        (['--cfg-options', 'a=1,(dict(c=1),2)'], 'a: a dict cannot be given'),
        (['--cfg-options', 'custom_hooks.5.type=X'], 'Index 5'),
        (['--resume', 'none.pth'], 'none.pth'),
        (['--auto-scale-lr'], 'auto_scale_lr'),
        (['--launcher', 'pytorch'], 'RANK'),
        (['--launcher', 'other'], 'other'),
        pytest.param(
            ['--amp'], '--amp',
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason='has a GPU'),
        ),
    ],
)  # fmt: skip
def test_unusable_options_are_one_line(tiny, capsys, monkeypatch, options, says):
    monkeypatch.syspath_prepend(str(tiny))
    monkeypatch.setattr(machine, 'get_device', lambda: 'cpu')
    monkeypatch.delenv('RANK', raising=False)
    config = tiny / 'config.py'
    work_dir = ('--work-dir', tiny / 'w')
    assert says in one_error(capsys, 'train.py', config, *work_dir, *options)


def test_options_of_the_config_are_read_as_in_mmengine():
    parser = OneLineParser()
    add_common_arguments(parser)
    given = ['lr=0.1', 'milestones=[1,2]', 'name=a=b', 'frozen=True']
    options = parser.parse_args(['--cfg-options', *given]).cfg_options
    read = dict(lr=0.1, milestones=[1, 2], name='a=b', frozen=True)
    assert options == read
