"""tools/ and what they rest on: launching, resuming, clear errors, set-up."""

import ast
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer

from smd_mmdet.config import compat
from smd_mmdet.config.errors import SettingError
from smd_mmdet.config.load import load_config
from smd_mmdet.launch import machine
from smd_mmdet.launch.data_files import check_data_files

ROOT = Path(__file__).resolve().parents[2]

MODEL = """
import os, signal
import torch
from mmengine.dataset import Compose
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from torch import nn

@DATASETS.register_module()
class ToolsNoise(torch.utils.data.Dataset):
    metainfo = dict(classes=('noise',))
    def __len__(self):
        return 32
    def __getitem__(self, i):
        g = torch.Generator().manual_seed(i)
        return dict(inputs=torch.randn(3, 8, 8, generator=g), target=float(i % 2))

@MODELS.register_module()
class Tiny(BaseModel):
    def __init__(self, norm_cfg=None, loads=None):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 1)
    def forward(self, inputs, target, mode='tensor'):
        out = self.fc(self.bn(self.conv(inputs)).relu().mean((2, 3)))[:, 0]
        if mode == 'loss':
            return dict(loss=(out - target.to(out.dtype)).square().mean())
        return list(out)

@METRICS.register_module()
class Mean(BaseMetric):
    def process(self, batch, outputs):
        self.results += [float(x) for x in outputs]
    def compute_metrics(self, results):
        return dict(mean=sum(results) / len(results))

@HOOKS.register_module()
class Killer(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == int(os.environ.get('KILL_AT', 0)):
            os.kill(os.getpid(), signal.SIGKILL)
    def after_train(self, runner):
        weights = {k: v.clone() for k, v in runner.model.state_dict().items()}
        torch.save(weights, os.path.join(runner.work_dir, f'rank{runner.rank}.pt'))
"""

CONFIG = """
custom_imports = dict(imports=['tools_tiny'], allow_failed_imports=False)
model = dict(type='Tiny', norm_cfg=dict(type='BN'))
loader = dict(batch_size=4, num_workers=0, dataset=dict(type='ToolsNoise'),
              collate_fn=dict(type='default_collate'))
train_dataloader = dict(
    sampler=dict(type='InfiniteSampler', shuffle=True, seed=1), **loader)
val_dataloader = dict(sampler=dict(type='DefaultSampler', shuffle=False), **loader)
test_dataloader = val_dataloader
train_cfg = dict(type='IterBasedTrainLoop', max_iters=12, val_interval=4)
val_cfg = test_cfg = dict()
val_evaluator = test_evaluator = dict(type='Mean')
optim_wrapper = dict(optimizer=dict(
    type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-3))
param_scheduler = dict(type='MultiStepLR', by_epoch=False, milestones=[7])
default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4),
    logger=dict(type='LoggerHook', interval=2))
custom_hooks = [dict(type='Killer')]
randomness = dict(seed=0)
"""


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


