"""Clipping in MMEngine's Runner, against the norms that MMEngine itself logs."""

import functools

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import OPTIM_WRAPPERS
from tiny import log_of, rows_of, tiny_config, train, weights
from torch.nn.utils import clip_grad_norm_
from versions import needs_cpu_scaler

from smd_mmdet.engine.clipping import clipping_of, follow_clipping
from smd_mmdet.records import read_records

MAX_NORM = 0.8
NORM = dict(max_norm=MAX_NORM, norm_type=2)


class Norms(Hook):
    """The norm that MMEngine logs of each step's gradients, where it makes one."""

    def __init__(self):
        self.found = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        log = runner.message_hub.log_scalars.get('train/grad_norm')
        if log is not None and len(log.data[0]) > len(self.found):
            self.found[runner.iter + 1] = float(log.data[0][-1])


def clipping(work_dir, clip_grad, hook=None, **changes):
    config = tiny_config(work_dir, hook=hook, **changes)
    config.optim_wrapper.clip_grad = clip_grad
    return config


def assert_told(rows, norms, max_norm=MAX_NORM):
    """Each window of the first layer has the share and the mean of its steps."""
    rows = rows[rows['layer'] == rows['layer'][0]]
    coefficient = {i: min(1, max_norm / (n + 1e-6)) for i, n in norms.items()}
    begin = 0
    for _, row in rows.iterrows():
        of_window = [c for i, c in coefficient.items() if begin < i <= row['iter']]
        assert row['count'] == len(of_window) > 0
        assert row['clipped_share'] == (np.array(of_window) < 1).mean()
        assert row['clip_coefficient_mean'] == pytest.approx(np.mean(of_window), 1e-6)
        begin = row['iter']
    share = rows['clipped_share']
    assert share.min() < 1 and share.max() > 0, 'it says nothing'


