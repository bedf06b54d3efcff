"""SMDRescaleHook in MMEngine's Runner: rate drops, resumes, averages, processes."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from tiny import SCALE_INVARIANT, tiny_config

from smd_mmdet import theory
from smd_mmdet.engine import SettingError
from smd_mmdet.records import read_records

ROOT = Path(__file__).resolve().parents[2]
DROP = 40  # iterations before the milestone of tiny_config
C = 10**-0.25


@pytest.fixture(autouse=True)
def one_run_at_a_time():
    """MMEngine keeps global instances by experiment name; tests start anew."""
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.registry import DefaultScope
    from mmengine.visualization import Visualizer

    for kept in (MessageHub, MMLogger, DefaultScope, Visualizer):
        kept._instance_dict.clear()


class Witness(Hook):
    """Copies of the model before and after each iteration's rescaling.

    Args:
        iterations: Those to look at, counted from 0.
    """

    priority = 'NORMAL'

    def __init__(self, iterations=(DROP,)):
        self.iterations = iterations
        self.before, self.after, self.grads = {}, {}, {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter in self.iterations:
            self.before[runner.iter] = self.models(runner)
            self.grads[runner.iter] = gradients(runner)

    def models(self, runner):
        found = [runner.model]
        found += [h.ema_model.module for h in runner.hooks if isinstance(h, EMAHook)]
        return copy.deepcopy(found)


class Late(Witness):
    priority = 'LOW'


def gradients(runner):
    return {
        name: p.grad.clone()
        for name, p in runner.model.named_parameters()
        if p.grad is not None
    }


def rescaling(work_dir, max_iters=43, hook=None, extra=(), **settings):
    """A config with the hook; ``hook`` are SMDHook's settings, None leaves it out."""
    changes = settings.pop('changes', {})
    config = tiny_config(work_dir, max_iters=max_iters, hook=hook, **changes)
    hooks = config.get('custom_hooks', [])
    config.custom_hooks = [*hooks, *extra, dict(type='SMDRescaleHook', **settings)]
    return config


def train(config, *hooks, resume=None):
    if resume is not None:
        config.merge_from_dict(dict(resume=True, load_from=str(resume)))
    runner = Runner.from_cfg(config)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return runner


def the_hook(runner):
    return next(h for h in runner.hooks if type(h).__name__ == 'SMDRescaleHook')


def witnessed(config, iterations=(DROP,)):
    early, late = Witness(iterations), Late(iterations)
    return train(config, early, late), early, late


def evaluated(model):
    model = copy.deepcopy(model).double().eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        return model(images.to(next(model.parameters()).device), None)


def everything(runner):
    """Weights, buffers, and the optimizer's state, by name."""
    found = dict(runner.model.state_dict())
    optimizer = runner.optim_wrapper.optimizer
    for name, p in runner.model.named_parameters():
        for key, value in optimizer.state[p].items():
            found[f'{name}: {key}'] = value
    return {name: value.clone() for name, value in found.items()}


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


# ---------------------------------------------------------------- at a drop


def test_a_drop_scales_weights_and_changes_no_output(tmp_path):
    runner, before, after = witnessed(rescaling(tmp_path, hook=dict(window=5)))
    (old,), (new,) = before.before[DROP], after.before[DROP]
    old_weights = dict(old.named_parameters())
    for name, weight in new.named_parameters():
        c = C if name in SCALE_INVARIANT else 1
        assert torch.allclose(weight, c * old_weights[name], rtol=1e-6, atol=0), name
    change = (evaluated(new) - evaluated(old)).abs().max() / evaluated(old).abs().max()
    assert change < 1e-3  # the ε of the norms
    assert len(the_hook(runner).history) == 1
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert (
        'smd: iteration 41: 2 scale-invariant weights rescaled by 0.5623 '
        '(learning rate divided by 10)' in log
    )
    told = read_records(tmp_path).metadata['rescaled']
    assert told == the_hook(runner).history
    assert told[0]['iteration'] == DROP + 1 and told[0]['lr_divided_by'] == [10]


@pytest.mark.parametrize('saved_at', [DROP - 1, DROP, DROP + 1])
def test_a_resume_around_the_drop_equals_the_run_without_it(tmp_path, saved_at):
    def config(work_dir):
        changes = {'default_hooks.checkpoint.interval': saved_at}
        return rescaling(work_dir, hook=dict(window=5), changes=changes)

    whole = everything(train(config(tmp_path / 'whole')))
    checkpoint = tmp_path / 'whole' / f'iter_{saved_at}.pth'
    resumed = train(config(tmp_path / 'resumed'), resume=checkpoint)
    assert_equal(whole, everything(resumed))
    assert [one['iteration'] for one in the_hook(resumed).history] == [DROP + 1]
    told = read_records(tmp_path / 'resumed').metadata['rescaled']
    assert told[0]['iteration'] == DROP + 1


