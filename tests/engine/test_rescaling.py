"""What a rescaling does to the weights' motion, and that processes stay equal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from rescaled import DROP, rescaling, starting, the_hook, train
from tiny import SCALE_INVARIANT, rows_of

from smd_mmdet import theory
from smd_mmdet.records import read_records

ROOT = Path(__file__).resolve().parents[2]
C = 10**-0.25


class Weights(Hook):
    """Weights before and after every step, in float64."""

    def __init__(self):
        self.old, self.new = [], []

    priority = 'VERY_LOW'

    def _now(self, runner):
        parameters = dict(runner.model.named_parameters())
        return [parameters[n].detach().double().flatten() for n in SCALE_INVARIANT]

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.old.append(self._now(runner))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.new.append(self._now(runner))

    def angle(self, t, layer):
        w, u = self.old[t][layer], self.new[t][layer]
        along = (u @ w) / w.norm()
        across = (u - along * w / w.norm()).norm()
        return float(torch.atan2(across, along))


@pytest.mark.parametrize('kind', ['SGD', 'AdamW'])
def test_rows_after_the_drop_are_those_of_the_weights(tmp_path, kind):
    optimizer = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-3)
    if kind == 'AdamW':
        optimizer = dict(type='AdamW', lr=1e-2, weight_decay=0.1)
    changes = {'optim_wrapper.optimizer': dict(_delete_=True, **optimizer)}
    config = rescaling(tmp_path, hook=dict(window=1), changes=changes)
    weights = Weights()
    runner = train(config, weights)
    rows = read_records(tmp_path).table.to_pandas()
    for t in range(DROP - 2, DROP + 3):
        for i, name in enumerate(SCALE_INVARIANT):
            row = rows[(rows['iter'] == t + 1) & (rows['layer'] == name)].iloc[0]
            assert row['angular_update_mean'] == pytest.approx(
                weights.angle(t, i), rel=2e-3
            )
            size = float(weights.old[t][i].norm())
            assert row['weight_norm_mean'] == pytest.approx(size, rel=1e-5)
    c = C if kind == 'SGD' else C**2
    assert the_hook(runner).history[0]['factor_max'] == pytest.approx(c)


def test_the_factor_under_adamw_puts_a_walk_at_its_new_equilibrium():
    """A scale-invariant weight with random gradients, of no code of ours."""
    generator = np.random.default_rng(0)
    layers, size, lr, decay, b1, b2 = 40, 64, 0.02, 0.1, 0.9, 0.99
    w = generator.standard_normal((layers, size))
    w *= 0.5 / np.linalg.norm(w, axis=1, keepdims=True)
    m, v = np.zeros_like(w), np.zeros_like(w)

    def step(t, lr):
        nonlocal w, m, v
        norm = np.linalg.norm(w, axis=1, keepdims=True)
        g = generator.standard_normal(w.shape)
        g -= (g * w).sum(1, keepdims=True) * w / norm**2
        g /= norm
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        new = w - lr * decay * w
        new -= lr * m / (1 - b1**t) / np.sqrt(v / (1 - b2**t))
        cosine = (new * w).sum(1) / np.linalg.norm(new, axis=1) / norm[:, 0]
        w = new
        return np.arccos(np.clip(cosine, -1, 1))

    for t in range(1, 3001):
        before = step(t, lr)
    wanted = theory.adamw_angular_update(lr, decay, b1)
    assert np.sqrt((before**2).mean()) == pytest.approx(wanted, rel=0.1)
    c = float(theory.rescale_factor(10)) ** 2
    w, m, v = w * c, m / c, v / c**2
    after = [step(t, lr / 10) for t in range(3001, 3051)]
    wanted = theory.adamw_angular_update(lr / 10, decay, b1)
    assert np.sqrt(np.mean(np.square(after))) == pytest.approx(wanted, rel=0.1)


KEEPER = """
import json, os, torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Keeper(Hook):
    priority = 'VERY_LOW'
    def after_train(self, runner):
        path = os.path.join(runner.work_dir, f'rank{runner.rank}')
        torch.save({k: v.clone() for k, v in runner.model.state_dict().items()},
                   path + '.pt')
        hook = next(h for h in runner.hooks if type(h).__name__ == 'SMDRescaleHook')
        with open(path + '.json', 'w') as file:
            json.dump(hook.history, file)
"""


@pytest.mark.parametrize('angular_update', [None, 5e-3])
def test_processes_stay_equal(tmp_path, angular_update):
    config = starting(tmp_path / 'run', max_iters=60)
    config.custom_hooks[-1].update(at_lr_drops=True)
    if angular_update:
        config.custom_hooks[-1] = dict(
            type='SMDRescaleHook', angular_update=angular_update, every=10
        )
    config.param_scheduler.append(
        dict(type='MultiStepLR', by_epoch=False, milestones=[52], gamma=0.1)
    )
    config.custom_hooks.append(dict(type='Keeper'))
    config.custom_imports.imports.append('keeper')
    (tmp_path / 'keeper.py').write_text(KEEPER)
    config.dump(tmp_path / 'config.py')
    paths = [str(tmp_path), str(ROOT / 'tests'), os.environ.get('PYTHONPATH', '')]
    done = subprocess.run(
        ['bash', ROOT / 'tools/dist_train.sh', tmp_path / 'config.py', '2',
         '--work-dir', tmp_path / 'run'],
        env=os.environ | dict(SMD_PYTHON=sys.executable, OMP_NUM_THREADS='1',
                              PYTHONPATH=os.pathsep.join(paths),
                              CUDA_VISIBLE_DEVICES='-1'),
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    histories = [
        json.loads((tmp_path / f'run/rank{i}.json').read_text()) for i in range(2)
    ]
    assert histories[0] == histories[1]
    if angular_update:
        rows = rows_of(tmp_path / 'run')
        assert (rows['control_factor'] != 1).sum() >= 8
    else:
        causes = [one['cause'] for one in histories[0]]
        assert 'start at equilibrium' in causes and causes[-1] == 'learning rate'
    ranks = [torch.load(tmp_path / f'run/rank{i}.pt') for i in range(2)]
    for name, value in ranks[0].items():
        # Running statistics belong to each process, as on GPUs.
        if 'running' not in name:
            assert torch.equal(ranks[1][name], value), name
