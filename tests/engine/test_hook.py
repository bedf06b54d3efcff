"""SMDHook in MMEngine's Runner: what it measures, refuses and survives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.runner import Runner
from tiny import (
    SCALE_INVARIANT,
    TinyNet,
    forget_runs,
    log_of,
    rows_of,
    tiny_config,
    train,
    weights,
)
from torch._dynamo.utils import counters
from versions import needs_torch

from smd_mmdet.engine import SettingError, SMDHook
from smd_mmdet.records import read_records

ROOT = Path(__file__).parents[2]


@pytest.fixture
def untrained(monkeypatch):
    """What is refused here is refused before the first iteration."""

    def trained(*args, **kwargs):
        raise AssertionError('an iteration was run')

    monkeypatch.setattr(TinyNet, 'train_step', trained)


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
    rows = rows_of(tmp_path)
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
    assert metadata['processes'] == 1
    assert metadata['layers'][SCALE_INVARIANT[0]]['invariant'] is True
    assert metadata['layers'][SCALE_INVARIANT[0]]['norm'] == 'layers.1'
    assert 'TinyNet' in metadata['config']
    # A wheel may leave out what it was built for: 2.11.0+cu130.
    assert torch.__version__.startswith(metadata['packages']['torch'])


def test_a_constant_low_rate_at_the_beginning_is_recorded_as_warm_up(tmp_path):
    config = tiny_config(tmp_path, hook=dict(window=10), max_iters=30)
    config.param_scheduler = [
        dict(type='ConstantLR', factor=0.1, by_epoch=False, begin=0, end=15),
        dict(type='MultiStepLR', by_epoch=False, milestones=[25], gamma=0.1),
    ]
    train(config)
    rows = rows_of(tmp_path)
    first = rows[rows['layer'] == SCALE_INVARIANT[0]]
    # MMEngine's ConstantLR gives the full rate with the last of its iterations.
    assert first[['iter', 'stage']].values.tolist() == [
        *[[10, -1], [14, -1], [24, 0], [25, 0], [30, 1]],
    ]


def test_gradient_accumulation_counts_steps_once(tmp_path):
    config = tiny_config(tmp_path, hook=dict(window=5), max_iters=40)
    config.optim_wrapper.accumulative_counts = 4
    config.param_scheduler = None
    train(config)
    rows = rows_of(tmp_path)
    first = rows[rows['layer'] == SCALE_INVARIANT[0]]
    assert first[['iter', 'count']].values.tolist() == [[20, 5], [40, 5]]


def test_a_fault_of_the_monitor_is_logged_and_training_goes_on(tmp_path, monkeypatch):
    from smd_mmdet.monitor import moments

    def broken(*args):
        raise RuntimeError('out of luck')

    monkeypatch.setattr(moments, 'measure', broken)
    with pytest.warns(RuntimeWarning, match='out of luck'):
        runner = train(tiny_config(tmp_path, hook=dict(window=10)))
    assert runner.iter == 60
    log = log_of(runner)
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
        ({}, {'model.norm': 'none'}, r'no weight to measure(.|\n)*norm_eval=False'),
    ],
)
def test_wrong_settings_are_refused_before_the_first_iteration(
    tmp_path, untrained, hook, changes, message
):
    with pytest.raises(SettingError, match=message):
        train(tiny_config(tmp_path, hook=hook, **changes))


def test_a_control_run_measures_what_is_not_scale_invariant(tmp_path):
    hook = dict(window=20, include=['layers.0', '*8.weight'])
    runner = train(tiny_config(tmp_path, hook=hook, **{'model.norm': 'none'}))
    log = log_of(runner)
    assert 'layers.0.weight is measured but is not scale-invariant' in log
    assert 'smd: 0 of 2 layers in equilibrium, 2 no theory' in log
    records = read_records(tmp_path)
    assert records.layers() == ['layers.0.weight', 'layers.8.weight']
    assert not any(f['invariant'] for f in records.metadata['layers'].values())


def test_filters_are_measured_where_batch_norm_follows(tmp_path):
    hook = dict(window=20, granularity='filter', include=['layers.8.weight'])
    train(tiny_config(tmp_path, hook=hook))
    rows = rows_of(tmp_path)
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
    paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, env=environment
    )
    assert done.returncode == 0, done.stderr.decode()


def test_the_hook_tells_what_measures_and_whether_it_keeps_records(tmp_path):
    config = tiny_config(tmp_path, max_iters=3, hook=dict(window=2))
    forget_runs()
    runner = Runner.from_cfg(config)
    [hook] = [hook for hook in runner.hooks if type(hook).__name__ == 'SMDHook']
    assert hook.monitor is None and not hook.keeps_records
    runner.train()
    assert hook.keeps_records
    assert list(hook.monitor.names) == SCALE_INVARIANT


class Several:
    """Two optimizers, as a constructor for GANs builds them."""

    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        pass

    def __call__(self, model):
        return OptimWrapperDict(
            convolutions=OptimWrapper(
                torch.optim.SGD(model.layers[:6].parameters(), 0.1)
            ),
            head=OptimWrapper(torch.optim.SGD(model.layers[6:].parameters(), 0.1)),
        )


OPTIM_WRAPPER_CONSTRUCTORS.register_module(module=Several)


@pytest.mark.parametrize('hook', ['SMDHook', 'SMDRescaleHook'])
def test_several_optimizers_are_refused(tmp_path, untrained, hook):
    config = tiny_config(tmp_path)
    config.optim_wrapper.constructor = 'Several'
    config.param_scheduler = None
    config.custom_hooks = [dict(type=hook)]
    message = (
        rf'^{hook}: optim_wrapper holds several .*\(convolutions, head\).*leave it'
    )
    with pytest.raises(SettingError, match=message) as error:
        train(config)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('hook', ['SMDHook', 'SMDRescaleHook'])
def test_a_hook_that_a_config_has_twice_is_refused(tmp_path, untrained, hook):
    config = tiny_config(tmp_path)
    config.default_hooks.smd = dict(type=hook)
    config.custom_hooks = [
        dict(type='EMAHook'),
        dict(type=f'mmengine.{hook}', exclude=['layers.0']),
    ]
    with pytest.raises(SettingError) as error:
        train(config)
    assert str(error.value).startswith(f'{hook}: the run has 2 of it')
    assert (
        "default_hooks.smd (no settings), custom_hooks[1] (exclude=['layers.0']); keep "
        'one' in str(error.value)
    )


def test_a_second_hook_that_is_registered_by_code_is_refused(tmp_path, untrained):
    config = tiny_config(tmp_path, hook=dict(window=5))
    message = r'custom_hooks\[0\] \(window=5\), 1 registered by code'
    with pytest.raises(SettingError, match=message):
        train(config, SMDHook())


class Inner(Hook):
    """Trains another model in the same folder, in the middle of the run."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 30:
            Runner.from_cfg(tiny_config(runner.work_dir, 20, dict(window=5))).train()


def test_a_run_within_a_run_takes_the_folder_over(tmp_path):
    """Its records are whole; the outer run trains on and says what has happened."""
    runner = train(tiny_config(tmp_path, hook=dict(window=10)), Inner())
    assert runner.iter == 60
    assert log_of(runner).count('another monitor of this process writes records') == 1
    assert sorted(set(rows_of(tmp_path)['iter'])) == [5, 9, 14, 19, 20]


@needs_torch(2, 2, 'compiler that takes a step with momentum')
def test_a_compiled_run_compiles_no_more_with_the_hook(tmp_path):
    def compiled(name, hook):
        torch._dynamo.reset()
        counters.clear()
        config = tiny_config(tmp_path / name, 15, hook, compile=dict(backend='eager'))
        return weights(train(config)), dict(counters['stats'])

    plain, graphs = compiled('plain', None)
    ours, graphs_with_hook = compiled('ours', dict(window=4))
    assert graphs['unique_graphs'] > 0 and graphs_with_hook == graphs
    assert rows_of(tmp_path / 'ours')['count'].sum() == 2 * 15
    for name, value in plain.items():
        assert torch.equal(ours[name], value), name
