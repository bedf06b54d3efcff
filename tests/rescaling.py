"""A model in float64, before and after a rescaling."""

import copy

import torch
from torch import nn
from torch.nn import functional as F


def images(channels=3, size=8, batch=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, channels, size, size, generator=generator).double()


def conv(into=3, out=6, kernel=3, bias=True, **options):
    return nn.Conv2d(into, out, kernel, padding=kernel // 2, bias=bias, **options)


def frozen(model, *names):
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    return model


def prepare(model):
    """Statistics and biases at a point that is not special; no ε in the way."""
    torch.manual_seed(0)
    model.double()
    for module in model.modules():
        if isinstance(getattr(module, 'eps', None), float):
            module.eps = 1e-16
        if getattr(module, 'running_mean', None) is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def draw(names):
    generator = torch.Generator().manual_seed(1)
    drawn = torch.rand(len(names), generator=generator, dtype=torch.float64)
    return dict(zip(names, (0.3 * 10**drawn).tolist(), strict=True))


def leaves(output):
    if isinstance(output, torch.Tensor):
        return [output]
    return [leaf for part in output for leaf in leaves(part)]


def evaluated(model, inputs):
    one = copy.deepcopy(model)
    one.eval()
    torch.manual_seed(3)  # a functional dropout draws in evaluation mode too
    with torch.no_grad():
        return leaves(one(*inputs))


def trained(model, inputs):
    """Loss in train mode, and the gradients, of a copy."""
    one = copy.deepcopy(model)
    for module in one.modules():  # its forward needs a GPU
        if isinstance(module, nn.SyncBatchNorm):
            module.forward = lambda x, m=module: F.batch_norm(
                x, None, None, m.weight, m.bias, training=True, eps=m.eps
            )
    generator = torch.Generator().manual_seed(2)
    loss = sum(
        (leaf * torch.randn(leaf.shape, generator=generator).double()).sin().sum()
        for leaf in leaves(one(*inputs))
    )
    loss.backward()
    return float(loss.detach()), {n: p.grad for n, p in one.named_parameters()}


def distance(before, after):
    return max(
        float((a - b).abs().max() / a.abs().max())
        for a, b in zip(before, after, strict=True)
    )
