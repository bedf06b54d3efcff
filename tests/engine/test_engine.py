"""The hook and the constructor in MMEngine's Runner."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from tiny import SCALE_INVARIANT, TinyNet, tiny_config

from smd_mmdet import theory
from smd_mmdet.checks.live import Standing, standing
from smd_mmdet.engine import SettingError
from smd_mmdet.engine.progress import summary
from smd_mmdet.monitor.quantities import QUANTITIES
from smd_mmdet.records import read_records

TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def one_run_at_a_time():
    """MMEngine keeps global instances by experiment name; tests start anew."""
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.registry import DefaultScope
    from mmengine.visualization import Visualizer

    for kept in (MessageHub, MMLogger, DefaultScope, Visualizer):
        kept._instance_dict.clear()


def train(config):
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def weights(runner):
    return {name: value.clone() for name, value in runner.model.state_dict().items()}


def table(work_dir):
    return read_records(work_dir).table.to_pandas()


# ---------------------------------------------------------------- constructor


def settings_per_parameter(wrapper, model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(p)]: (group['lr'], group['weight_decay'], group['momentum'])
        for group in wrapper.optimizer.param_groups
        for p in group['params']
    }


PARAMWISE = [
    None,
    dict(norm_decay_mult=0.0, bias_lr_mult=2.0, bias_decay_mult=0.0),
    dict(custom_keys={'layers.3': dict(lr_mult=0.1, decay_mult=0.5)}),
    dict(flat_decay_mult=0.0, bypass_duplicate=True),
]


@pytest.mark.parametrize('paramwise_cfg', PARAMWISE)
def test_every_key_of_mmengine_works_as_before(paramwise_cfg):
    init_default_scope('mmengine')
    model = TinyNet()
    config = dict(
        optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-3),
        paramwise_cfg=paramwise_cfg,
    )
    stock = build_optim_wrapper(model, config)
    ours = build_optim_wrapper(
        model, dict(constructor='SMDOptimWrapperConstructor', **config)
    )
    expected = settings_per_parameter(stock, model)
    assert settings_per_parameter(ours, model) == expected
    names = {id(p): name for name, p in model.named_parameters()}
    for group in ours.optimizer.param_groups:
        for parameter in group['params']:
            invariant = names[id(parameter)] in SCALE_INVARIANT
            assert group['scale_invariant'] is invariant


def test_scale_invariant_weights_can_have_a_decay_of_their_own():
    model = TinyNet()
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor='SMDOptimWrapperConstructor',
            optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-3),
            paramwise_cfg=dict(scale_invariant_decay_mult=5.0, norm_decay_mult=0.0),
        ),
    )
    for name, (_, decay, _) in settings_per_parameter(wrapper, model).items():
        norm = name.startswith(('layers.1.', 'layers.4.'))
        expected = 5e-3 if name in SCALE_INVARIANT else 0 if norm else 1e-3
        assert decay == pytest.approx(expected, rel=1e-12), name


def test_the_angular_update_can_be_asked_for():
    model = TinyNet()
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor='SMDOptimWrapperConstructor',
            optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-3),
            paramwise_cfg=dict(angular_update=2e-3, exclude=['layers.0']),
        ),
    )
    settings = settings_per_parameter(wrapper, model)
    lr, decay, momentum = settings.pop('layers.3.weight')
    assert theory.angular_update(lr, decay, momentum) == pytest.approx(2e-3, rel=1e-12)
    assert {decay for _, decay, _ in settings.values()} == {1e-3}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            dict(angular_update='fast'),
            "angular_update must be a number >= 0, got 'fast'",
        ),
        (dict(angular_update=0.0), 'angular_update must be > 0'),
        (dict(scale_invariant_decay_mult=-1), 'scale_invariant_decay_mult must be'),
        (
            dict(angular_update=1e-3, scale_invariant_decay_mult=2),
            'both set the weight decay',
        ),
        (dict(include=['layers.9']), "include: 'layers.9' matches no parameter"),
    ],
)
def test_the_constructor_names_what_is_wrong(changes, message):
    with pytest.raises(SettingError, match=message):
        build_optim_wrapper(
            TinyNet(),
            dict(
                constructor='SMDOptimWrapperConstructor',
                optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-3),
                paramwise_cfg=changes,
            ),
        )


@pytest.mark.parametrize(
    ('optimizer', 'setting', 'message'),
    [
        ('Adam', 'angular_update', 'angular_update is derived for SGD'),
        ('RMSprop', 'angular_update', 'angular_update is derived for SGD'),
        ('Rprop', 'scale_invariant_decay_mult', 'the optimizer has no weight decay'),
    ],
)
def test_a_decay_is_refused_where_the_optimizer_has_none_of_its_kind(
    optimizer, setting, message
):
    with pytest.raises(SettingError, match=message):
        build_optim_wrapper(
            TinyNet(),
            dict(
                constructor='SMDOptimWrapperConstructor',
                optimizer=dict(type=optimizer, lr=0.1),
                paramwise_cfg={setting: 1e-3},
            ),
        )


# ---------------------------------------------------------------- hook


def test_training_is_bit_identical_with_and_without(tmp_path):
    stock = tiny_config(tmp_path / 'stock')
    del stock.optim_wrapper['constructor']
    plain = weights(train(stock))
    ours = weights(train(tiny_config(tmp_path / 'ours', hook=dict(window=7))))
    assert plain.keys() == ours.keys()
    for name in plain:
        assert torch.equal(plain[name], ours[name]), name


def test_records_tell_every_iteration_and_stage(tmp_path):
    train(tiny_config(tmp_path, hook=dict(window=10)))
    rows = table(tmp_path)
    assert sorted(set(rows['layer'])) == SCALE_INVARIANT
    first = rows[rows['layer'] == SCALE_INVARIANT[0]]
    # LinearLR reaches the full rate with its tenth iteration; the drop is after 40.
    spans = first[['iter', 'count', 'stage']].values.tolist()
    assert spans == [
        *[[9, 9, -1], [19, 10, 0], [29, 10, 0], [39, 10, 0], [40, 1, 0]],
        *[[50, 10, 1], [60, 10, 1]],
    ]
    assert first['lr'].tolist()[1:] == pytest.approx([0.1] * 4 + [0.01] * 2)
    assert (first['angular_update_mean'] > 0).all()
    metadata = read_records(tmp_path).metadata
    assert metadata['theory'] == 'sgd'
    assert metadata['layers'][SCALE_INVARIANT[0]]['invariant'] is True
    assert metadata['layers'][SCALE_INVARIANT[0]]['norm'] == 'layers.1'
    assert 'TinyNet' in metadata['config']
    # A wheel may leave out what it was built for: 2.11.0+cu130.
    assert torch.__version__.startswith(metadata['packages']['torch'])


def test_window_means_reach_the_visualizer(tmp_path):
    config = tiny_config(tmp_path, hook=dict(window=10))
    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    config.visualizer = dict(type='Visualizer', vis_backends=backends)
    runner = train(config)
    rows = table(tmp_path).set_index(['layer', 'iter'])
    [path] = tmp_path.glob('*/vis_data/scalars.json')
    shown = [json.loads(line) for line in path.read_text().splitlines()]
    shown = {
        line['step']: line for line in shown if 'smd/cosine/layers.0.weight' in line
    }
    assert sorted(shown) == sorted(set(rows.index.get_level_values('iter')))
    for layer in SCALE_INVARIANT:
        for quantity in QUANTITIES:
            expected = rows.loc[(layer, 29), f'{quantity}_mean']
            assert shown[29][f'smd/{quantity}/{layer}'] == pytest.approx(expected)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(path.parent)).Reload()
    points = events.Scalars('smd/angular_update/layers.3.weight')
    angles = rows.loc['layers.3.weight']['angular_update_mean']
    assert [point.step for point in points] == angles.index.tolist()
    assert [point.value for point in points] == pytest.approx(angles.tolist(), rel=1e-6)
    log = Path(runner.logger.handlers[1].baseFilename).read_text()
    lines = [line for line in log.splitlines() if 'layers in equilibrium' in line]
    assert 4 <= len(lines) <= 7
    assert re.search(
        r'smd: \d of 2 layers in equilibrium.*; median Δ/Δ\* \d', lines[-1]
    )
    # Each window says how many layers are in which state.
    for line in shown.values():
        states = [value for key, value in line.items() if 'smd/layers/' in key]
        assert sum(states) == 2


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


def test_resumed_training_gives_the_same_rows(tmp_path):
    """Resumed at 25 and 50: within a window, one row of it already on disk."""
    whole = train(tiny_config(tmp_path / 'whole', hook=dict(window=10)))
    expected = table(tmp_path / 'whole')
    short = tiny_config(tmp_path / 'parts', hook=dict(window=10))
    for checkpoint in ('iter_25.pth', 'iter_50.pth'):
        one_run_at_a_time.__wrapped__()
        train(short)
        short.resume = True
        short.load_from = str(tmp_path / 'parts' / checkpoint)
        one_run_at_a_time.__wrapped__()
        resumed = train(short)
        got = table(tmp_path / 'parts')
        for name in expected.columns:
            for a, b in zip(got[name], expected[name], strict=True):
                assert np.array_equal(a, b), name
        short.resume, short.load_from = False, None
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name])


@pytest.mark.parametrize('known', ['the window', 'the schedule'])
def test_a_new_window_at_a_resume_is_of_the_stage_under_way(tmp_path, known):
    """The window is of another size, or the first part was trained without the hook."""
    hook = dict(window=10) if known == 'the window' else None
    train(tiny_config(tmp_path, max_iters=50, hook=hook))
    one_run_at_a_time.__wrapped__()
    checkpoint = str(tmp_path / 'iter_50.pth')
    config = tiny_config(tmp_path, hook=dict(window=5), resume=True)
    config.load_from = checkpoint
    train(config)
    rows = table(tmp_path)
    # Warm-up to 10, the drop at 40.
    late = rows[rows.iter > 50]
    assert set(late.stage) == {1}
    assert late.lr.to_numpy() == pytest.approx(0.01)


def test_a_checkpoint_that_undoes_the_decay_asked_for_is_told(tmp_path):
    train(tiny_config(tmp_path, max_iters=25, hook=dict(window=10)))
    one_run_at_a_time.__wrapped__()
    paramwise = dict(scale_invariant_decay_mult=3.0)
    config = tiny_config(tmp_path, hook=dict(window=10), resume=True)
    config.optim_wrapper.paramwise_cfg = paramwise
    runner = train(config)
    log = Path(runner.logger.handlers[1].baseFilename).read_text()
    assert 'weight decay of scale-invariant weights is that of the checkpoint, ' in log
    assert '0.005 instead of 0.015' in log
    assert {g['weight_decay'] for g in runner.optim_wrapper.param_groups} == {5e-3}


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


def stock_config(work_dir, **changes):
    config = tiny_config(work_dir, **changes)
    del config.optim_wrapper['constructor']
    return config


@pytest.mark.parametrize('first', ['stock', 'monitored'])
def test_a_run_may_gain_or_lose_the_monitor_at_a_resume(tmp_path, first):
    """Cut at 25, resumed the other way round; the weights are those of one run."""
    whole = weights(train(stock_config(tmp_path / 'whole')))
    make = {
        'stock': stock_config,
        'monitored': lambda *args, **kw: tiny_config(*args, hook=dict(window=10), **kw),
    }
    [second] = make.keys() - {first}
    one_run_at_a_time.__wrapped__()
    config = make[first](tmp_path / 'parts')
    train(config)
    one_run_at_a_time.__wrapped__()
    checkpoint = str(tmp_path / 'parts' / 'iter_25.pth')
    changes = dict(resume=True, load_from=checkpoint)
    runner = train(make[second](tmp_path / 'parts', **changes))
    for name, value in weights(runner).items():
        assert torch.equal(value, whole[name]), name
    if second == 'monitored':
        rows = table(tmp_path / 'parts')
        first = rows[rows['layer'] == SCALE_INVARIANT[0]]
        spans = first[['iter', 'count', 'stage']].values.tolist()
        assert spans == [[35, 10, 0], [40, 5, 0], [50, 10, 1], [60, 10, 1]]


def test_groups_that_differ_in_a_setting_stay_apart_in_the_checkpoint(tmp_path):
    paramwise_cfg = dict(scale_invariant_decay_mult=2.0)
    changes = {'optim_wrapper.paramwise_cfg': paramwise_cfg}
    config = tiny_config(tmp_path, hook=dict(window=10), **changes)
    train(config)
    saved = torch.load(tmp_path / 'iter_25.pth', weights_only=True)
    decays = [group['weight_decay'] for group in saved['optimizer']['param_groups']]
    assert sorted(decays) == [5e-3, 1e-2]
    one_run_at_a_time.__wrapped__()
    config.resume, config.load_from = True, str(tmp_path / 'iter_25.pth')
    runner = train(config)
    decays = [group['weight_decay'] for group in runner.optim_wrapper.param_groups]
    assert sorted(decays) == [5e-3, 1e-2]


def test_loading_weights_is_not_resuming(tmp_path):
    train(tiny_config(tmp_path / 'one', max_iters=25, hook=dict(window=10)))
    one_run_at_a_time.__wrapped__()
    config = tiny_config(tmp_path / 'two', hook=dict(window=10))
    config.load_from = str(tmp_path / 'one' / 'iter_25.pth')
    train(config)
    assert table(tmp_path / 'two')['iter'].min() == 9


def test_gradient_accumulation_counts_steps_once(tmp_path):
    config = tiny_config(tmp_path, hook=dict(window=5), max_iters=40)
    config.optim_wrapper.accumulative_counts = 4
    config.param_scheduler = None
    train(config)
    rows = table(tmp_path)
    first = rows[rows['layer'] == SCALE_INVARIANT[0]]
    assert first[['iter', 'count']].values.tolist() == [[20, 5], [40, 5]]


KILLED = """
    import os, signal, sys
    sys.path[:0] = {path!r}
    from tiny import tiny_config
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

    class Kill(Hook):
        priority = 'LOWEST'
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter + 1 == {at}:
                os.kill(os.getpid(), signal.SIGKILL)

    config = tiny_config({folder!r}, hook=dict(window=10), resume={resume})
    runner = Runner.from_cfg(config)
    runner.register_hook(Kill())
    runner.train()
