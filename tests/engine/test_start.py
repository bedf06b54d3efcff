"""Start at equilibrium: phases of measuring, and what they do to a run."""

import pytest
from mmengine.hooks import Hook
from rescaled import (
    Late,
    Witness,
    assert_equal,
    evaluated,
    everything,
    rescaling,
    starting,
    the_hook,
    train,
    witnessed,
)
from tiny import SCALE_INVARIANT, log_of
from versions import load

from smd_mmdet import theory
from smd_mmdet.records import read_records


def test_layers_start_at_their_equilibrium(tmp_path):
    config = starting(tmp_path, max_iters=55, window=1)
    runner, before, after = witnessed(config, iterations=(30,))
    history = the_hook(runner).history
    assert 1 <= len(history) <= 3
    # Warm-up ends with 10 iterations; 20 are measured.
    assert history[0]['iteration'] == 31
    (old,), (new,) = before.before[30], after.before[30]
    change = (evaluated(new) - evaluated(old)).abs().max() / evaluated(old).abs().max()
    assert change < 1e-2
    rows = read_records(tmp_path).table.to_pandas()
    measured = rows[(rows['iter'] > 10) & (rows['iter'] <= 30)]
    for name in SCALE_INVARIANT:
        h = measured[measured['layer'] == name]['unit_h_mean'].mean()
        wanted = float(theory.equilibrium_norm(0.05, 5e-3, h, 0.9))
        found = float(new.get_parameter(name).detach().double().norm())
        size = float(old.get_parameter(name).detach().double().norm())
        if abs(wanted / size - 1) > 0.03:
            assert found == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize('saved_at', [15, 30])
def test_a_resume_in_mid_phase_equals_the_run_without_it(tmp_path, saved_at):
    whole = train(starting(tmp_path / 'whole', saved_at, max_iters=55))
    checkpoint = tmp_path / 'whole' / f'iter_{saved_at}.pth'
    config = starting(tmp_path / 'resumed', saved_at, max_iters=55)
    resumed = train(config, resume=checkpoint)
    assert_equal(everything(whole), everything(resumed))
    assert the_hook(whole).history == the_hook(resumed).history != []


class BreakPhase(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 15:
            the_hook(runner)._work.phases._phase._monitor._give_up(ValueError('broken'))


def test_a_phase_that_fails_ends_neither_checkpoints_nor_drops(tmp_path):
    config = rescaling(tmp_path, start_at_equilibrium=dict(measure=20))
    config.default_hooks.checkpoint.interval = 20
    runner = train(config, BreakPhase())
    log = log_of(runner)
    assert 'layers are not put at equilibrium: broken' in log
    assert 'rescaling stopped' not in log
    assert [entry['cause'] for entry in the_hook(runner).history] == ['learning rate']
    saved = load(tmp_path / 'iter_20.pth')
    assert saved['smd_rescale']['start']['monitor'] is None


def test_factors_are_bounded(tmp_path):
    config = starting(tmp_path, max_iters=40, max_factor=1.05, repeats=1)
    runner = train(config)
    (told,) = the_hook(runner).history
    assert max(told['factor_max'], 1 / told['factor_min']) == pytest.approx(1.05)


def test_layers_without_decay_are_left_alone_and_named(tmp_path):
    config = starting(tmp_path, max_iters=40, repeats=1)
    config.optim_wrapper.paramwise_cfg = dict(
        custom_keys={'layers.3': dict(decay_mult=0.0)}
    )
    train(config)
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'layers.3.weight (no decay)' in log


def test_weights_are_not_shrunk_into_the_epsilon(tmp_path):
    class Faint(Hook):
        """A layer far above its equilibrium, with little output variance: 200 ε."""

        priority = 'HIGHEST'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 10:
                runner.model.layers[3].weight.data *= 4
            if runner.iter == 30:
                norm = runner.model.layers[4]
                norm.running_var.fill_(200 * norm.eps)

    config = starting(tmp_path, max_iters=32, repeats=1)
    early, late = Witness([30]), Late([30])
    train(config, Faint(), early, late)
    (old,), (new,) = early.before[30], late.before[30]
    norm = new.layers[4]
    assert float(norm.running_var.median()) >= 99 * norm.eps
    ratio = new.layers[3].weight.norm() / old.layers[3].weight.norm()
    assert float(ratio.detach()) == pytest.approx(0.5**0.5, rel=1e-4)
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'layers.3.weight (held back, layers.4 is near its ε)' in log
