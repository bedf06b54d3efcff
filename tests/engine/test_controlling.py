"""SMDRescaleHook(angular_update=...) in MMEngine's Runner."""

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from rescaled import (
    WARMUP,
    Late,
    Witness,
    assert_equal,
    evaluated,
    everything,
    rescaling,
    the_hook,
    train,
)
from tiny import SCALE_INVARIANT, log_of, rows_of, tiny_config

from smd_mmdet.config.control import ControlSettings
from smd_mmdet.engine import SettingError
from smd_mmdet.records import read_records

HIGH, LOW, ITERATIONS = 2e-2, 2e-3, 120
COSINE = dict(type='CosineAnnealingLR', by_epoch=False, eta_min=LOW)
SCHEDULE = dict(value=HIGH, param_scheduler=[COSINE])


def controlled(work_dir, angular_update=SCHEDULE, window=10, interval=1000, **settings):
    changes = {
        'default_hooks.checkpoint.interval': interval,
        'param_scheduler': [WARMUP],
        'optim_wrapper.optimizer.lr': 0.05,
        **settings.pop('changes', {}),
    }
    settings = dict(max_iters=ITERATIONS, every=10) | settings
    return rescaling(
        work_dir,
        hook=None if window is None else dict(window=window),
        changes=changes,
        angular_update=angular_update,
        **settings,
    )


def cosine():
    t = np.arange(ITERATIONS)
    return LOW + (HIGH - LOW) * (1 + np.cos(np.pi * t / ITERATIONS)) / 2


