"""Schedules against what MMEngine really does."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import Runner
from schedules import STEP, WARM, config_of
from torch import nn

from smd_mmdet.config import schedule
from smd_mmdet.config.schedule import learning_rates, read_schedule, spans
from smd_mmdet.engine import rates


class _Model(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.head = nn.Linear(1, 1)

    def forward(self, inputs, mode='loss'):
        return dict(loss=self.head(self.layer(torch.as_tensor(inputs).float())).sum())


class _Rates(Hook):
    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.seen: list[tuple[float, float, float]] = []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        layer, _, head, _ = runner.optim_wrapper.optimizer.param_groups
        self.seen.append((layer['lr'], layer['momentum'], head['lr']))


def _train(schedulers, train_cfg, folder) -> np.ndarray:
    """Of every iteration of a real MMEngine run: (lr, momentum, lr of the head)."""
    rates = _Rates()
    by_epoch = train_cfg['type'] == 'EpochBasedTrainLoop'
    sampler = 'DefaultSampler' if by_epoch else 'InfiniteSampler'
    runner = Runner(
        _Model(),
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=[torch.ones(1)] * 5,
            sampler=dict(type=sampler, shuffle=False),
            batch_size=1,
            num_workers=0,
        ),
        train_cfg=train_cfg,
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.05, momentum=0.9),
            paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=0.1))),
        ),
        auto_scale_lr=dict(enable=True, base_batch_size=4),
        param_scheduler=schedulers,
        custom_hooks=[rates],
        default_hooks=dict(checkpoint=None, logger=None),
        log_level='ERROR',
        experiment_name=folder.name,
    )
    runner.train()
    return np.array(rates.seen)


SCHEDULES = {
    'none': [],
    'warm-up and steps': [WARM, STEP],
    'cosine by epoch': [WARM, dict(type='CosineAnnealingLR', by_epoch=True, T_max=4)],
    'cosine by iteration': [
        dict(type='CosineAnnealingLR', by_epoch=True, T_max=4, eta_min=1e-4)
        | dict(convert_to_iter_based=True)
    ],
    'chained': [
        WARM,
        dict(type='PolyLR', by_epoch=False, begin=7, end=14, eta_min=1e-3),
        dict(type='ExponentialLR', by_epoch=True, begin=3, end=4, gamma=0.5),
    ],
    'steps by iteration': [
        WARM,
        dict(type='MultiStepLR', by_epoch=False, milestones=[8, 9, 15], gamma=0.1),
        dict(type='StepLR', by_epoch=False, begin=4, end=17, step_size=5, gamma=0.5),
    ],
    'steps of epochs by iteration': [
        STEP | dict(convert_to_iter_based=True),
        dict(type='ConstantLR', by_epoch=False, begin=2, end=12, factor=0.5),
    ],
    'momentum too': [
        STEP,
        dict(type='StepMomentum', by_epoch=True, step_size=2, gamma=0.5),
    ],
    'one cycle': [dict(type='OneCycleLR', by_epoch=False, eta_max=0.1, total_steps=20)],
    'restarts': [
        dict(type='CosineRestartLR', by_epoch=False, eta_min=1e-3)
        | dict(periods=[6, 14], restart_weights=[1, 0.5])
    ],
    'no better score': [dict(type='ReduceOnPlateauLR', monitor='loss')],
    'other momenta': [
        dict(type='ConstantMomentum', by_epoch=False, factor=0.9, end=3),
        dict(type='LinearMomentum', by_epoch=False, begin=3, end=6, start_factor=0.5),
        dict(type='MultiStepMomentum', by_epoch=False, milestones=[7], gamma=0.5),
        dict(type='ExponentialMomentum', by_epoch=False, begin=8, end=11, gamma=0.9),
        dict(type='PolyMomentum', by_epoch=False, begin=11, end=14, eta_min=0.1),
        dict(type='CosineAnnealingMomentum', begin=14, end=17, T_max=3)
        | dict(by_epoch=False, eta_min=0.05),
        dict(type='CosineRestartMomentum', begin=17, end=20, eta_min=0.01)
        | dict(by_epoch=False, periods=[3]),
        dict(type='ReduceOnPlateauMomentum', monitor='loss'),
    ],
}


@pytest.mark.parametrize('name', SCHEDULES)
@pytest.mark.parametrize('by_epoch', [True, False])
def test_the_rates_are_those_of_a_real_run(name, by_epoch, tmp_path):
    schedulers = SCHEDULES[name]
    if by_epoch:
        loop = dict(type='EpochBasedTrainLoop', max_epochs=4)
    else:
        loop = dict(type='IterBasedTrainLoop', max_iters=20)
    config = config_of(schedulers)
    found = read_schedule(config, 20, 5, by_epoch, 0.05 / 4, [0.1])
    seen = _train(schedulers, loop, tmp_path / 'run')
    planned = np.stack([found.rate(), found.momentum, found.rate(0.1)], 1)
    np.testing.assert_allclose(planned, seen, rtol=1e-12)
    ends = ('cosine by iteration', 'chained', 'one cycle', 'restarts')
    assert bool(found.apart) is (name in ends)


def test_every_scheduler_of_mmengine_is_tried():
    tried = {settings['type'] for kind in SCHEDULES.values() for settings in kind}
    known = {k for k in PARAM_SCHEDULERS.module_dict if k.endswith(('LR', 'Momentum'))}
    assert tried == known


def stage_ends(*schedule, **loop):
    return [span.end for span in spans(*learning_rates(*schedule, **loop))]


def test_stages_end_where_the_rate_changes():
    config = config_of([WARM, STEP])
    assert stage_ends(config, 20, 5, by_epoch=True) == [6, 10, 15, 20]
    assert stage_ends(config, 20, None, by_epoch=False) == [6, 20]
    assert stage_ends(config_of([]), 20, 5, by_epoch=True) == [20]


FLAT = dict(type='ConstantLR', factor=0.1, by_epoch=False, begin=0)
WARMUPS = {
    'a constant low rate': ([FLAT | dict(end=3)], 2),
    'by epoch': ([dict(type='LinearLR', start_factor=0.2, begin=0, end=3)], 10),
    'constant, then linear': (
        [FLAT | dict(end=3), WARM | dict(begin=2, end=9, start_factor=0.2)],
        8,
    ),
    'linear': ([WARM], 6),
    # It rises too late for a warm-up.
    'a late step': ([FLAT | dict(end=15)], None),
    # It says that the rate stays as it is.
    'none': ([FLAT | dict(end=3, factor=1.0)], None),
}


@pytest.mark.parametrize('name', WARMUPS)
def test_whatever_only_rises_at_the_beginning_is_warm_up(name):
    schedule, end = WARMUPS[name]
    found = spans(*learning_rates(config_of(schedule), 20, 5))
    assert [s.end for s in found if s.stage.number == -1] == [end] * (end is not None)
    after = [s.stage.number for s in found if s.stage.number >= 0]
    assert after == list(range(len(after)))
    assert [s.start for s in found] == [0, *(s.end for s in found[:-1])]


RATES = {
    'steps and stairs': [0.1, 0.1, 0.1, 0.02, 0.02, 0.01, 0.004, 0.004, 0.001],
    'a step at once, and back': [0.1, 0.02, 0.02, 0.1, 0.1, 0.05],
    'cosine, then flat': [*(0.1 * np.cos(np.linspace(0, 1.5, 9))), *[0.002] * 4],
    'nothing moves': [0.1, 0.1, 0.0, 0.0, 0.01, 0.01, 0.002, 0.002],
}


@pytest.mark.parametrize('continuous', [False, True])
@pytest.mark.parametrize('name', RATES)
def test_changes_are_followed_as_the_hook_follows_them(name, continuous, monkeypatch):
    lr = np.array(RATES[name])
    monkeypatch.setattr(rates, 'schedule_of', lambda runner: (lr, None))
    runner = SimpleNamespace(iter=0)
    optimizer = SimpleNamespace(param_groups=[dict(lr=None)])
    history = rates.RateHistory(runner, optimizer, [0])
    told = []
    for runner.iter, optimizer.param_groups[0]['lr'] in enumerate(lr):
        told.append(bool(history.drops(continuous)))
        history.advance()
    assert schedule.followed(lr, continuous).tolist() == told


def test_a_long_schedule_of_steps_takes_no_stepping(monkeypatch):
    made, step = [], _ParamScheduler.step
    monkeypatch.setattr(_ParamScheduler, 'step', lambda s: (made.append(s), step(s)))
    steps = dict(type='MultiStepLR', by_epoch=False, milestones=[300_000, 340_000])
    assert stage_ends(config_of([WARM, steps]), 360_000, 7330, by_epoch=False) == [
        *(6, 300_000, 340_000, 360_000),
    ]
    assert len(made) < 300  # an epoch's end is looked at, an iteration is not


def test_a_scheduler_of_the_default_scope_needs_no_prefix():
    """MMEngine's Runner builds within the scope, so that training takes both names."""
    found = []
    for name in ('QuadraticWarmupLR', 'mmdet.QuadraticWarmupLR'):
        config = config_of([dict(type=name, begin=0, end=40, by_epoch=False)])
        config.default_scope = 'mmdet'
        found.append(learning_rates(config, 60, None)[0])
    np.testing.assert_array_equal(*found)
    # The rate of iteration t is that of (t/40)², and whole from the 40th on.
    assert found[0][39:].tolist() == [found[0][-1]] * 21
    assert 0 < found[0][0] < found[0][20] < found[0][-1]
