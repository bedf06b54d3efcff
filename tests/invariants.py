"""Questions to a model: what is scale-invariant in it, and what has changed."""

import copy
import random

import numpy as np
import torch

from smd_mmdet.invariance import find_scale_invariant


def found(model, *inputs):
    return {e.name for e in find_scale_invariant(model, inputs) if e.invariant}


def entry(model, name, *inputs):
    return next(e for e in find_scale_invariant(model, inputs) if e.name == name)


def convolutions(model, *but):
    """All convolution kernels but those whose name contains one of these."""
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.dim() == 4 and not any(part in name for part in but)
    }


def squares(*inputs):
    """A loss that weights every number of every output differently."""

    def loss(model):
        outputs, total = model(*copy.deepcopy(inputs)), 0.0
        for output in leaves(outputs):
            generator = torch.Generator().manual_seed(2)
            target = torch.randn(output.shape, generator=generator)
            total = total + (output.double() - target.to(output).double()).pow(2).mean()
        return total

    return loss


def leaves(outputs):
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [leaf for output in outputs for leaf in leaves(output)]


def snapshot(model):
    return dict(
        state={k: v.clone() for k, v in model.state_dict(keep_vars=True).items()},
        identity={k: v.data_ptr() for k, v in model.state_dict().items()},
        training=[m.training for m in model.modules()],
        requires_grad=[p.requires_grad for p in model.parameters()],
        grads=[None if p.grad is None else p.grad.clone() for p in model.parameters()],
        hooks=[
            (len(m._forward_hooks), len(m._forward_pre_hooks), 'forward' in vars(m))
            for m in model.modules()
        ],
        attributes=[
            {k: v for k, v in vars(m).items() if isinstance(v, (int, bool, str))}
            for m in model.modules()
        ],
        rng=(
            torch.get_rng_state(),
            random.getstate(),
            np.random.get_state(),
            torch.get_default_dtype(),
        ),
    )


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        assert (a == b).all()
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert a == b
