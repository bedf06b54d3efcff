"""Weights, gradients and optimizers that are not as they should be."""

from pathlib import Path

import numpy as np
import torch
from disturbed import log_of, plan_config, rows_of, smd, train
from mmengine.registry import MODELS
from tiny import SCALE_INVARIANT, TinyNet
from torch import nn

from .case import (
    Group,
    ask,
    make,
    refused,
    states,
    survives,
    unchanged,
    weight,
    windows,
)

__all__ = ['ODD_WEIGHTS', 'OPTIMIZERS']

ODD_WEIGHTS = Group('Odd weights')
OPTIMIZERS = Group('Optimizers')


def _spoil(value: float):
    """An act that multiplies all later gradients of one layer."""

    def act(runner):
        weight(runner).register_hook(lambda grad: grad * value)

    return act


@ODD_WEIGHTS.case('NaN gradients')
def nan_gradients(folder: Path) -> str:
    """The gradient of one layer is NaN from iteration 31 on."""
    _, codes = survives(folder, _spoil(float('nan')))
    ask('diverged' in states(folder), states(folder))
    return f'same weights as without SMDHook; states: {states(folder)}; {codes}'


@ODD_WEIGHTS.case('infinite gradients')
def infinite_gradients(folder: Path) -> str:
    """The gradient of one layer is infinite from iteration 31 on."""
    _, codes = survives(folder, _spoil(float('inf')))
    return f'same weights as without SMDHook; states: {states(folder)}; {codes}'


@ODD_WEIGHTS.case('infinite weights')
def infinite_weights(folder: Path) -> str:
    """One weight is infinite at iteration 31."""

    def act(runner):
        weight(runner).data.view(-1)[0] = float('inf')

    _, codes = survives(folder, act)
    return f'same weights as without SMDHook; states: {states(folder)}; {codes}'


@ODD_WEIGHTS.case('zero weights')
def zero_weights(folder: Path) -> str:
    """All weights of one layer are set to zero before iteration 31."""
    _, codes = survives(folder, lambda runner: weight(runner).data.zero_())
    return f'same weights as without SMDHook; states: {states(folder)}; {codes}'


@ODD_WEIGHTS.case('all frozen')
def all_frozen(folder: Path) -> str:
    """No parameter of the model requires a gradient."""

    class Frozen(TinyNet):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.requires_grad_(False)

    MODELS.register_module(name='Frozen', module=Frozen, force=True)
    return refused(lambda: train(folder, **{'model.type': 'Frozen'}), 'no weight')


@OPTIMIZERS.case('parameter group added')
def group_added(folder: Path) -> str:
    """`add_param_group` with a new parameter and another rate, before iteration 31."""

    def act(runner):
        extra = nn.Parameter(torch.zeros(2))
        runner.optim_wrapper.optimizer.add_param_group({'params': [extra], 'lr': 9.0})

    # MMEngine's schedulers do not know the new group.
    _, codes = survives(folder, act, param_scheduler=None)
    ask(windows(folder / 'run') == [10, 20, 30, 40, 50, 60], 'a stage was made up')
    return f'same weights; no stage begins by it; {codes}'


@OPTIMIZERS.case('layer frozen')
def layer_frozen(folder: Path) -> str:
    """`requires_grad_(False)` on one measured layer before iteration 31."""
    _, codes = survives(folder, lambda runner: weight(runner).requires_grad_(False))
    rows = rows_of(folder / 'run')
    late = rows[(rows['layer'] == SCALE_INVARIANT[0]) & (rows['iter'] > 40)]
    ask((late['count'] == 0).all(), 'iterations without a step are counted')
    return f'same weights; its later rows count no iteration; {codes}'


@OPTIMIZERS.case('layer taken out of the optimizer')
def layer_taken_out(folder: Path) -> str:
    """One measured layer is removed from its parameter group before iteration 31."""

    def act(runner):
        gone = weight(runner)
        for group in runner.optim_wrapper.optimizer.param_groups:
            group['params'] = [p for p in group['params'] if p is not gone]
        runner.optim_wrapper.optimizer.state.pop(gone)  # else torch cannot save it

    _, codes = survives(folder, act)
    rows = rows_of(folder / 'run')
    late = rows[(rows['layer'] == SCALE_INVARIANT[0]) & (rows['iter'] > 40)]
    ask((late['count'] == 0).all(), 'it is said to move')
    return f'same weights; its later rows count no iteration; {codes}'


@OPTIMIZERS.case('module taken out of the model')
def module_taken_out(folder: Path) -> str:
    """The first convolution and its norm become identities before iteration 31."""

    def act(runner):
        layers = runner.model.layers
        layers[0], layers[1] = nn.Identity(), nn.Identity()
        layers[3] = nn.Conv2d(3, 6, 3, bias=False)

    _, codes = survives(folder, act)
    return f'same weights; {codes}'