def test_a_plain_run_may_be_branched_off_at_the_drop(tmp_path):
    changes = {'default_hooks.checkpoint.interval': DROP}
    train(tiny_config(tmp_path / 'plain', max_iters=DROP, **changes))
    whole = everything(train(rescaling(tmp_path / 'whole')))
    branch = rescaling(tmp_path / 'branch')
    checkpoint = tmp_path / 'plain' / f'iter_{DROP}.pth'
    assert_equal(whole, everything(train(branch, resume=checkpoint)))


def test_loading_weights_is_not_resuming(tmp_path):
    config = rescaling(tmp_path / 'a', max_iters=DROP)
    config.default_hooks.checkpoint.interval = DROP
    train(config)
    config = rescaling(tmp_path / 'b', max_iters=5)
    config.load_from = str(tmp_path / 'a' / f'iter_{DROP}.pth')
    assert the_hook(train(config)).history == []


@pytest.mark.parametrize('update_buffers', [True, False])
def test_averages_of_the_model_follow(tmp_path, update_buffers):
    average = dict(type='EMAHook', momentum=0.1, update_buffers=update_buffers)
    config = rescaling(tmp_path, extra=[average])
    _, *witnesses = witnessed(config)
    for old, new in zip(*(w.before[DROP] for w in witnesses), strict=True):
        first, second = evaluated(old), evaluated(new)
        assert (first - second).abs().max() / first.abs().max() < 1e-3
    name = SCALE_INVARIANT[0]
    old, new = (witness.before[DROP][1].get_parameter(name) for witness in witnesses)
    assert torch.allclose(new, C * old, rtol=1e-6, atol=0)


def test_gradients_under_way_are_scaled_too(tmp_path):
    changes = {'optim_wrapper.accumulative_counts': 3}
    _, before, after = witnessed(rescaling(tmp_path, changes=changes))
    assert DROP % 3  # in the middle of an accumulation
    for name, gradient in before.grads[DROP].items():
        c = C if name in SCALE_INVARIANT else 1
        expected = gradient / c
        assert torch.allclose(after.grads[DROP][name], expected, rtol=1e-5), name


def test_without_constructor_and_monitor(tmp_path):
    changes = {'optim_wrapper.constructor': 'DefaultOptimWrapperConstructor'}
    one = train(rescaling(tmp_path / 'a', changes=changes))
    two = train(rescaling(tmp_path / 'b', hook=dict(window=5)))
    assert len(one.optim_wrapper.optimizer.param_groups) == 1
    assert_equal(everything(one), everything(two))


def test_weights_can_be_left_alone(tmp_path):
    config = rescaling(tmp_path, exclude=['layers.3'])
    _, before, after = witnessed(config)
    (old,), (new,) = before.before[DROP], after.before[DROP]
    assert torch.equal(old.layers[3].weight, new.layers[3].weight)
    assert not torch.equal(old.layers[0].weight, new.layers[0].weight)


class Uneven(Hook):
    """Another rate for each group."""

    priority = 'NORMAL'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 20:
            for i, group in enumerate(runner.optim_wrapper.optimizer.param_groups):
                group['lr'] /= 2 + i


def test_each_group_follows_its_own_rate(tmp_path):
    keys = {'layers.0': dict(lr_mult=0.5)}
    changes = {'optim_wrapper.paramwise_cfg': dict(custom_keys=keys)}
    changes['param_scheduler'] = []
    config = rescaling(tmp_path, max_iters=22, changes=changes)
    early, late = Witness([20]), Late([20])
    runner = train(config, Uneven(), early, late)
    (old,), (new,) = early.before[20], late.before[20]
    parameters = dict(runner.model.named_parameters())
    for name in SCALE_INVARIANT:
        group = next(
            i
            for i, group in enumerate(runner.optim_wrapper.optimizer.param_groups)
            if any(p is parameters[name] for p in group['params'])
        )
        ratio = new.get_parameter(name).norm() / old.get_parameter(name).norm()
        assert float(ratio.detach()) == pytest.approx((2 + group) ** -0.25)


COSINE = dict(type='CosineAnnealingLR', by_epoch=False, begin=10, end=30, eta_min=1e-3)
LINEAR = dict(type='LinearLR', by_epoch=False, begin=10, end=20, end_factor=0.1,
              start_factor=1.0)  # fmt: skip
WARMUP = dict(type='LinearLR', by_epoch=False, begin=0, end=10, start_factor=0.1)


