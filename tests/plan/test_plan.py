"""Plans against walks and against a run."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from rich.console import Console
from schedules import STEP, WARM, config_by_iteration, config_of
from simulation import Walk, records_of
from torch import nn
from torch.utils.data import DataLoader

from smd_mmdet.checks import check
from smd_mmdet.config.optimizer import read_optimizer
from smd_mmdet.config.schedule import learning_rates
from smd_mmdet.datasets import write_shapes
from smd_mmdet.engine import SettingError, SMDOptimWrapperConstructor
from smd_mmdet.plan import plan
from smd_mmdet.records import FOLDER, RecordsError, RecordWriter, read_records
from smd_mmdet.report.tables import render_plan
from smd_mmdet.theory import equilibrium_norm

ROOT = Path(__file__).parents[2]
MASK_RCNN_1X = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'


def test_mask_rcnn_1x_cannot_reach_equilibrium_after_its_steps():
    found = plan(MASK_RCNN_1X)
    warm, first, second, third = found['stages']
    assert found['exit_code'] == 1
    assert found['iters_per_epoch'] == 7330
    assert [s['stage'] for s in found['stages']] == [-1, 0, 1, 2]
    assert (second['first_iter'], second['last_iter']) == (58_641, 80_630)
    assert warm['last_iter'] == 499 and warm['reaches'] is None
    assert first['angular_update_eq'] == pytest.approx(1.45e-3, rel=1e-2)
    assert first['relaxation_iterations'] == pytest.approx(12_500)
    assert second['relaxation_iterations'] == pytest.approx(125_000)
    assert third['relaxation_iterations'] == pytest.approx(1_250_000)
    assert second['plain']['start_ratio'] == pytest.approx(0.316, abs=1e-3)
    assert second['plain']['end_ratio'] == pytest.approx(0.342, abs=1e-3)
    assert second['rescaled']['end_ratio'] == pytest.approx(1, abs=1e-3)
    assert (first['reaches'], second['reaches'], third['reaches']) == (True,) + (
        False,
    ) * 2
    assert 'stage 1 lasts 21,990 iterations' in second['warning']
    assert 'rescale' in second['warning']
    assert any('117,266 images' in line for line in found['assumptions'])
    json.dumps(found, allow_nan=False)


def test_the_plan_says_on_what_start_it_rests():
    found = plan(MASK_RCNN_1X)
    assert any('norm is at its equilibrium' in line for line in found['assumptions'])
    assert found['stages'][1]['reachable_from'] == pytest.approx(2.2, abs=0.05)
    assert 'from 3 times, usual under default' in found['stages'][1]['warning']


def test_a_warning_says_once_what_each_number_is():
    text = plan(MASK_RCNN_1X)['stages'][2]['warning']
    assert 'within 10% of its equilibrium after 475,832, ' in text
    assert 'itself after 575,647 at least (Corollary 3.1)' in text


def test_frozen_norms_are_told():
    def told(**backbone) -> bool:
        config = config_of([])
        config.model = dict(type='MaskRCNN', backbone=backbone)
        found = plan(config, iters_per_epoch=5000)['warnings']
        return any('norms are frozen' in line for line in found)

    assert told(norm_eval=True)
    assert told(norm_eval=False, frozen_stages=1)
    assert not told(norm_eval=False, frozen_stages=-1)
    assert not told(depth=50)


def test_a_config_that_rescales_is_judged_by_the_rescaled_forecast():
    config = config_of([STEP], epochs=4)
    plain = plan(config, iters_per_epoch=1000)
    assert [s['reaches'] for s in plain['stages']] == [True, False, False]
    config.custom_hooks = [dict(type='SMDRescaleHook')]
    found = plan(config, iters_per_epoch=1000)
    assert found['exit_code'] == 0 and found['warnings'] == []
    assert all(s['reaches'] for s in found['stages'])
    assert found['stages'][1]['plain'] == plain['stages'][1]['plain']
    config.custom_hooks[0].update(at_lr_drops=False, start_at_equilibrium=True)
    found = plan(config, iters_per_epoch=1000)
    assert found['exit_code'] == 1
    assert found['verdict'].endswith('without rescaling: stage 1, 2')


COSINE = dict(type='CosineAnnealingLR', by_epoch=False, begin=0, eta_min=1e-3)


def _rescaled(schedulers, iters: int, **hook) -> Config:
    config = config_by_iteration(schedulers, iters)
    config.custom_hooks = [dict(type='SMDRescaleHook', **hook)]
    return config


def test_a_hook_that_follows_every_change_is_judged_so():
    config = _rescaled([COSINE | dict(T_max=2000)], 2000)
    steps = plan(config)
    config.custom_hooks[0].continuous = True
    found = plan(config)
    [stage] = found['stages']
    # w* goes with η^(1/4) and so do the weights: they stay where they began.
    assert stage['rescaled']['farthest_in_last_third'] < 1e-3
    assert (found['exit_code'], found['warnings']) == (0, [])
    assert any('at every change of the rate' in line for line in found['assumptions'])
    # A hook that follows steps only does nothing on a cosine, and is not asked for.
    assert steps['stages'][0]['rescaled'] == steps['stages'][0]['plain']
    assert steps['verdict'].endswith('at steps of the rate only: stage 0')
    assert 'continuous=True' in steps['warnings'][0]


def test_a_hook_that_follows_steps_leaves_a_cosine_that_goes_flat():
    config = _rescaled([COSINE | dict(T_max=1000, end=1000)], 1500)
    lr, _ = learning_rates(config, 1500, None, by_epoch=False)
    walk = Walk(lr=lr, weight_decay=5e-3, momentum=0.9, layers=60, size=64, noise=0.05)
    flat = plan(config)['stages'][1]
    first = flat['first_iter'] - 1
    norm_eq = equilibrium_norm(lr[first:], 5e-3, 1.0, 0.9)
    ratios = (norm_eq / walk.series['weight_norm'].mean(1)[first:]) ** 2
    assert flat['rescaled']['start_ratio'] == pytest.approx(ratios[0], rel=0.02)
    assert flat['rescaled']['end_ratio'] == pytest.approx(ratios[-1], rel=0.02)
    assert flat['reaches'] is False


def test_a_start_at_equilibrium_makes_up_for_a_short_stage():
    def planned(iters: int, schedule=(), **settings) -> dict:
        start = settings or True
        return plan(
            _rescaled(schedule, iters, start_at_equilibrium=start, at_lr_drops=False)
        )

    assert plan(config_by_iteration([], 150))['exit_code'] == 1
    found = planned(150)
    # It measures from the second iteration on, the first whose rate does not rise.
    assert any('front of iteration 102' in line for line in found['assumptions'])
    assert found['stages'][0]['iterations_to_equilibrium'] == 101
    assert (found['exit_code'], found['warnings']) == (0, [])
    assert planned(150, begin=40)['stages'][0]['iterations_to_equilibrium'] == 140
    # A layer moves by a factor of 1.1 at most, twice: what began further off is not.
    close = planned(150, max_factor=1.1, measure=60)['stages'][0]
    assert close['reachable_from'] == pytest.approx(1.1**2)
    short = planned(100)
    assert short['exit_code'] == 1
    assert any('is not counted' in line for line in short['assumptions'])


def test_a_start_at_equilibrium_after_a_drop_ends_there():
    drop = dict(type='MultiStepLR', by_epoch=False, milestones=[1000], gamma=0.1)
    start = dict(begin=1100, measure=50)
    config = _rescaled([drop], 1200, start_at_equilibrium=start, at_lr_drops=False)
    stage = plan(config)['stages'][1]
    assert stage['plain']['start_ratio'] == pytest.approx(10**-0.5, rel=1e-2)
    assert stage['plain']['end_ratio'] == pytest.approx(1, abs=0.01)
    assert stage['iterations_to_equilibrium'] == 150
    assert stage['reaches']


def test_the_config_that_starts_at_equilibrium_is_not_told_to():
    name = 'mask-rcnn_r18_fpn_bn_slow-start-at-equilibrium_shapes.py'
    found = plan(f'{ROOT}/configs/shapes/{name}')
    assert found['exit_code'] == 0
    assert not any('start at equilibrium' in line for line in found['warnings'])


def test_enough_iterations_need_no_warning():
    found = plan(config_of([STEP | dict(gamma=0.5)]), iters_per_epoch=5000)
    assert found['exit_code'] == 0
    assert found['warnings'] == []
    assert all(stage['reaches'] for stage in found['stages'])


def test_gradient_accumulation_counts_optimizer_steps():
    config = config_of([STEP], accumulative_counts=4)
    found = plan(config, iters_per_epoch=1000)
    assert [s['iterations'] for s in found['stages']] == [500, 250, 250]


def test_auto_scale_lr_follows_the_number_of_processes():
    config = config_of([])
    config.auto_scale_lr = dict(enable=True, base_batch_size=16)
    found = plan(config, iters_per_epoch=100, gpus=4)
    assert found['stages'][0]['lr_start'] == pytest.approx(0.05 * 8 / 16)


def test_the_keys_of_our_constructor():
    for keys, decay in (
        (dict(scale_invariant_decay_mult=10.0), 5e-2),
        (dict(angular_update=0.01), 0.01**2 * 1.9 / (2 * 0.05)),
    ):
        config = config_of(
            [], constructor='SMDOptimWrapperConstructor', paramwise_cfg=keys
        )
        found = plan(config, iters_per_epoch=100)
        assert found['weight_decay'] == pytest.approx(decay)


@pytest.mark.parametrize(
    'optimizer',
    [
        dict(type='AdamW', lr=1e-3, weight_decay=0.05),
        dict(type='SGD', lr=0.05, momentum=0.9, nesterov=True),
        dict(type='RMSprop', lr=1e-3, momentum=0.9),
    ],
    ids=lambda settings: settings['type'],
)
def test_an_angular_update_is_refused_where_it_is_not_derived(optimizer):
    wrapper = dict(
        constructor='SMDOptimWrapperConstructor',
        paramwise_cfg=dict(angular_update=0.01),
    )
    with pytest.raises(SettingError, match='angular_update is derived for SGD'):
        plan(config_of([], optimizer=optimizer, **wrapper), iters_per_epoch=100)


def test_an_angular_update_is_the_same_whatever_the_multipliers():
    keys = {'0': dict(lr_mult=0.1), '1': dict(decay_mult=3.0)}
    paramwise = dict(angular_update=0.01, custom_keys=keys)
    config = config_of(
        [], constructor='SMDOptimWrapperConstructor', paramwise_cfg=paramwise
    )
    planned = read_optimizer(config)
    assert planned.assumptions == ()
    layers = [m for _ in '012' for m in (nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))]
    model = nn.ModuleDict({f'{i // 2}{"cn"[i % 2]}': m for i, m in enumerate(layers)})
    built = SMDOptimWrapperConstructor(
        dict(type='OptimWrapper', optimizer=config.optim_wrapper.optimizer),
        dict(paramwise, include=['*c.weight']),
    )(model).optimizer
    names = {id(p): name for name, p in model.named_parameters()}
    marked = [g for g in built.param_groups if g['scale_invariant']]
    for group in marked:
        for p in group['params']:
            rate, decay = planned.multipliers(names[id(p)])
            assert planned.lr * rate == pytest.approx(group['lr'])
            assert planned.weight_decay * decay == pytest.approx(group['weight_decay'])
    assert {round(g['lr'], 9) for g in marked} == {0.05, 0.005}


def test_layers_with_multipliers_are_told():
    config = config_of(
        [], paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.25)))
    )
    found = plan(config, iters_per_epoch=100)
    assert any("'backbone' have lr × 0.25" in line for line in found['assumptions'])


def test_adamw_has_angles_only_and_others_have_nothing():
    config = config_of([STEP], optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05))
    stage = plan(config, iters_per_epoch=100)['stages'][0]
    assert stage['angular_update_eq'] == pytest.approx(
        np.sqrt(2 * 1e-3 * 0.05 * 0.1 / 1.9)
    )
    assert stage['plain'] is None and stage['relaxation_iterations'] is None
    config = config_of(
        [STEP], optimizer=dict(type='RMSprop', lr=1e-3, weight_decay=0.05)
    )
    found = plan(config, iters_per_epoch=100)
    assert found['stages'][0]['angular_update_eq'] is None
    assert found['verdict'] == 'no theory for RMSprop'


def test_cosine_is_forecast_as_it_moves():
    schedule = [dict(type='CosineAnnealingLR', by_epoch=False, T_max=2000)]
    stage = plan(config_by_iteration(schedule, 2000))['stages'][0]
    assert not stage['steady'] and stage['reaches'] is False
    assert 'faster than norms can follow' in stage['warning']


def test_a_rate_of_zero_and_a_rate_that_rises_again():
    milestones = dict(by_epoch=False, begin=0)
    rising = dict(type='MultiStepLR', milestones=[200], gamma=10.0) | milestones
    found = plan(config_by_iteration([rising], 220))
    assert 'stage 1 lasts 20 iterations' in found['stages'][1]['warning']
    still = dict(type='MultiStepLR', milestones=[200], gamma=0.0) | milestones
    found = plan(config_by_iteration([still], 400))
    assert 'nothing moves' in found['stages'][1]['warning']
    json.dumps(found, allow_nan=False)


# ------------------------------------------------------------------ the data set


def _annotations(folder, images: int, empty: int) -> None:
    content = dict(
        images=[dict(id=i, width=64, height=64) for i in range(images)],
        annotations=[dict(image_id=i) for i in range(images - empty)],
    )
    (folder / 'train.json').write_text(json.dumps(content))


def test_an_epoch_is_as_long_as_its_annotation_file(tmp_path):
    _annotations(tmp_path, images=21, empty=4)
    config = config_of([])
    data = dict(type='CocoDataset', data_root=str(tmp_path), ann_file='train.json')
    config.train_dataloader.dataset = data
    assert plan(config)['iters_per_epoch'] == 11
    data['filter_cfg'] = dict(filter_empty_gt=True)
    config.train_dataloader.dataset = dict(type='RepeatDataset', times=3, dataset=data)
    assert plan(config)['iters_per_epoch'] == 26
    assert plan(config, gpus=2)['iters_per_epoch'] == 13


@pytest.mark.parametrize('by', ['loader', 'batch_sampler'])
def test_an_epoch_may_drop_its_last_batch(by):
    config = config_of([])
    loader = dict(batch_size=3, dataset=dict(type='CIFAR10'))
    assert plan(Config(dict(config, train_dataloader=loader)))['iters_per_epoch'] == (
        16_667
    )
    drops = dict(drop_last=True)
    loader |= drops if by == 'loader' else dict(batch_sampler=drops)
    config.train_dataloader = loader
    truth = DataLoader(range(50_000), batch_size=3, drop_last=True)
    assert plan(config)['iters_per_epoch'] == len(truth)
    loader['dataset']['indices'] = 2
    config.train_dataloader = loader
    with pytest.raises(SettingError, match='drop_last'):
        plan(config)


def test_an_unknown_length_asks_for_it():
    with pytest.raises(SettingError, match='--iters-per-epoch'):
        plan(config_of([]))
    assert plan(config_by_iteration([], 50))['iterations'] == 50


@pytest.mark.parametrize(
    ('text', 'change'),
    [
        ('optim_wrapper.optimizer', dict(optim_wrapper=dict())),
        ('NoSuchLR', dict(param_scheduler=[dict(type='NoSuchLR')])),
        ('param_scheduler', dict(param_scheduler=['MultiStepLR'])),
        ('max_epochs', dict(train_cfg=dict(type='EpochBasedTrainLoop'))),
    ],
)
def test_a_bad_config_is_named(text, change):
    config = config_of([])
    config.merge_from_dict({}, allow_list_keys=False)
    for key, value in change.items():
        config[key] = value
    with pytest.raises(SettingError, match=text):
        plan(config, iters_per_epoch=10)


@pytest.mark.parametrize('number', [0, -1, 2.5, True])
def test_a_bad_epoch_length_is_named(number):
    with pytest.raises(SettingError, match='iters_per_epoch'):
        plan(config_of([]), iters_per_epoch=number)


# ------------------------------------------------------------------ from measurements


def test_layers_are_forecast_from_a_probe_run(tmp_path):
    lr = np.repeat([0.05, 0.005], [1500, 700])
    settings = dict(weight_decay=5e-3, momentum=0.9, norm=6.0, layers=2, size=64)
    probe = records_of(Walk(lr=lr[:200], **settings), window=20)
    writer = RecordWriter(tmp_path, probe.metadata)
    writer.append({n: probe.table[n].to_pylist() for n in probe.table.column_names})
    assert (tmp_path / FOLDER).is_dir()

    config = config_by_iteration(
        [dict(type='MultiStepLR', by_epoch=False, milestones=[1500], gamma=0.1)], 2200
    )
    found = plan(config, work_dir=str(tmp_path))
    truth = check(records_of(Walk(lr=lr, **settings)))
    assert [layer['layer'] for layer in found['layers']] == ['layer0', 'layer1']
    for ahead, layer in zip(found['layers'], truth.layers, strict=True):
        for stage, seen in zip(ahead['stages'], layer.stages, strict=True):
            mean = (stage['plain']['start_ratio'] + stage['plain']['end_ratio']) / 2
            expected = stage['plain']['end_ratio'] if seen.stage == 0 else mean
            assert seen.angular_update_ratio == pytest.approx(expected, rel=0.1)
    assert any('measured: 2 of 2 layers' in line for line in found['warnings'])
    json.dumps(found, allow_nan=False)


def _probe(folder: Path) -> None:
    lr = np.full(200, 0.05)
    walk = Walk(lr=lr, weight_decay=5e-3, momentum=0.9, norm=6.0, layers=2, size=64)
    probe = records_of(walk, window=20)
    writer = RecordWriter(folder, probe.metadata)
    writer.append({n: probe.table[n].to_pylist() for n in probe.table.column_names})


def test_measured_layers_without_an_equilibrium_are_left_out(tmp_path):
    _probe(tmp_path)
    for key in ('decay_mult', 'lr_mult'):
        keys = dict(layer0={key: 0.0})
        config = config_of([], paramwise_cfg=dict(custom_keys=keys))
        found = plan(config, iters_per_epoch=100, work_dir=str(tmp_path))
        assert [layer['layer'] for layer in found['layers']] == ['layer1']
        assert any('1 of 2 measured layers' in line for line in found['assumptions'])
        json.dumps(found, allow_nan=False)


def test_measured_layers_are_put_at_equilibrium_too(tmp_path):
    _probe(tmp_path)
    config = _rescaled([], 150, start_at_equilibrium=True, at_lr_drops=False)
    for layer in plan(config, work_dir=str(tmp_path))['layers']:
        [stage] = layer['stages']
        # Twice the norm at the start; at the end its own w*.
        norm = equilibrium_norm(0.05, 5e-3, layer['unit_grad_sq'], 0.9)
        assert stage['plain']['start_norm'] == pytest.approx(6.0, rel=0.05)
        assert stage['plain']['end_norm'] == pytest.approx(norm, rel=1e-2)
        assert stage['reaches']


def test_records_that_are_not_used_are_read_and_told(tmp_path):
    config = config_of([], optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05))
    with pytest.raises(RecordsError):
        plan(config, iters_per_epoch=100, work_dir=str(tmp_path / 'nowhere'))
    _probe(tmp_path)
    found = plan(config, iters_per_epoch=100, work_dir=str(tmp_path))
    assert found['layers'] == []
    assert any('are not used' in line for line in found['assumptions'])


SHAPES = f"""
_base_ = ['{ROOT}/configs/shapes/mask-rcnn_r18_fpn_shapes.py']
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', by_epoch=False, milestones=[700], gamma=0.1, end=1000),
]
train_cfg = dict(max_iters=1000, val_interval=1000)
default_hooks = dict(checkpoint=dict(interval=400))
image_scale = (64, 64)
val_cfg = val_dataloader = val_evaluator = None
test_cfg = test_dataloader = test_evaluator = None
"""


def _train_shapes(config: Path, data: Path, *arguments: str | Path) -> None:
    command = ['tools/train.py', config, '--work-dir', config.parent / 'run']
    options = [f'train_dataloader.dataset.data_root={data}/', 'image_scale=(64,64)']
    done = subprocess.run(
        [sys.executable, *command, *arguments, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def _measured(columns: dict, first: int, last: int) -> np.ndarray:
    """‖w‖, the root mean square of Δ, and L over some iterations."""
    chosen = (columns['iter'] > first) & (columns['iter'] <= last)
    mean, var = (columns[f'angular_update_{s}'] for s in ('mean', 'var'))
    values = columns['weight_norm_mean'], mean**2 + var, columns['unit_h_mean']
    weights = columns['count'][chosen]
    norm, angle_sq, unit = (np.average(v[chosen], weights=weights) for v in values)
    return np.array([norm, np.sqrt(angle_sq), unit])


def _errors(ahead: dict, seen: dict, stage: int, span: tuple, share: float) -> tuple:
    """Relative errors over layers of ‖w‖, of Δ, and of ‖w‖ had L been as measured."""
    found = []
    for layer in ahead['layers']:
        told = layer['stages'][stage]['plain']
        norm, angle = (
            told[f'start{name}'] * (1 - share) + told[f'end{name}'] * share
            for name in ('_norm', '')
        )
        measured = _measured(seen[layer['layer']], *span)
        drift = (measured[2] / layer['unit_grad_sq']) ** 0.25
        found.append(np.array([norm, angle, norm * drift]) / measured[[0, 1, 0]] - 1)
    errors = np.abs(found)
    names = 'norm', 'angle', 'norm at L'
    for name, column in zip(names, np.transpose(found), strict=True):
        low, middle, high = np.quantile(column, [0.1, 0.5, 0.9])
        print(f'{name} in {span}: {low:+.1%} {middle:+.1%} {high:+.1%} of layers')
    return np.median(errors, axis=0), np.quantile(errors, 0.9, axis=0)


@pytest.mark.slow
def test_a_plan_from_a_probe_meets_what_training_on_measures(tmp_path):
    """Mask R-CNN on shapes: 400 iterations foretell the 600 after them.

    Measured when this was written, as the median error over 27 layers: at the end of
    the first stage 3 % in Δ and 11 % in ‖w‖, all of it because L moved on, by 40 %:
    with the L of then it is 1 %. After the cut 18 % in Δ, as L changes with the rate;
    Δ* would be off by 140 %. The tolerances are of that same run. An earlier probe
    foretells less: from 300 iterations at a third of the decay, while L still fell to
    half, Δ was off by 19 to 27 %.
    """
    write_shapes(tmp_path / 'shapes', train=200, val=4, size=64)
    config, run = tmp_path / 'config.py', tmp_path / 'run'
    config.write_text(SHAPES)
    length = ['--cfg-options', 'train_cfg.max_iters=400']
    _train_shapes(config, tmp_path / 'shapes', *length)
    ahead = plan(str(config), work_dir=str(run))
    assert [s['last_iter'] for s in ahead['stages']] == [49, 700, 1000]

    resume = ['--resume', run / 'iter_400.pth', '--cfg-options']
    _train_shapes(config, tmp_path / 'shapes', *resume)
    seen = dict(read_records(run).by_layer())
    median, most = _errors(ahead, seen, 1, (600, 700), share=1)
    assert (median < [0.25, 0.06, 0.03]).all(), median
    assert (most < [0.8, 0.15, 0.1]).all(), most
    median, most = _errors(ahead, seen, 2, (700, 1000), share=0.5)
    assert (median[:2] < [0.25, 0.35]).all(), median
    assert (most[:2] < [0.8, 0.7]).all(), most


def test_a_plan_renders(tmp_path):
    console = Console(file=io.StringIO(), width=140)
    console.print(render_plan(plan(MASK_RCNN_1X)))
    text = console.file.getvalue()
    assert '0.316 → 0.342' in text and 'warm-up' in text


def test_a_long_schedule_is_planned_in_seconds():
    schedule = [WARM, dict(type='CosineAnnealingLR', by_epoch=False, T_max=360_000)]
    found = plan(config_by_iteration(schedule, 360_000))
    assert found['stages'][-1]['last_iter'] == 360_000