class Norms(Hook):
    """Norms of the weights after each step, and before the next one."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.before, self.after = [], []

    def _now(self, runner):
        named = dict(runner.model.named_parameters())
        return [float(named[n].detach().double().norm()) for n in SCALE_INVARIANT]

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.before.append(self._now(runner))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.after.append(self._now(runner))


def test_records_tell_what_was_wanted_and_what_was_done(tmp_path):
    norms = Norms()
    train(controlled(tmp_path), norms)
    rows, first = rows_of(tmp_path), 1
    wanted = cosine()
    ratio = np.array(norms.before[1:]) / np.array(norms.after[:-1])
    ratio = np.concatenate([np.ones((1, 2)), ratio])
    assert (np.abs(ratio - 1) > 0.01).any()
    for end in sorted(set(rows['iter'])):
        window = slice(first - 1, end)
        for i, name in enumerate(SCALE_INVARIANT):
            row = rows[(rows['iter'] == end) & (rows['layer'] == name)].iloc[0]
            root = np.sqrt(np.mean(wanted[window] ** 2))
            assert row['angular_update_wanted'] == pytest.approx(root)
            factor = np.prod(ratio[window, i])
            assert row['control_factor'] == pytest.approx(factor, rel=1e-5)
        first = end + 1
    told = read_records(tmp_path).metadata['controlled']
    assert told == {
        'wanted': '0.02 rad, scheduled by CosineAnnealingLR',
        'every': 10,
    }


@pytest.mark.parametrize('every', [1, 5])
def test_the_measured_angle_is_the_wanted_one(tmp_path, every):
    """Of a network that learns its few images, whose gradients change all the time."""
    train(controlled(tmp_path, window=20, every=every))
    rows = rows_of(tmp_path)
    rows = rows[(rows['iter'] > 30) & (rows['count'] > 15)]
    root = np.sqrt(rows['angular_update_mean'] ** 2 + rows['angular_update_var'])
    apart = np.abs(root / rows['angular_update_wanted'] - 1)
    assert apart.median() < (0.05 if every == 1 else 0.15)


def test_outputs_stay_and_averages_follow(tmp_path):
    average = dict(type='EMAHook', momentum=0.1, update_buffers=True)
    iterations = range(10, 60)
    early, late = Witness(iterations), Late(iterations)
    train(controlled(tmp_path, window=None, extra=[average], max_iters=60), early, late)
    moved = 0
    for t in iterations:
        for old, new in zip(early.before[t], late.before[t], strict=True):
            change = (evaluated(new) - evaluated(old)).abs().max()
            assert change / evaluated(old).abs().max() < 1e-2  # the ε of the norms
        ratios = [
            float(new.get_parameter(name).norm() / old.get_parameter(name).norm())
            for old, new in zip(early.before[t], late.before[t], strict=True)
            for name in SCALE_INVARIANT[:1]
        ]
        moved += abs(ratios[0] - 1) > 0.01
        assert ratios[1] == pytest.approx(ratios[0], rel=1e-5)
    assert moved >= 3


@pytest.mark.parametrize(
    ('saved_at', 'changes'),
    [
        (25, {}),
        (50, {}),  # right at a control
        (24, {'optim_wrapper.accumulative_counts': 2}),
        (50, {'optim_wrapper.clip_grad': dict(max_norm=0.5)}),
    ],
)
def test_a_resume_equals_the_run_without_it(tmp_path, saved_at, changes):
    def config(work_dir):
        return controlled(work_dir, interval=saved_at, max_iters=80, changes=changes)

    whole = train(config(tmp_path / 'whole'))
    checkpoint = tmp_path / 'whole' / f'iter_{saved_at}.pth'
    resumed = train(config(tmp_path / 'resumed'), resume=checkpoint)
    assert_equal(everything(whole), everything(resumed))
    one, two = (rows_of(tmp_path / name) for name in ('whole', 'resumed'))
    one = one[one['iter'] > saved_at].reset_index(drop=True)
    two = two[two['iter'] > saved_at].reset_index(drop=True)
    for name in ('angular_update_wanted', 'control_factor', 'angular_update_mean'):
        assert one[name].equals(two[name]), name


def test_steps_of_several_iterations_have_the_angle_of_their_last(tmp_path):
    changes = {'optim_wrapper.accumulative_counts': 3}
    runner = train(controlled(tmp_path, max_iters=70, changes=changes))
    times = the_hook(runner)._work.control._times
    # The last iterations make a step, whether they are three or not.
    assert times.done == 23
    last = [times._wanted.at(t, times.settings()[None])[0, 0] for t in (0, 22, 23)]
    t = np.array([2, 68, 69])
    expected = LOW + (HIGH - LOW) * (1 + np.cos(np.pi * t / 70)) / 2
    assert last == pytest.approx(expected.tolist())


@pytest.mark.parametrize('scale_time', [False, True])
def test_a_run_is_repeated(tmp_path, scale_time):
    train(controlled(tmp_path / 'a', SCHEDULE, window=10))
    first = rows_of(tmp_path / 'a')
    setting = str(tmp_path / 'a')
    if scale_time:
        setting = dict(run=setting, scale_time=True)
    iterations = 240 if scale_time else ITERATIONS
    train(controlled(tmp_path / 'b', setting, window=10, max_iters=iterations))
    second = rows_of(tmp_path / 'b')
    for name in SCALE_INVARIANT:
        recorded = first[first['layer'] == name].sort_values('iter')
        root = np.sqrt(
            recorded['angular_update_mean'] ** 2 + recorded['angular_update_var']
        ).to_numpy()
        ends = recorded['iter'].to_numpy() * iterations // ITERATIONS
        repeated = second[second['layer'] == name].sort_values('iter')
        start = 0
        for _, row in repeated.iterrows():
            steps = np.arange(start, row['iter'])
            values = root[np.searchsorted(ends, steps, side='right')]
            wanted = np.sqrt(np.mean(values**2))
            assert row['angular_update_wanted'] == pytest.approx(wanted)
            start = row['iter']


def test_without_records_nothing_else_changes(tmp_path):
    one = train(controlled(tmp_path / 'a', window=None))
    two = train(controlled(tmp_path / 'b'))
    assert_equal(everything(one), everything(two))


def test_a_branch_off_a_plain_run_is_controlled_from_there(tmp_path):
    changes = {'default_hooks.checkpoint.interval': 60}
    train(tiny_config(tmp_path / 'plain', max_iters=60, **changes))
    branch = controlled(tmp_path / 'branch', max_iters=100)
    runner = train(branch, resume=tmp_path / 'plain' / 'iter_60.pth')
    log = log_of(runner)
    assert 'smd: iteration 71: 2 scale-invariant weights rescaled by' in log
    assert log.count('control of Δ') == 1  # of the others the log says nothing


def test_a_fault_ends_the_control_and_not_the_training(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError('no way')

    monkeypatch.setattr('smd_mmdet.control.regulator.course_of', broken)
    runner = train(controlled(tmp_path, max_iters=20))
    assert runner.iter == 20
    assert 'rescaling stopped at iteration 11, training goes on' in log_of(runner)


# ------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(angular_update=0), 'angular_update must be above 0 and at most π/2'),
        (dict(angular_update=-1e-3), 'angular_update must be above 0'),
        (dict(angular_update=float('nan')), 'angular_update must be finite'),
        (dict(angular_update=2), 'angular_update must be above 0 and at most π/2'),
        (dict(angular_update=True), "angular_update must be 'equilibrium', a number"),
        (dict(angular_update=[1e-3]), "angular_update must be 'equilibrium', a number"),
        (dict(angular_update=dict(value=0.0)), 'angular_update.value must be above 0'),
        (dict(angular_update={}), 'angular_update needs value=..., or run=...'),
        (
            dict(angular_update=dict(value=1e-3, schedulers=[])),
            "has no setting 'schedulers'; did you mean 'param_scheduler'",
        ),
        (
            dict(angular_update=dict(value=1e-3, param_scheduler=3)),
            'angular_update.param_scheduler must be a list of dicts',
        ),
        (
            dict(angular_update=dict(run='a', value=1e-3)),
            "has no setting 'value'; it has run, scale_time",
        ),
        (
            dict(angular_update=dict(run='a', scale_time=1)),
            'angular_update.scale_time must be True or False',
        ),
        (dict(angular_update=dict(run='')), 'angular_update.run must be the folder'),
        (dict(angular_update=1e-3, every=0), 'every must be an integer >= 1'),
        (
            dict(angular_update=1e-3, start_at_equilibrium=True),
            'start_at_equilibrium and angular_update are two ways',
        ),
        (
            dict(angular_update=1e-3, continuous=True),
            'continuous and angular_update are two ways',
        ),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        HOOKS.build(dict(type='SMDRescaleHook', **settings))


@pytest.mark.parametrize(
    ('scheduler', 'message'),
    [
        (COSINE | dict(eta_min=2.0), 'param_scheduler must be above 0 and at most π/2'),
        (
            dict(type='LinearLR', start_factor=1.0, end_factor=0.0, end=5),
            'is 0 at number 5 of 120; let a schedule end above 0',
        ),
        (dict(type='CosineLR'), "angular_update.param_scheduler 'CosineLR'"),
        (
            dict(type='CosineAnnealingMomentum', T_max=5),
            'angular_update.param_scheduler',
        ),
        (dict(), "param_scheduler: {'by_epoch': False} needs a type"),
        (
            dict(type='ReduceOnPlateauLR', monitor='loss'),
            'param_scheduler: ReduceOnPlateauLR follows a score',
        ),
        (
            dict(type='MultiStepLR', milestones=[1], by_epoch=True),
            'MultiStepLR counts epochs, and this training loop has none',
        ),
    ],
)
def test_schedules_that_no_step_can_follow_are_refused(tmp_path, scheduler, message):
    scheduler = dict(by_epoch=False) | scheduler
    setting = dict(value=HIGH, param_scheduler=[scheduler])
    with pytest.raises(SettingError, match=message):
        train(controlled(tmp_path, setting))


def test_runs_that_cannot_be_repeated_are_refused(tmp_path):
    with pytest.raises(SettingError, match=r"angular_update='.*nowhere': .*no such"):
        train(controlled(tmp_path / 'a', str(tmp_path / 'nowhere')))
    train(tiny_config(tmp_path / 'short', max_iters=60, hook=dict(window=10)))
    with pytest.raises(SettingError, match='of 60 iterations, and this training has'):
        train(controlled(tmp_path / 'b', str(tmp_path / 'short')))
    with pytest.raises(SettingError, match='no weight to measure'):
        train(controlled(tmp_path / 'c', changes={'model.norm': 'none'}))
    with pytest.raises(SettingError, match='exclude leaves none of 2'):
        train(rescaling(tmp_path / 'e', angular_update=1e-3, exclude=['layers']))
    optimizer = dict(_delete_=True, type='Adam', lr=1e-3, weight_decay=0.1)
    changes = {'optim_wrapper.optimizer': optimizer}
    config = rescaling(tmp_path / 'd', changes=changes, angular_update=1e-3)
    with pytest.raises(SettingError, match='no equilibrium norm is known under Adam'):
        train(config)


@pytest.mark.parametrize(
    ('scheduler', 'expected'),
    [
        ([], [4e-3] * 6),
        (
            dict(type='MultiStepLR', milestones=[1, 2], gamma=0.5, by_epoch=True),
            [4e-3, 4e-3, 2e-3, 2e-3, 1e-3, 1e-3],
        ),
        (
            dict(type='LinearLR', start_factor=0.25, end=1, convert_to_iter_based=True),
            [1e-3, 4e-3, 4e-3, 4e-3, 4e-3, 4e-3],
        ),
        (
            dict(type='ConstantLR', factor=0.5, end=3, by_epoch=False),
            [2e-3, 2e-3, 4e-3, 4e-3, 4e-3, 4e-3],
        ),
    ],
)
def test_schedules_are_those_of_mmengine(scheduler, expected):
    settings = ControlSettings.of(dict(value=4e-3, param_scheduler=scheduler))
    assert settings.per_iteration(6, 2) == pytest.approx(expected)


@pytest.mark.parametrize('setting', ['equilibrium', HIGH])
def test_a_drop_is_covered(tmp_path, setting):
    """The schedule of the tiny config divides the rate by ten at iteration 41."""
    config = rescaling(
        tmp_path, 80, hook=dict(window=10), angular_update=setting, every=10
    )
    norms = Norms()
    runner = train(config, norms)
    assert the_hook(runner).history == []
    ratio = np.array(norms.before[40]) / np.array(norms.after[39])
    # Δ falls by √10 with Δ*, or stays; feedback comes on top.
    power = 0.25 if setting == 'equilibrium' else 0.5
    assert ratio == pytest.approx([10**-power] * 2, rel=0.35)
    assert torch.isfinite(next(iter(everything(runner).values()))).all()