def start(name, *args, **env):
    return subprocess.Popen(
        [sys.executable, ROOT / 'tools' / name, *map(str, args)],
        env=os.environ | {'OMP_NUM_THREADS': '1'} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    """The exit status and the output of what was started."""
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def bash(*args, **env):
    return subprocess.run(
        ['bash', *map(str, args)],
        env=os.environ | {'SMD_PYTHON': sys.executable} | env,
        capture_output=True,
        text=True,
        timeout=120,
    )


def one_error(capsys, name, *args):
    """Run a tool in this process; the single line it ends with."""
    tree = ast.parse((ROOT / 'tools' / name).read_text())
    space = {'__name__': 'tool', '__file__': str(ROOT / 'tools' / name)}
    exec(compile(tree, name, 'exec'), space)
    argv = sys.argv
    sys.argv = [name, *map(str, args)]
    try:
        with pytest.raises(SystemExit) as exit:
            space['main']()
    finally:
        sys.argv = argv
    error = capsys.readouterr().err
    assert exit.value.code == 2
    assert error.startswith('error: ') and error.count('\n') == 1, error
    return error


def assert_one_line(done):
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith('error: '), done.stderr
    return lines[0]


def test_train_resume_after_kill_and_test(tiny):
    config = tiny / 'config.py'
    work_dir = tiny / 'killed'
    whole = start('train.py', config, '--work-dir', tiny / 'whole')
    killed = start('train.py', config, '--work-dir', work_dir, KILL_AT='10')
    status, output = finish(whole)
    assert status == 0, output
    assert finish(killed)[0] == -signal.SIGKILL
    resumed = start('train.py', config, '--work-dir', work_dir, '--resume')
    tested = start(
        'test.py', config, tiny / 'whole/iter_12.pth', '--work-dir', tiny / 'test'
    )
    status, output = finish(resumed)
    assert status == 0, output
    assert 'resumed epoch: 0, iter: 8' in output
    status, output = finish(tested)
    assert status == 0, output
    assert re.search(r'mean: -?\d', output)

    expected = torch.load(tiny / 'whole' / 'rank0.pt')
    actual = torch.load(work_dir / 'rank0.pt')
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name

    # The checkpoint holds what torch refuses by default, or this tests nothing.
    checkpoint = work_dir / 'iter_12.pth'
    history = torch.load(checkpoint, weights_only=True)['message_hub']['log_scalars']
    assert isinstance(history['train/loss'], HistoryBuffer)
    with torch.serialization.safe_globals([]):
        torch.serialization.clear_safe_globals()
        try:
            with pytest.raises(pickle.UnpicklingError):
                torch.load(checkpoint, weights_only=True)
        finally:
            compat.allow_mmengine_checkpoints()


def test_two_cpu_processes_end_with_the_same_weights(tiny):
    done = bash(
        ROOT / 'tools/dist_train.sh', tiny / 'config.py', 2,
        '--work-dir', tiny / 'dist', '--cfg-options', 'train_cfg.max_iters=6',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ranks = [torch.load(tiny / 'dist' / f'rank{i}.pt') for i in range(2)]
    for name, value in ranks[0].items():
        # Running statistics belong to each process, as on GPUs.
        if 'running' not in name:
            assert torch.equal(ranks[1][name], value), name

    tested = bash(
        ROOT / 'tools/dist_test.sh', tiny / 'config.py', tiny / 'dist/iter_6.pth', 2,
        '--work-dir', tiny / 'test',
    )  # fmt: skip
    assert tested.returncode == 0, tested.stderr


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


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


@pytest.mark.parametrize(
    'value', [np.float64(0.5), np.float32(2), np.int64(7), np.bool_(True),
              np.arange(3), np.zeros((2, 2), np.float32)],
)  # fmt: skip
def test_plain_numbers_load(tmp_path, value):
    torch.save({'value': value}, tmp_path / 'x.pt')
    loaded = torch.load(tmp_path / 'x.pt', weights_only=True)['value']
    assert loaded.dtype == value.dtype and np.array_equal(loaded, value)


def test_what_is_allowed_outlives_a_load_that_takes_its_own_list_back(tmp_path):
    torch.save({'history': HistoryBuffer([1.0], [1])}, tmp_path / 'x.pt')
    # As the maintained fork of MMEngine does around every load.
    with torch.serialization.safe_globals([HistoryBuffer, np.ndarray, np.dtype]):
        pass
    history = torch.load(tmp_path / 'x.pt', weights_only=True)['history']
    assert history.current() == 1.0


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


@pytest.mark.parametrize(
    ('config', 'says'),
    [
        (
            'shapes/mask-rcnn_r18_fpn_shapes.py',
            'data/shapes/annotations/instances_train.json '
            '(train_dataloader.dataset); draw them: smd shapes data/shapes --train',
        ),
        (
            'retinanet/retinanet_r50_fpn_gn-all_scratch_360k_coco.py',
            'data/coco/annotations/instances_train2017.json '
            '(train_dataloader.dataset); set train_dataloader.dataset.data_root, or '
            'the environment variable COCO_ROOT',
        ),
        (
            'mmdet::yolox/yolox_s_8xb8-300e_coco.py',
            'instances_train2017.json (train_dataloader.dataset.dataset)',
        ),
        (
            'mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py',
            'trainval.txt (train_dataloader.dataset.dataset.datasets.0)',
        ),
    ],
)
def test_a_data_set_that_is_not_there_is_named(
    capsys, monkeypatch, tmp_path, config, says
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('COCO_ROOT', raising=False)
    config = config if '::' in config else ROOT / 'configs' / config
    assert says in one_error(capsys, 'train.py', config)
    assert not (tmp_path / 'work_dirs').exists()
    Path('some.pth').touch()
    # A test run needs the test data only.
    assert '(test_dataloader.' in one_error(capsys, 'test.py', config, 'some.pth')


def data_config(**settings):
    """A config whose training data are one data set of these settings."""
    return Config(
        dict(default_scope='mmdet', train_dataloader=dict(dataset=dict(settings)))
    )


@pytest.mark.parametrize(
    'settings',
    [
        dict(type='CocoDataset', ann_file='s3://bucket/a.json'),
        dict(type='CocoDataset', data_root='https://host/', ann_file='a.json'),
        dict(type='CocoDataset', ann_file='a', backend_args=dict(backend='petrel')),
        dict(type='CocoDataset', ann_file=['a.json', 'b.json']),
        dict(type='CocoDataset', ann_file=''),
        dict(type='NoSuchDataset', ann_file='a.json'),
        # Another's class may do anything with its settings.
        dict(type=Path, ann_file='a.json'),
        dict(type='CIFAR10', data_prefix='none'),
    ],
)
def test_data_that_cannot_be_judged_are_left_to_the_run(settings):
    check_data_files(data_config(**settings), training=True)


def test_files_that_are_there_and_loops_that_do_not_run_are_fine(tmp_path):
    (tmp_path / 'a.json').touch()
    cfg = data_config(type='CocoDataset', data_root=str(tmp_path), ann_file='a.json')
    cfg.val_dataloader = dict(dataset=dict(type='CocoDataset', ann_file='none.json'))
    cfg.val_evaluator = [dict(type='CocoMetric', ann_file='none.json')]
    check_data_files(cfg, training=True)
    cfg.val_cfg = dict()
    with pytest.raises(SettingError, match=r'val_dataloader\.dataset'):
        check_data_files(cfg, training=True)
    cfg.pop('val_dataloader')
    with pytest.raises(SettingError, match=r'val_evaluator\.0.*set val_evaluator\.0'):
        check_data_files(cfg, training=True)


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


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without GPUs')
def test_wrong_setting_in_two_processes_is_told_once(tiny):
    done = bash(
        ROOT / 'tools/dist_train.sh', tiny / 'config.py', 2,
        '--work-dir', tiny / 'w', '--cfg-options', 'model.norm_cfg.type=SyncBN',
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count('error: SyncBN') == 1
    assert 'Traceback' not in done.stderr


def test_sync_norm_in_cpu_processes(monkeypatch):
    monkeypatch.setattr(machine, 'get_device', lambda: 'cpu')
    norm = dict(type='SyncBN', requires_grad=True)
    cfg = Config(dict(launcher='pytorch', model=dict(neck=dict(norm_cfg=norm))))
    with pytest.raises(SettingError, match=r'model\.neck\.norm_cfg\.type=BN'):
        machine.prepare(cfg)
    # In evaluation mode it needs no other process, nor in a single one.
    monkeypatch.setattr(machine, '_init_cpu_processes', lambda *_: None)
    cfg.model.neck.norm_eval = True
    machine.prepare(cfg)
    cfg = Config(dict(launcher='none', model=dict(neck=dict(norm_cfg=norm))))
    machine.prepare(cfg)
    assert 'model_wrapper_cfg' not in cfg


def test_wrapper_for_the_cpu_keeps_what_the_config_says(monkeypatch):
    monkeypatch.setattr(machine, 'get_device', lambda: 'cpu')
    monkeypatch.setattr(machine, '_init_cpu_processes', lambda *_: None)
    cfg = Config(dict(launcher='pytorch', find_unused_parameters=True))
    machine.prepare(cfg)
    assert cfg.model_wrapper_cfg.find_unused_parameters is True
    assert cfg.model_wrapper_cfg.device_ids is None
    wrapper = dict(type='MMDistributedDataParallel', static_graph=True)
    cfg = Config(dict(launcher='pytorch', model_wrapper_cfg=wrapper))
    machine.prepare(cfg)
    assert cfg.model_wrapper_cfg.static_graph is True
    assert cfg.model_wrapper_cfg.device_ids is None


def test_shipped_config():
    cfg = load_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    assert cfg.model.type == 'RetinaNet'


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


def test_setup_names_what_a_python_lacks(tmp_path):
    # A Python of its own, with nothing installed.
    subprocess.run(
        [sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'bare'], check=True
    )
    python = tmp_path / 'bare/bin/python'
    line = assert_one_line(bash(ROOT / 'tools/setup_env.sh', SMD_PYTHON=str(python)))
    assert str(python) in line
    assert all(name in line for name in ('torch', 'mmengine', 'mmcv', 'mmdet'))
    line = assert_one_line(bash(ROOT / 'tools/setup_env.sh', SMD_PYTHON='/none/python'))
    assert '/none/python' in line
    assert 'usage' in assert_one_line(bash(ROOT / 'tools/setup_env.sh', '--nonsense'))
    assert 'usage' in assert_one_line(bash(ROOT / 'tools/quickstart.sh', '--nonsense'))


def test_setup_needs_a_compiler_and_the_right_python(tmp_path):
    """On a machine with neither, in a copy: nothing is left behind."""
    copy = tmp_path / 'copy'
    for part in ('tools', 'requirements'):
        (copy / part).mkdir(parents=True)
        for file in (ROOT / part).glob('*.*'):
            (copy / part / file.name).write_bytes(file.read_bytes())
    (copy / 'setup.py').write_bytes((ROOT / 'setup.py').read_bytes())
    programs = tmp_path / 'bin'
    programs.mkdir()
    needed = 'bash cat cksum dirname flock grep head mkdir rm sed sleep tail uname'
    for name in needed.split():
        found = subprocess.run(
            ['bash', '-c', f'command -v {name}'], capture_output=True, text=True
        ).stdout.strip()
        if found:
            (programs / name).symlink_to(found)
    env = {
        'PATH': str(programs), 'SMD_PYTHON': '', 'VIRTUAL_ENV': '', 'CONDA_PREFIX': '',
        'XDG_CACHE_HOME': str(tmp_path / 'cache'), 'CXX': 'no-compiler',
    }  # fmt: skip
    script = copy / 'tools/setup_env.sh'
    assert 'Python 3.11' in assert_one_line(bash(script, **env))
    if sys.version_info[:2] == (3, 11):
        (programs / 'python3.11').symlink_to(sys.executable)
        assert 'compiler' in assert_one_line(bash(script, **env))
    assert not (copy / '.venv').exists()


def test_pins_agree():
    """setup.py's extra and requirements/stack.txt name the same stack."""
    stack = (ROOT / 'requirements/stack.txt').read_text()
    for pin in re.findall(r'^mm\w+==.+$', stack, re.MULTILINE):
        assert f"'{pin}'" in (ROOT / 'setup.py').read_text()
