"""What a run says of itself: its line in the log, and its scalars."""

import dataclasses
import json
import re

import numpy as np
import pytest
from tiny import SCALE_INVARIANT, log_of, rows_of, tiny_config, train

from smd_mmdet.checks.live import Standing, standing
from smd_mmdet.engine.progress import summary
from smd_mmdet.monitor.quantities import QUANTITIES


def test_window_means_reach_the_visualizer(tmp_path):
    config = tiny_config(tmp_path, hook=dict(window=10))
    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    config.visualizer = dict(type='Visualizer', vis_backends=backends)
    runner = train(config)
    rows = rows_of(tmp_path).set_index(['layer', 'iter'])
    [path] = tmp_path.glob('*/vis_data/scalars.json')
    shown = [json.loads(line) for line in path.read_text().splitlines()]
    shown = {
        line['step']: line for line in shown if 'smd/cosine/layers.0.weight' in line
    }
    assert sorted(shown) == sorted(set(rows.index.get_level_values('iter')))
    for layer in SCALE_INVARIANT:
        for quantity in QUANTITIES:
            expected = rows.loc[(layer, 29), f'{quantity}_mean']
            value = shown[29].get(f'smd/{quantity}/{layer}', np.nan)
            assert value == pytest.approx(expected, nan_ok=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(path.parent)).Reload()
    points = events.Scalars('smd/angular_update/layers.3.weight')
    angles = rows.loc['layers.3.weight']['angular_update_mean']
    assert [point.step for point in points] == angles.index.tolist()
    assert [point.value for point in points] == pytest.approx(angles.tolist(), rel=1e-6)
    log = log_of(runner)
    lines = [line for line in log.splitlines() if 'layers in equilibrium' in line]
    assert 4 <= len(lines) <= 7
    assert re.search(
        r'smd: \d of 2 layers in equilibrium.*; median Δ/Δ\* \d', lines[-1]
    )
    # Each window says how many layers are in which state.
    for line in shown.values():
        states = [value for key, value in line.items() if 'smd/layers/' in key]
        assert sum(states) == 2


def test_the_summary_of_a_controlled_run_tells_how_near_the_wanted_angle_is():
    found = Standing(
        layer=np.array(['a', 'b', 'c', 'd'], dtype=object),
        state=np.array(['controlled'] * 3 + ['no gradient'], dtype=object),
        angular_update_ratio=np.array([0.3, 0.3, 0.3, np.nan]),
        weight_norm_ratio=np.full(4, np.nan),
        iterations=np.full(4, np.nan),
        clipped_share=0.25,
        wanted_ratio=np.array([1.02, 0.97, 0.7, np.nan]),
    )
    assert summary(found) == (
        'smd: 2 of 3 layers within 10 % of the wanted angular update, 1 no gradient; '
        'median Δ/wanted 0.970, furthest 0.700 (c); 25% of steps clipped'
    )


def test_the_summary_says_where_the_layers_stand():
    standing = Standing(
        layer=np.array(['a', 'b', 'c'], dtype=object),
        state=np.array(
            ['in equilibrium', 'approaching from above', 'unreachable in this stage'],
            dtype=object,
        ),
        angular_update_ratio=np.array([1.02, 0.5, 0.1]),
        weight_norm_ratio=np.array([0.99, 1.4, 3.2]),
        iterations=np.array([0.0, 400.0, 12500.0]),
    )
    assert summary(standing) == (
        'smd: 1 of 3 layers in equilibrium, 1 approaching from above, 1 unreachable in '
        'this stage; median Δ/Δ* 0.500, lowest 0.100 (c); the last one needs 12,500 '
        'iterations more'
    )
    often = dataclasses.replace(standing, clipped_share=0.625)
    assert summary(often) == f'{summary(standing)}; 62% of steps clipped'


def test_accumulated_iterations_count_as_such_until_equilibrium():
    columns = {
        'iter': [400], 'count': [100], 'layer': ['w'], 'stage': [0], 'lr': [0.1],
        'weight_decay': [1e-3], 'momentum': [0.0], 'angular_update_eq': [0.0141],
        'unit_h_mean': [1.0], 'weight_norm_mean': [9.0], 'angular_update_mean': [0.01],
        'angular_update_var': [0.0], 'cosine_mean': [0.0], 'cosine_var': [0.0],
        'unit_grad_sq_max': [1.0],
    }  # fmt: skip
    columns = {name: np.array(values) for name, values in columns.items()}
    # ‖w‖⁴/w*⁴ − 1 falls as exp(−4λη) per step, to 0.2; w*⁴ is η/2λ.
    steps = np.log((9.0**4 / 50 - 1) / 0.2) / 4e-4
    one, four = standing(columns), standing(columns, accumulated=4)
    assert one.iterations == pytest.approx(steps, rel=1e-3)
    assert four.iterations == pytest.approx(4 * steps, rel=1e-3)
    state = 'unreachable in this stage'
    assert standing(columns, remaining=2 * steps).state != state
    assert standing(columns, 2 * steps, accumulated=4).state == state
