"""What the tests of tools/ share: a config that trains in no time, how to run tools."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

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
