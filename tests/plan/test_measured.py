"""Plans of a run that was measured, against walks and against a run."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from schedules import config_by_iteration, config_of, rescaled_config
from simulation import Walk, records_of

from smd_mmdet.checks import check
from smd_mmdet.datasets import write_shapes
from smd_mmdet.plan import plan
from smd_mmdet.records import FOLDER, RecordsError, RecordWriter, read_records
from smd_mmdet.theory import angular_update, equilibrium_norm

ROOT = Path(__file__).parents[2]


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


def _probe(folder: Path, metadata: dict | None = None, **columns) -> None:
    lr = np.full(200, 0.05)
    walk = Walk(lr=lr, weight_decay=5e-3, momentum=0.9, norm=6.0, layers=2, size=64)
    probe = records_of(walk, window=20)
    writer = RecordWriter(folder, probe.metadata | (metadata or {}))
    # As records of version 0.1, which tell nothing of clipping.
    names = [n for n in probe.table.column_names if not n.startswith('clip')]
    rows = {n: probe.table[n].to_pylist() for n in names}
    rows |= {name: [value] * len(rows['iter']) for name, value in columns.items()}
    writer.append(rows)


@pytest.mark.parametrize('optimizer', ['sgd', 'nesterov', 'adamw'])
def test_a_plan_uses_no_column_that_it_does_not_read(tmp_path, monkeypatch, optimizer):
    settings = dict(weight_decay=5e-3, momentum=0.9, size=64, max_norm=1.0)
    walk = Walk(lr=np.full(400, 0.05), layers=2, optimizer=optimizer, **settings)
    probe = records_of(walk, window=20, metadata={'clipping': {'max_norm': 1.0}})
    writer = RecordWriter(tmp_path, probe.metadata)
    writer.append({n: probe.table[n].to_pylist() for n in probe.table.column_names})
    config = config_by_iteration([], 2000)
    config.optim_wrapper.clip_grad = dict(max_norm=1.0)
    if optimizer == 'nesterov':
        config.optim_wrapper.optimizer.nesterov = True
    if optimizer == 'adamw':
        made = dict(type='AdamW', lr=0.05, weight_decay=5e-3)
        config.optim_wrapper.optimizer = made
    found = plan(config, work_dir=str(tmp_path))
    assert len(found['layers']) == 2
    monkeypatch.setattr('smd_mmdet.plan.READ', None)
    assert plan(config, work_dir=str(tmp_path)) == found


def test_measured_layers_without_an_equilibrium_are_left_out(tmp_path):
    _probe(tmp_path)
    for key in ('decay_mult', 'lr_mult'):
        keys = dict(layer0={key: 0.0})
        config = config_of([], paramwise_cfg=dict(custom_keys=keys))
        found = plan(config, iters_per_epoch=100, work_dir=str(tmp_path))
        assert [layer['layer'] for layer in found['layers']] == ['layer1']
        assert any('1 of 2 measured layers' in line for line in found['assumptions'])
        json.dumps(found, allow_nan=False)


def test_a_measured_layer_is_forecast_at_its_own_rate_and_decay(tmp_path):
    _probe(tmp_path, shape=[64, 1, 3, 3])
    cosine = dict(type='CosineAnnealingLR', by_epoch=False, T_max=100, eta_min=0.04)
    config = config_by_iteration([cosine], 101)
    keys = dict(layer0=dict(lr_mult=0.1, decay_mult=2.0))
    config.optim_wrapper.paramwise_cfg = dict(custom_keys=keys, dwconv_decay_mult=3.0)
    layers = plan(config, work_dir=str(tmp_path))['layers']
    # Both begin at 0.05 times their multiplier and end at eta_min.
    for layer, first, decay in zip(layers, (0.005, 0.05), (2.0, 3.0), strict=True):
        ends = layer['stages'][0]['plain']
        for at, lr in (('start', first), ('end', 0.04)):
            norm = equilibrium_norm(lr, decay * 5e-3, layer['unit_grad_sq'], 0.9)
            ratio = (norm / ends[f'{at}_norm']) ** 2
            assert ends[f'{at}_ratio'] == pytest.approx(ratio, rel=1e-6)
            angle = angular_update(lr, decay * 5e-3, 0.9)
            assert ends[at] == pytest.approx(ratio * angle, rel=1e-6)


def test_measured_layers_are_put_at_equilibrium_too(tmp_path):
    _probe(tmp_path)
    config = rescaled_config([], 150, start_at_equilibrium=True, at_lr_drops=False)
    for layer in plan(config, work_dir=str(tmp_path))['layers']:
        [stage] = layer['stages']
        # Twice the norm at the start; at the end its own w*.
        norm = equilibrium_norm(0.05, 5e-3, layer['unit_grad_sq'], 0.9)
        assert stage['plain']['start_norm'] == pytest.approx(6.0, rel=0.05)
        assert stage['plain']['end_norm'] == pytest.approx(norm, rel=1e-2)
        assert stage['reaches']


def test_a_measured_layer_of_adamw_goes_the_way_of_its_update(tmp_path):
    _probe(tmp_path, update_sq_mean=200.0)
    lr, decay, iters = 1e-3, 0.1, 6000
    config = config_by_iteration([], iters)
    config.optim_wrapper.optimizer = dict(type='AdamW', lr=lr, weight_decay=decay)
    noise = 0.1 / 1.9
    for layer in plan(config, work_dir=str(tmp_path))['layers']:
        [stage] = layer['stages']
        ends = stage['plain']
        # d‖w‖²/dt = −2ηλ‖w‖² + η²U/noise.
        equal = lr * 200.0 / (2 * decay * noise)
        last = np.exp(-2 * lr * decay * (iters - 1))
        square = equal + (ends['start_norm'] ** 2 - equal) * last
        assert ends['end_norm'] == pytest.approx(np.sqrt(square), rel=1e-3)
        ratio = np.sqrt(equal) / ends['end_norm']
        assert ends['end_ratio'] == pytest.approx(ratio, rel=1e-9)
        assert ends['end'] == pytest.approx(ratio * np.sqrt(2 * lr * decay * noise))


@pytest.mark.parametrize('column', ['clipped_share', 'clipping_power'])
def test_the_clipping_that_was_measured_is_planned_with(tmp_path, column):
    always = 1.0 if column == 'clipped_share' else 2.0
    _probe(tmp_path, **{column: always})
    step = dict(type='MultiStepLR', by_epoch=False, milestones=[3000], gamma=0.1)
    config = config_by_iteration([step], 5000)
    config.optim_wrapper.clip_grad = dict(max_norm=1.0)
    found = plan(config, work_dir=str(tmp_path))
    assert found['clipping_power'] == 2.0
    # ‖w‖² relaxes at 2λη/(1−α), from 10 w*², and Δ ∝ 1/‖w‖.
    late = 1 + 9 * np.exp(-2 * 5e-3 * 0.005 / 0.1 * 2000)
    for stage in (found, *found['layers']):
        assert stage['stages'][1]['plain']['end_ratio'] == pytest.approx(
            late**-0.5, rel=5e-3
        )
    config.optim_wrapper.pop('clip_grad')
    found = plan(config, work_dir=str(tmp_path))
    assert found['clipping_power'] == 0.0
    late = 1 + 9 * np.exp(-4 * 5e-3 * 0.005 / 0.1 * 2000)
    assert found['stages'][1]['plain']['end_ratio'] == pytest.approx(
        late**-0.5, rel=5e-3
    )


def test_a_run_that_was_clipped_otherwise_is_no_measure(tmp_path):
    config = config_by_iteration([], 500)
    # Clipped at every step, and the config clips none: L is of another kind.
    _probe(tmp_path / 'always', clipped_share=1.0)
    found = plan(config, work_dir=str(tmp_path / 'always'))
    assert not found['layers']
    assert any('100% of its steps were clipped' in a for a in found['assumptions'])
    # Clipped to another norm: how much the config will clip is not known.
    config.optim_wrapper.clip_grad = dict(max_norm=1e-4)
    for clipping in (None, dict(type='norm', max_norm=35.0)):
        folder = tmp_path / str(clipping)
        _probe(folder, clipped_share=0.0, metadata=dict(clipping=clipping))
        found = plan(config, work_dir=str(folder))
        assert found['clipping_power'] is None
        assert any('the config clips to 0.0001' in a for a in found['assumptions'])
    config.optim_wrapper.clip_grad = dict(max_norm=35.0)
    found = plan(config, work_dir=str(folder))
    assert found['clipping_power'] == 0.0


def test_records_that_do_not_tell_of_clipping_give_both_limits(tmp_path):
    for column in ({}, {'clipped_share': float('nan')}):
        _probe(tmp_path / str(len(column)), **column)
        config = config_by_iteration([], 500)
        config.optim_wrapper.clip_grad = dict(max_norm=1.0)
        found = plan(config, work_dir=str(tmp_path / str(len(column))))
        assert found['clipping_power'] is None
        assert found['stages'][0]['always_clipped'] is not None
        assert any('as if it never were' in line for line in found['assumptions'])


def test_nesterovs_angle_is_that_of_the_layers_own_gradients(tmp_path):
    # E‖g̃‖² = 1 and 2α²⟨v, g⟩‖w‖² = 0.5: gradients that go on the same way.
    _probe(tmp_path, unit_grad_sq_mean=1.0, unit_h_mean=1.5)
    config = config_by_iteration([], 3000)
    config.optim_wrapper.optimizer.nesterov = True
    alpha, along = 0.9, 0.5 / (2 * 0.9**2)
    both = 1 + 2 * alpha * along
    above = (1 + 2 * alpha - 2 * alpha**3) * both / (1 - alpha**2)
    above -= 2 * alpha * (1 + alpha) * along
    turn = above / (both / (1 - alpha) - 2 * alpha * along)
    for layer in plan(config, work_dir=str(tmp_path))['layers']:
        ends = layer['stages'][0]['plain']
        assert ends['end_ratio'] == pytest.approx(1, abs=1e-2)
        angle = np.sqrt(2 * 5e-3 * 0.05 * turn)
        assert ends['end'] == pytest.approx(ends['end_ratio'] * angle, rel=1e-6)


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