@pytest.mark.parametrize(
    'schedulers', [[LINEAR], [WARMUP, COSINE]], ids=['linear', 'warm-up, cosine']
)
def test_gradual_changes_are_left_alone_unless_asked_for(tmp_path, schedulers):
    changes = dict(param_scheduler=copy.deepcopy(schedulers))
    left = train(rescaling(tmp_path / 'left', 32, changes=changes))
    assert the_hook(left).history == []
    changes = dict(param_scheduler=copy.deepcopy(schedulers))
    followed = train(rescaling(tmp_path / 'all', 32, changes=changes, continuous=True))
    history = the_hook(followed).history
    first = 0.01 if WARMUP in schedulers else 0.1
    last = followed.optim_wrapper.optimizer.param_groups[0]['lr']
    product = np.prod([one['factor_min'] for one in history])
    assert len(history) >= 9
    assert product == pytest.approx((last / first) ** 0.25, rel=1e-6)


def test_a_fault_changes_nothing_and_training_goes_on(tmp_path, monkeypatch):
    plain = everything(train(tiny_config(tmp_path / 'plain', max_iters=43)))

    def broken(*args):
        raise RuntimeError('no way')

    monkeypatch.setattr('smd_mmdet.engine.rescaling.plan', broken)
    runner = train(rescaling(tmp_path / 'broken'))
    assert_equal(plain, everything(runner))
    log = next((tmp_path / 'broken').glob('*/*.log')).read_text()
    assert 'weights are not rescaled at iteration 41' in log and 'no way' in log


class Replace(Hook):
    """Another optimizer takes the place of the first one."""

    priority = 'NORMAL'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2:
            wrapper = runner.optim_wrapper
            wrapper.optimizer = copy.copy(wrapper.optimizer)


def test_a_replaced_optimizer_ends_the_rescaling(tmp_path):
    runner = train(rescaling(tmp_path, max_iters=4), Replace())
    assert runner.iter == 4
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'rescaling stopped at iteration 3, training goes on' in log


# ------------------------------------------------------- what is measured there


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


# ------------------------------------------------------------ start at equilibrium


def starting(work_dir, interval=1000, max_iters=120, window=10, **settings):
    changes = {
        'default_hooks.checkpoint.interval': interval,
        'param_scheduler': [WARMUP],
        'optim_wrapper.optimizer.lr': 0.05,
    }
    return rescaling(
        work_dir,
        max_iters=max_iters,
        hook=dict(window=window),
        changes=changes,
        at_lr_drops=False,
        start_at_equilibrium=dict(measure=20, **settings),
    )


def test_layers_start_at_their_equilibrium(tmp_path):
    config = starting(tmp_path, max_iters=55, window=1)
    runner, before, after = witnessed(config, iterations=(30,))
    history = the_hook(runner).history
    assert 1 <= len(history) <= 3
    # Warm-up ends with 10 iterations; 20 are measured.
    assert history[0]['iteration'] == 31
    (old,), (new,) = before.before[30], after.before[30]
    change = (evaluated(new) - evaluated(old)).abs().max() / evaluated(old).abs().max()
    assert change < 1e-2
    rows = read_records(tmp_path).table.to_pandas()
    measured = rows[(rows['iter'] > 10) & (rows['iter'] <= 30)]
    for name in SCALE_INVARIANT:
        h = measured[measured['layer'] == name]['unit_h_mean'].mean()
        wanted = float(theory.equilibrium_norm(0.05, 5e-3, h, 0.9))
        found = float(new.get_parameter(name).detach().double().norm())
        size = float(old.get_parameter(name).detach().double().norm())
        if abs(wanted / size - 1) > 0.03:
            assert found == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize('saved_at', [15, 30])
def test_a_resume_in_mid_phase_equals_the_run_without_it(tmp_path, saved_at):
    whole = train(starting(tmp_path / 'whole', saved_at, max_iters=55))
    checkpoint = tmp_path / 'whole' / f'iter_{saved_at}.pth'
    config = starting(tmp_path / 'resumed', saved_at, max_iters=55)
    resumed = train(config, resume=checkpoint)
    assert_equal(everything(whole), everything(resumed))
    assert the_hook(whole).history == the_hook(resumed).history != []