"""


def test_killed_in_mid_run_then_resumed(tmp_path):
    # All in processes of their own: the number of threads may differ in this one.
    def run(name, at=-1, resume=False):
        code = textwrap.dedent(KILLED).format(
            path=[str(TESTS.parent), str(TESTS)],
            folder=str(tmp_path / name),
            at=at,
            resume=resume,
        )
        return subprocess.run([sys.executable, '-c', code], capture_output=True)

    assert run('run', at=37).returncode == -signal.SIGKILL
    rows = table(tmp_path / 'run')
    # All but the window under way, 30 to 39.
    assert sorted(set(rows['iter'])) == [9, 19, 29]
    for done in (run('run', resume=True), run('whole')):
        assert done.returncode == 0, done.stderr.decode()[-2000:]
    expected = table(tmp_path / 'whole')
    got = table(tmp_path / 'run')
    for name in expected.columns:
        for a, b in zip(got[name], expected[name], strict=True):
            assert np.array_equal(a, b), name


def test_a_full_disk_does_not_stop_training(tmp_path, monkeypatch):
    import smd_mmdet.records as records

    write = records.pq.write_table
    calls = iter(range(1000))

    def full_for_a_while(*args, **kwargs):
        if 2 <= next(calls) < 4:
            raise OSError(28, 'No space left on device')
        return write(*args, **kwargs)

    monkeypatch.setattr(records.pq, 'write_table', full_for_a_while)
    runner = train(tiny_config(tmp_path, hook=dict(window=10)))
    assert runner.iter == 60
    log = Path(runner.logger.handlers[1].baseFilename).read_text()
    assert 'records cannot be written, training goes on: [Errno 28]' in log
    assert sorted(set(table(tmp_path)['iter'])) == [9, 19, 29, 39, 40, 50, 60]


def test_a_fault_of_the_monitor_is_logged_and_training_goes_on(tmp_path, monkeypatch):
    from smd_mmdet.monitor import monitor

    def broken(*args):
        raise RuntimeError('out of luck')

    monkeypatch.setattr(monitor, 'measure', broken)
    with pytest.warns(RuntimeWarning, match='out of luck'):
        runner = train(tiny_config(tmp_path, hook=dict(window=10)))
    assert runner.iter == 60
    log = Path(runner.logger.handlers[1].baseFilename).read_text()
    assert log.count('monitoring stopped') == 1
    plain = weights(train(tiny_config(tmp_path / 'plain')))
    for name, value in weights(runner).items():
        assert torch.equal(value, plain[name])


@pytest.mark.parametrize(
    ('hook', 'changes', 'message'),
    [
        (dict(windov=10), {}, "no setting 'windov'; did you mean 'window'"),
        (dict(window=0), {}, 'window must be an integer >= 1, got 0'),
        (dict(verify='yes'), {}, "verify must be True or False, got 'yes'"),
        (dict(granularity='atom'), {}, "'layer' or 'filter', got 'atom'"),
        (dict(include=3), {}, 'include must be a list of names or patterns, got 3'),
        (
            dict(exclude=['layers.0.wieght']),
            {},
            "'layers.0.wieght' matches no parameter; did you mean 'layers.0.weight'",
        ),
        (
            {},
            {'optim_wrapper.optimizer.nesterov': True},
            'optim_wrapper.optimizer.nesterov=True.*set nesterov=False',
        ),
        (
            {},
            {'optim_wrapper.optimizer.dampening': 0.1},
            'optim_wrapper.optimizer.dampening=0.1.*set dampening=0',
        ),
        ({}, {'model.norm': 'none'}, r'no weight to measure(.|\n)*norm_eval=False'),
    ],
)
def test_wrong_settings_are_refused_before_the_first_iteration(
    tmp_path, monkeypatch, hook, changes, message
):
    def trained(*args, **kwargs):
        raise AssertionError('an iteration was run')

    monkeypatch.setattr(TinyNet, 'train_step', trained)
    with pytest.raises(SettingError, match=message):
        train(tiny_config(tmp_path, hook=hook, **changes))


def test_a_control_run_measures_what_is_not_scale_invariant(tmp_path):
    hook = dict(window=20, include=['layers.0', '*8.weight'])
    runner = train(tiny_config(tmp_path, hook=hook, **{'model.norm': 'none'}))
    log = Path(runner.logger.handlers[1].baseFilename).read_text()
    assert 'layers.0.weight is measured but is not scale-invariant' in log
    assert 'smd: 0 of 2 layers in equilibrium, 2 no theory' in log
    records = read_records(tmp_path)
    assert records.layers() == ['layers.0.weight', 'layers.8.weight']
    assert not any(f['invariant'] for f in records.metadata['layers'].values())


def test_filters_are_measured_where_batch_norm_follows(tmp_path):
    hook = dict(window=20, granularity='filter', include=['layers.8.weight'])
    train(tiny_config(tmp_path, hook=hook))
    rows = table(tmp_path)
    by_filter = rows['angular_update_filter_q50'].notna()
    assert set(rows['layer'][by_filter]) == set(SCALE_INVARIANT)
    assert set(rows['layer'][~by_filter]) == {'layers.8.weight'}
    spread = rows[by_filter]
    assert (spread['weight_norm_filter_q05'] < spread['weight_norm_filter_q95']).all()


def test_importing_before_mmengine_registers_all_the_same():
    code = (
        'import smd_mmdet, sys; assert "torch" not in sys.modules;'
        'import mmengine.runner; from mmengine.registry import HOOKS;'
        'assert HOOKS.get("SMDHook") is not None'
    )
    paths = [str(TESTS.parent), os.environ.get('PYTHONPATH', '')]
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, env=environment
    )
    assert done.returncode == 0, done.stderr.decode()