def same_weights(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize(('accumulated', 'max_norm'), [(1, MAX_NORM), (3, 0.39)])
def test_the_records_have_the_share_of_clipped_steps(tmp_path, accumulated, max_norm):
    clip_grad = dict(max_norm=max_norm, norm_type=2)
    changes = {'optim_wrapper.accumulative_counts': accumulated}
    plain = train(clipping(tmp_path / 'plain', clip_grad, **changes))
    hook, norms = dict(window=10 // accumulated, verify=False), Norms()
    ours = train(clipping(tmp_path / 'ours', clip_grad, hook, **changes), norms)
    same_weights(plain, ours)
    assert_told(rows_of(tmp_path / 'ours'), norms.found, max_norm)
    told = read_records(tmp_path / 'ours').metadata['clipping']
    assert told == {'type': 'norm', **clip_grad}
    assert '% of steps clipped' in log_of(ours)
    # After training everything is as it was.
    assert ours.optim_wrapper.clip_func is clip_grad_norm_


@needs_cpu_scaler
def test_a_step_that_amp_skips_is_none(tmp_path, monkeypatch):
    """MMEngine's own wrapper for mixed precision, its scaler on the CPU."""
    scaler = functools.partial(torch.amp.GradScaler, 'cpu', init_scale=256.0)
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', scaler)
    stock = AmpOptimWrapper.backward

    def backward(self, loss, **kwargs):
        stock(self, loss * (float('inf') if self._inner_count in (12, 33) else 1))

    monkeypatch.setattr(AmpOptimWrapper, 'backward', backward)
    changes = {'optim_wrapper.type': 'AmpOptimWrapper'}
    changes |= {'optim_wrapper.dtype': 'bfloat16'}
    plain = train(clipping(tmp_path / 'plain', NORM, **changes))
    norms = Norms()
    hook = dict(window=10, verify=False)
    ours = train(clipping(tmp_path / 'ours', NORM, hook, **changes), norms)
    same_weights(plain, ours)
    skipped = [i for i, norm in norms.found.items() if not np.isfinite(norm)]
    assert skipped == [13, 34]
    for i in skipped:
        del norms.found[i]
    assert_told(rows_of(tmp_path / 'ours'), norms.found)


@pytest.mark.parametrize('saved_at', [15, 30])
def test_a_resumed_run_goes_on_with_its_share(tmp_path, saved_at):
    def config(folder):
        changes = {'default_hooks.checkpoint.interval': saved_at}
        hook = dict(window=20, verify=False)
        return clipping(tmp_path / folder, NORM, hook, **changes)

    norms = Norms()
    train(config('whole'), norms)
    resumed = config('resumed')
    checkpoint = str(tmp_path / 'whole' / f'iter_{saved_at}.pth')
    resumed.merge_from_dict(dict(resume=True, load_from=checkpoint))
    train(resumed)
    whole, rest = rows_of(tmp_path / 'whole'), rows_of(tmp_path / 'resumed')
    assert_told(whole, norms.found)
    rest = rest.set_index(['iter', 'layer'])
    whole = whole.set_index(['iter', 'layer']).loc[rest.index]
    for column in ('clipped_share', 'clip_coefficient_mean', 'unit_h_mean'):
        np.testing.assert_array_equal(rest[column], whole[column])


def test_a_run_that_does_not_clip_is_known_not_to(tmp_path):
    train(tiny_config(tmp_path, hook=dict(window=20, verify=False)))
    rows = rows_of(tmp_path)
    assert set(rows['clipped_share']) == {0.0}
    assert set(rows['clip_coefficient_mean']) == {1.0}
    assert read_records(tmp_path).metadata['clipping'] is None


def parameters(wrapper):
    return [p for group in wrapper.optimizer.param_groups for p in group['params']]


@OPTIM_WRAPPERS.register_module(force=True)
class ClipsItself(OptimWrapper):
    def _clip_grad(self):
        clip_grad_norm_(parameters(self), 1e-3)


@OPTIM_WRAPPERS.register_module(force=True)
class StepsItself(OptimWrapper):
    def step(self, **kwargs):
        clip_grad_norm_(parameters(self), 1e-3)
        super().step(**kwargs)


@pytest.mark.parametrize(
    ('clip_grad', 'kind', 'told'),
    [
        (
            dict(type='value', clip_value=0.01),
            'OptimWrapper',
            {'type': 'value', 'clip_value': 0.01},
        ),
        (
            NORM,
            'ClipsItself',
            {'type': 'unknown', 'reason': 'ClipsItself has its own _clip_grad, which '
             'may clip gradients'},
        ),
        (
            None,
            'StepsItself',
            {'type': 'unknown', 'reason': 'StepsItself has its own step, which may '
             'clip gradients'},
        ),
    ],
)  # fmt: skip
def test_where_nothing_is_known_nothing_is_claimed(tmp_path, clip_grad, kind, told):
    hook = dict(window=20, verify=False)
    config = clipping(tmp_path, clip_grad, hook, max_iters=20)
    config.optim_wrapper.type = kind
    train(config)
    assert np.isnan(rows_of(tmp_path)['clipped_share']).all()
    assert read_records(tmp_path).metadata['clipping'] == told


def test_a_wrapper_that_steps_in_its_own_way_may_clip_by_mmengines(tmp_path):
    norms = Norms()
    config = clipping(tmp_path, NORM, dict(window=10, verify=False))
    config.optim_wrapper.type = 'StepsItself'
    train(config, norms)
    rows = rows_of(tmp_path)
    assert max(norms.found.values()) < MAX_NORM  # by then they are clipped to 1e-3
    assert set(rows['clipped_share']) == {0.0}


def wrapper(**clip_grad):
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    return OptimWrapper(optimizer, clip_grad=clip_grad or None), weight


class Listener:
    def __init__(self):
        self.unclipped, self.told = None, []

    def note_clipping(self, total_norm, max_norm, norm_type):
        self.told.append((float(total_norm), max_norm, norm_type))


def test_several_may_listen_and_leave_in_any_order():
    wrap, weight = wrapper(max_norm=1.0)
    one, other = Listener(), Listener()
    leave_one, leave_other = follow_clipping(wrap, one), follow_clipping(wrap, other)
    assert one.unclipped is False
    assert clipping_of(wrap) == {'type': 'norm', 'max_norm': 1.0}

    def step(size):
        weight.grad = torch.full((4,), size / 2)
        wrap.step()

    step(4.0)
    leave_one(), leave_one()
    step(8.0)
    wrap.clip_grad_kwargs['max_norm'] = 2.0  # by a hook, as training goes on
    step(8.0)
    leave_other()
    step(2.0)
    assert one.told == [(4.0, 1.0, 2.0)]
    assert other.told == [(4.0, 1.0, 2.0), (8.0, 1.0, 2.0), (8.0, 2.0, 2.0)]
    assert wrap.clip_func is clip_grad_norm_


def test_what_torch_refuses_is_still_refused():
    wrap, weight = wrapper(max_norm=1.0, error_if_nonfinite=True)
    follow_clipping(wrap, Listener())
    weight.grad = torch.full((4,), torch.inf)
    with pytest.raises(RuntimeError, match='non-finite'):
        wrap.step()


def test_who_listens_badly_does_not_end_the_step():
    wrap, weight = wrapper(max_norm=1.0)
    listener = Listener()
    listener.told = None  # cannot be appended to
    follow_clipping(wrap, listener)
    weight.grad = torch.ones(4)
    wrap.step()
    assert weight.tolist() == pytest.approx([0.95] * 4)


def test_an_infinite_norm_type_is_kept_as_text(tmp_path):
    wrap, _ = wrapper(max_norm=1.0, norm_type=float('inf'))
    assert clipping_of(wrap)['norm_type'] == 'inf'


def test_an_optimizer_that_clips_itself_is_not_known():
    wrap, _ = wrapper(max_norm=1.0)
    wrap.optimizer.defaults['max_grad_norm'] = 1.0  # as LAMB has it
    assert clipping_of(wrap) == {
        'type': 'unknown',
        'reason': 'SGD clips gradients itself (max_grad_norm)',
    }


def test_another_wrapper_is_followed(tmp_path):
    class Replace(Hook):
        priority = 'VERY_HIGH'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 20:
                old = runner.optim_wrapper.optimizer
                new = torch.optim.SGD(old.param_groups, lr=0.1, momentum=0.9)
                runner.optim_wrapper = OptimWrapper(new)

    config = clipping(tmp_path, NORM, dict(window=10, verify=False), max_iters=40)
    config.param_scheduler = None
    runner = train(config, Replace())
    rows = rows_of(tmp_path)
    assert set(rows['clipped_share'][rows['iter'] > 20]) == {0.0}
    assert rows['clipped_share'][rows['iter'] <= 20].max() > 0
    assert read_records(tmp_path).metadata['clipping'] is None
    assert 'monitoring stopped' not in log_of(runner)
