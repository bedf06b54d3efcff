"""Checkpoints with and without the constructor's groups, either way round."""

import pytest
import torch
from tiny import (
    SCALE_INVARIANT,
    log_of,
    rows_of,
    tiny_config,
    train,
    weights,
)
from versions import load


def test_a_checkpoint_that_undoes_the_decay_asked_for_is_told(tmp_path):
    train(tiny_config(tmp_path, max_iters=25, hook=dict(window=10)))
    paramwise = dict(scale_invariant_decay_mult=3.0)
    config = tiny_config(tmp_path, hook=dict(window=10), resume=True)
    config.optim_wrapper.paramwise_cfg = paramwise
    runner = train(config)
    log = log_of(runner)
    assert 'weight decay of scale-invariant weights is that of the checkpoint, ' in log
    assert '0.005 instead of 0.015' in log
    assert {g['weight_decay'] for g in runner.optim_wrapper.param_groups} == {5e-3}


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
    config = make[first](tmp_path / 'parts')
    train(config)
    checkpoint = str(tmp_path / 'parts' / 'iter_25.pth')
    changes = dict(resume=True, load_from=checkpoint)
    runner = train(make[second](tmp_path / 'parts', **changes))
    for name, value in weights(runner).items():
        assert torch.equal(value, whole[name]), name
    if second == 'monitored':
        rows = rows_of(tmp_path / 'parts')
        first = rows[rows['layer'] == SCALE_INVARIANT[0]]
        spans = first[['iter', 'count', 'stage']].values.tolist()
        assert spans == [[35, 10, 0], [40, 5, 0], [50, 10, 1], [60, 10, 1]]


def test_groups_that_differ_in_a_setting_stay_apart_in_the_checkpoint(tmp_path):
    paramwise_cfg = dict(scale_invariant_decay_mult=2.0)
    changes = {'optim_wrapper.paramwise_cfg': paramwise_cfg}
    config = tiny_config(tmp_path, hook=dict(window=10), **changes)
    train(config)
    saved = load(tmp_path / 'iter_25.pth')
    decays = [group['weight_decay'] for group in saved['optimizer']['param_groups']]
    assert sorted(decays) == [5e-3, 1e-2]
    config.resume, config.load_from = True, str(tmp_path / 'iter_25.pth')
    runner = train(config)
    decays = [group['weight_decay'] for group in runner.optim_wrapper.param_groups]
    assert sorted(decays) == [5e-3, 1e-2]