class BreakPhase(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 15:
            the_hook(runner)._work.phases._phase._monitor._give_up(ValueError('broken'))


def test_a_phase_that_fails_ends_neither_checkpoints_nor_drops(tmp_path):
    config = rescaling(tmp_path, start_at_equilibrium=dict(measure=20))
    config.default_hooks.checkpoint.interval = 20
    runner = train(config, BreakPhase())
    log = Path(runner.logger.handlers[1].baseFilename).read_text()
    assert 'layers are not put at equilibrium: broken' in log
    assert 'rescaling stopped' not in log
    assert [entry['cause'] for entry in the_hook(runner).history] == ['learning rate']
    saved = torch.load(tmp_path / 'iter_20.pth', weights_only=True)
    assert saved['smd_rescale']['start']['monitor'] is None


def test_factors_are_bounded(tmp_path):
    config = starting(tmp_path, max_iters=40, max_factor=1.05, repeats=1)
    runner = train(config)
    (told,) = the_hook(runner).history
    assert max(told['factor_max'], 1 / told['factor_min']) == pytest.approx(1.05)


def test_layers_without_decay_are_left_alone_and_named(tmp_path):
    config = starting(tmp_path, max_iters=40, repeats=1)
    config.optim_wrapper.paramwise_cfg = dict(
        custom_keys={'layers.3': dict(decay_mult=0.0)}
    )
    train(config)
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'layers.3.weight (no decay)' in log


def test_weights_are_not_shrunk_into_the_epsilon(tmp_path):
    class Faint(Hook):
        """A layer far above its equilibrium, with little output variance: 200 ε."""

        priority = 'HIGHEST'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 10:
                runner.model.layers[3].weight.data *= 4
            if runner.iter == 30:
                norm = runner.model.layers[4]
                norm.running_var.fill_(200 * norm.eps)

    config = starting(tmp_path, max_iters=32, repeats=1)
    early, late = Witness([30]), Late([30])
    train(config, Faint(), early, late)
    (old,), (new,) = early.before[30], late.before[30]
    norm = new.layers[4]
    assert float(norm.running_var.median()) >= 99 * norm.eps
    ratio = new.layers[3].weight.norm() / old.layers[3].weight.norm()
    assert float(ratio.detach()) == pytest.approx(0.5**0.5, rel=1e-4)
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'layers.3.weight (held back, layers.4 is near its ε)' in log


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(at_lr_drop=True), "no setting 'at_lr_drop'; did you mean 'at_lr_drops'"),
        (dict(at_lr_drops=1), 'at_lr_drops must be True or False, got 1'),
        (dict(continuous='yes'), 'continuous must be True or False'),
        (dict(at_lr_drops=False), 'leave nothing to do'),
        (dict(at_lr_drops=False, continuous=True), 'continuous=True needs'),
        (dict(exclude=[1]), 'exclude must be a list'),
        (dict(start_at_equilibrium=3), 'must be True, False or a dict, got 3'),
        (
            dict(start_at_equilibrium=dict(measures=3)),
            "has no 'measures'; it has begin",
        ),
        (dict(start_at_equilibrium=dict(measure=0)), 'measure must be an integer >= 1'),
        (dict(start_at_equilibrium=dict(repeats=1.5)), 'repeats must be an integer'),
        (dict(start_at_equilibrium=dict(begin=-1)), 'begin must be an integer >= 0'),
        (dict(start_at_equilibrium=dict(max_factor=1)), 'max_factor must be > 1'),
        (dict(start_at_equilibrium=dict(tolerance='x')), 'tolerance must be > 0'),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        HOOKS.build(dict(type='SMDRescaleHook', **settings))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'model.norm': 'none'}, 'no weight to rescale'),
        (dict(exclude=['nothing']), "'nothing' matches no parameter"),
        ({'optim_wrapper.optimizer.nesterov': True}, 'SMDRescaleHook: .*nesterov=True'),
        (
            {
                'optim_wrapper.optimizer': dict(
                    _delete_=True, type='Adam', lr=1e-3, weight_decay=0.1
                )
            },
            'no equilibrium is known under Adam; take SGD or AdamW',
        ),
        (
            {
                'optim_wrapper.accumulative_counts': 8,
                'start': dict(start_at_equilibrium=dict(measure=4)),
            },
            'measure=4 is below optim_wrapper.accumulative_counts=8',
        ),
    ],
)
def test_runs_without_an_equilibrium_are_refused(tmp_path, changes, message):
    settings = changes if 'exclude' in changes else dict(changes=changes)
    settings |= changes.pop('start', {})
    with pytest.raises(SettingError, match=message):
        train(rescaling(tmp_path, max_iters=2, **settings))


# ---------------------------------------------------------------- processes

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


def test_processes_stay_equal(tmp_path):
    config = starting(tmp_path / 'run', max_iters=60)
    config.custom_hooks[-1].update(at_lr_drops=True)
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
    causes = [one['cause'] for one in histories[0]]
    assert 'start at equilibrium' in causes and causes[-1] == 'learning rate'
    ranks = [torch.load(tmp_path / f'run/rank{i}.pt') for i in range(2)]
    for name, value in ranks[0].items():
        # Running statistics belong to each process, as on GPUs.
        if 'running' not in name:
            assert torch.equal(ranks[1][name], value), name
