"""SMDRescaleHook in MMEngine's Runner: rate drops, resumes, averages, refusals."""

import copy

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from rescaled import (
    DROP,
    WARMUP,
    Late,
    Witness,
    assert_equal,
    evaluated,
    everything,
    rescaling,
    the_hook,
    train,
    witnessed,
)
from tiny import SCALE_INVARIANT, tiny_config

from smd_mmdet.engine import SettingError
from smd_mmdet.records import read_records

C = 10**-0.25


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

    monkeypatch.setattr('smd_mmdet.engine.rescaling.plan_what_fits', broken)
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
        (
            {
                'optim_wrapper.optimizer': dict(
                    _delete_=True, type='Adam', lr=1e-3, weight_decay=0.1
                )
            },
            'no equilibrium norm is known under Adam with its settings; take SGD',
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


@pytest.mark.parametrize('changes', [dict(nesterov=True), dict(dampening=0.5)])
def test_nesterov_and_dampening_are_rescaled_as_sgd_is(tmp_path, changes):
    changes = {
        f'optim_wrapper.optimizer.{key}': value for key, value in changes.items()
    }
    config = rescaling(tmp_path, hook=dict(window=5), changes=changes)
    _, before, after = witnessed(config)
    assert all(c == pytest.approx(C) for c in ratios(before, after).values())
    columns = dict(read_records(tmp_path).by_layer())[SCALE_INVARIANT[0]]
    assert np.isfinite(columns['angular_update_eq']).all()
    kind = 'nesterov' if 'nesterov' in str(changes) else 'sgd'
    assert read_records(tmp_path).metadata['theory'] == kind


# ------------------------------------------------------------------ clipped gradients


def clipped(work_dir, max_norm, **settings):
    config = rescaling(work_dir, **settings)
    config.optim_wrapper.clip_grad = dict(max_norm=max_norm)
    return config


def ratios(before, after):
    """By how much each weight was multiplied at the drop."""
    (old,), (new,) = before.before[DROP], after.before[DROP]
    named = dict(old.named_parameters())
    return {
        name: float((new.get_parameter(name).norm() / named[name].norm()).detach())
        for name in SCALE_INVARIANT
    }


def test_weights_fall_further_where_every_step_is_clipped(tmp_path):
    config = clipped(tmp_path, 1e-3, hook=dict(window=5))
    runner, before, after = witnessed(config)
    # Between 10^(−1/4) and 10^(−1/2): the head has gradients besides.
    for c in ratios(before, after).values():
        assert 10**-0.5 < c < 0.98 * C
    (told,) = the_hook(runner).history
    assert told['clipped_share'] == 1.0
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert '(learning rate divided by 10, 100% of the last steps clipped)' in log
    assert read_records(tmp_path).metadata['rescaled'] == [told]


def test_weights_fall_as_ever_where_no_step_is_clipped(tmp_path):
    _, before, after = witnessed(clipped(tmp_path, 1e3))
    for c in ratios(before, after).values():
        assert c == pytest.approx(C, rel=1e-6)


@pytest.mark.parametrize('saved_at', [DROP - 15, DROP])
def test_a_resume_knows_what_was_clipped(tmp_path, saved_at):
    def config(work_dir):
        changes = {'default_hooks.checkpoint.interval': saved_at}
        return clipped(work_dir, 0.8, changes=changes)

    whole = everything(train(config(tmp_path / 'whole')))
    checkpoint = tmp_path / 'whole' / f'iter_{saved_at}.pth'
    resumed = train(config(tmp_path / 'resumed'), resume=checkpoint)
    assert_equal(whole, everything(resumed))
    assert 0 < the_hook(resumed).history[0]['clipped_share'] < 1


@pytest.mark.parametrize(
    ('clip_grad', 'why'),
    [
        (dict(type='value', clip_value=0.1), 'clip_grad.type=value'),
        (dict(max_norm=0.1, norm_type='inf'), 'clip_grad.norm_type=inf'),
    ],
)
def test_clipping_that_is_not_known_is_told(tmp_path, clip_grad, why):
    config = clipped(tmp_path, 1.0)
    config.optim_wrapper.clip_grad = clip_grad
    runner, before, after = witnessed(config)
    assert all(c == pytest.approx(C) for c in ratios(before, after).values())
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert f'not known by how much gradients are clipped ({why})' in log
    assert not hasattr(runner.optim_wrapper.clip_func, 'listeners')


def test_a_branch_off_a_plain_run_says_that_it_has_seen_no_step(tmp_path):
    changes = {'default_hooks.checkpoint.interval': DROP}
    plain = tiny_config(tmp_path / 'plain', max_iters=DROP, **changes)
    plain.optim_wrapper.clip_grad = dict(max_norm=0.8)
    train(plain)
    checkpoint = tmp_path / 'plain' / f'iter_{DROP}.pth'
    runner = train(clipped(tmp_path / 'branch', 0.8), resume=checkpoint)
    assert the_hook(runner).history[0]['factor_min'] == pytest.approx(C)
    log = next((tmp_path / 'branch').glob('*/*.log')).read_text()
    assert 'no step was seen yet that tells how often gradients are clipped' in log


def test_a_start_at_equilibrium_settles_under_clipping(tmp_path):
    """In the phases after the first one there is little left to do."""
    config = clipped(
        tmp_path,
        1e-2,
        max_iters=160,
        hook=dict(window=10),
        changes={'param_scheduler': [WARMUP]},
        at_lr_drops=False,
        start_at_equilibrium=dict(measure=40, repeats=3, max_factor=100),
    )
    history = the_hook(train(config)).history
    assert [entry['clipped_share'] for entry in history] == [1.0] * len(history)
    moves = [max(one['factor_max'], 1 / one['factor_min']) for one in history]
    assert moves[0] > 1.5
    assert all(move < 1 + (moves[0] - 1) / 2 for move in moves[1:])