def _replaced(make_optimizer):
    """An act that gives the run another optimizer, made from its runner."""

    def act(runner):
        runner.optim_wrapper.optimizer = make_optimizer(runner)

    return act


@OPTIMIZERS.case('optimizer replaced')
def optimizer_replaced(folder: Path) -> str:
    """`optim_wrapper.optimizer` is another SGD from iteration 31 on."""

    def make_optimizer(runner):
        return torch.optim.SGD(
            runner.model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3
        )

    runner, codes = survives(folder, _replaced(make_optimizer), param_scheduler=None)
    ask('optimizer was replaced' in log_of(runner), 'no warning')
    rows = rows_of(folder / 'run')
    late = rows[rows['iter'] > 30]
    ask(set(late['lr']) == {0.05} and (late['count'] == 10).all(), 'rows are missing')
    return f'warned; measured on at the new one, no iteration missing; {codes}'


@OPTIMIZERS.case('optimizer replaced by another kind')
def optimizer_of_another_kind(folder: Path) -> str:
    """`optim_wrapper.optimizer` is AdamW from iteration 31 on."""

    def make_optimizer(runner):
        return torch.optim.AdamW(runner.model.parameters(), lr=1e-3, weight_decay=0.1)

    runner, codes = survives(folder, _replaced(make_optimizer), param_scheduler=None)
    ask('optimizer was replaced' in log_of(runner), 'no warning')
    late = rows_of(folder / 'run').query('iter > 30')
    expected = (2 * 1e-3 * 0.1 * 0.1 / 1.9) ** 0.5
    ask(np.allclose(late['angular_update_eq'], expected), "not AdamW's Δ*")
    return f"warned; measured on, with AdamW's Δ*; {codes}"


@OPTIMIZERS.case('optimizer replaced by one without the layers')
def optimizer_without_the_layers(folder: Path) -> str:
    """`optim_wrapper.optimizer` has only the classifier from iteration 31 on."""

    def make_optimizer(runner):
        return torch.optim.SGD(runner.model.layers[8].parameters(), lr=0.05)

    act = _replaced(make_optimizer)
    runner = train(folder, act, param_scheduler=None)
    ask('monitoring stopped at iteration 31' in log_of(runner), 'no warning')
    ask(windows(folder) == [10, 20, 30], 'rows are missing')
    unchanged(runner, folder, act, param_scheduler=None)
    return 'warned that monitoring stopped; same weights; rows until then are there'


@OPTIMIZERS.case('learning rate 0')
def lr_zero(folder: Path) -> str:
    """A run with lr=0; `smd plan` of a config with lr=0, and with gamma=0."""
    _, codes = survives(folder, None, **{'optim_wrapper.optimizer.lr': 0.0})
    ask(states(folder) == 'learning rate 0', states(folder))
    told = []
    for option in ('lr=0.0, momentum', 'lr=0.1, momentum'):
        config = plan_config(folder)
        text = config.read_text().replace('lr=0.1, momentum', option)
        config.write_text(text.replace('gamma=0.1', 'gamma=0.0'))
        code, error = smd('plan', config)
        ask(code in (0, 1, 2) and error.count('\n') == (code == 2), error)
        told.append(f'plan {code}')
    return f'states: {states(folder)}; {codes}; {", ".join(told)}'


@OPTIMIZERS.case('weight decay 0')
def decay_zero(folder: Path) -> str:
    """A run with weight_decay=0."""
    _, codes = survives(folder, None, **{'optim_wrapper.optimizer.weight_decay': 0.0})
    ask(states(folder) == 'no weight decay', states(folder))
    return f'states: {states(folder)}; {codes}'


@OPTIMIZERS.case('momentum changed')
def momentum_changed(folder: Path) -> str:
    """Momentum is 0.5 from iteration 31 on, and 0 in a second run."""
    told = []
    for momentum in (0.5, 0.0):

        def act(runner, momentum=momentum):
            for group in runner.optim_wrapper.optimizer.param_groups:
                group['momentum'] = momentum

        run = make(folder / str(momentum))
        _, codes = survives(run, act)
        rows = rows_of(run / 'run')
        new = rows[rows['iter'] > 30]
        ask(set(new['momentum']) == {momentum}, 'windows mix two momenta')
        ask(new['stage'].min() > rows[rows['iter'] <= 30]['stage'].max(), 'no stage')
        told.append(codes)
    return f'a stage begins with it; same weights; {told[0]}'
