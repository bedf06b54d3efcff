"""Runs of the tiny model with SMDRescaleHook, and what is looked at in them."""

import copy

import tiny
import torch
from mmengine.hooks import EMAHook, Hook
from tiny import tiny_config

DROP = 40  # iterations before the milestone of tiny_config
WARMUP = dict(type='LinearLR', by_epoch=False, begin=0, end=10, start_factor=0.1)


class Witness(Hook):
    """Copies of the model before and after each iteration's rescaling.

    Args:
        iterations: Those to look at, counted from 0.
    """

    priority = 'NORMAL'

    def __init__(self, iterations=(DROP,)):
        self.iterations = iterations
        self.before, self.after, self.grads = {}, {}, {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter in self.iterations:
            self.before[runner.iter] = self.models(runner)
            self.grads[runner.iter] = gradients(runner)

    def models(self, runner):
        found = [runner.model]
        found += [h.ema_model.module for h in runner.hooks if isinstance(h, EMAHook)]
        return copy.deepcopy(found)


class Late(Witness):
    priority = 'LOW'


def gradients(runner):
    return {
        name: p.grad.clone()
        for name, p in runner.model.named_parameters()
        if p.grad is not None
    }


def rescaling(work_dir, max_iters=43, hook=None, extra=(), **settings):
    """A config with the hook; ``hook`` are SMDHook's settings, None leaves it out."""
    changes = settings.pop('changes', {})
    config = tiny_config(work_dir, max_iters=max_iters, hook=hook, **changes)
    hooks = config.get('custom_hooks', [])
    config.custom_hooks = [*hooks, *extra, dict(type='SMDRescaleHook', **settings)]
    return config


def train(config, *hooks, resume=None):
    """A run with the hook; ``resume`` is the checkpoint that it goes on from."""
    if resume is not None:
        config.merge_from_dict(dict(resume=True, load_from=str(resume)))
    return tiny.train(config, *hooks)


def the_hook(runner):
    return next(h for h in runner.hooks if type(h).__name__ == 'SMDRescaleHook')


def witnessed(config, iterations=(DROP,)):
    early, late = Witness(iterations), Late(iterations)
    return train(config, early, late), early, late


def evaluated(model):
    model = copy.deepcopy(model).double().eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        return model(images.to(next(model.parameters()).device), None)


def everything(runner):
    """Weights, buffers, and the optimizer's state, by name."""
    found = dict(runner.model.state_dict())
    optimizer = runner.optim_wrapper.optimizer
    for name, p in runner.model.named_parameters():
        for key, value in optimizer.state[p].items():
            found[f'{name}: {key}'] = value
    return {name: value.clone() for name, value in found.items()}


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


def starting(work_dir, interval=1000, max_iters=120, window=10, **settings):
    changes = {
        'default_hooks.checkpoint.interval': interval,
        'param_scheduler': [WARMUP],
        'optim_wrapper.optimizer.lr': 0.05,
    }
    return rescaling(
        work_dir,
        max_iters=max_iters,
        hook=dict(window=window),
        changes=changes,
        at_lr_drops=False,
        start_at_equilibrium=dict(measure=20, **settings),
    )
