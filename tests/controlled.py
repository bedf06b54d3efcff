"""Scale-invariant weights with random gradients, moved by torch's own optimizers.

The gradient of a weight is drawn across it, with a length of its own over ‖w‖, and the
angle of each step is computed from copies of the weights: nothing of smd_mmdet.
"""

import numpy as np
import torch
from torch import nn

OPTIMIZERS = {
    'sgd': lambda params, **kw: torch.optim.SGD(params, momentum=0.9, **kw),
    'plain sgd': lambda params, **kw: torch.optim.SGD(params, **kw),
    'nesterov': lambda params, **kw: torch.optim.SGD(
        params, momentum=0.9, nesterov=True, **kw
    ),
    'adamw': lambda params, **kw: torch.optim.AdamW(params, betas=(0.9, 0.99), **kw),
}


def network(layers=6, width=32, norm=1.0):
    """Linear layers, each with batch norm behind it, in float64 and without an ε."""
    torch.manual_seed(0)
    parts = []
    for _ in range(layers):
        parts += [nn.Linear(width, width, bias=False), nn.BatchNorm1d(width, eps=1e-16)]
    model = nn.Sequential(*parts).double()
    with torch.no_grad():
        for name, weight in weights_of(model).items():
            weight.mul_(norm / weight.norm())
            assert name
    return model


def weights_of(model):
    return {n: p for n, p in model.named_parameters() if p.dim() == 2}


class Walk:
    """Steps of random gradients on a network's weights.

    Args:
        model: The network.
        kind: A key of OPTIMIZERS.
        sizes: Root mean square of ‖g̃‖ of each layer.
        noise: Standard deviation of ln‖g̃‖.
        max_norm: What the norm of all gradients is clipped to; None for nothing.
        silent: Layer to (step -> whether its gradient is 0).
        **settings: Of the optimizer.
    """

    def __init__(
        self, model, kind='sgd', sizes=None, noise=0.2, max_norm=None, silent=None,
        seed=0, **settings,
    ):  # fmt: skip
        self.weights = weights_of(model)
        self.sizes = sizes or [1.0] * len(self.weights)
        self.noise, self.max_norm = noise, max_norm
        self.silent = silent or {}
        self.optimizer = OPTIMIZERS[kind](model.parameters(), **settings)
        self.generator = torch.Generator().manual_seed(seed)
        self.angles, self.norms = [], []

    def draw(self):
        for i, w in enumerate(self.weights.values()):
            g = torch.randn(w.shape, generator=self.generator, dtype=torch.float64)
            v = w.detach()
            g -= v * (g * v).sum() / v.square().sum()
            spread = torch.randn((), generator=self.generator, dtype=torch.float64)
            size = self.sizes[i] * float((self.noise * spread).exp())
            w.grad = g * size / g.norm() / v.norm()
            if i in self.silent and self.silent[i](len(self.angles)):
                w.grad.zero_()

    def step(self, controller=None):
        """One step; what the controller has multiplied after it."""
        self.draw()
        if self.max_norm is not None:
            total = nn.utils.clip_grad_norm_(self.weights.values(), self.max_norm)
            if controller is not None:
                controller.note_clipping(total, self.max_norm)
        before = [w.detach().flatten().clone() for w in self.weights.values()]
        self.optimizer.step()
        after = [w.detach().flatten() for w in self.weights.values()]
        self.norms.append([float(w.norm()) for w in before])
        self.angles.append([_angle(a, b) for a, b in zip(before, after, strict=True)])
        return {} if controller is None else controller.step()

    def rms(self, window, begin=0):
        """Root mean square of the angles; shape (windows, layers)."""
        angles = np.square(self.angles[begin:])
        whole = len(angles) // window * window
        return np.sqrt(angles[:whole].reshape(-1, window, angles.shape[1]).mean(1))


def _angle(one, two):
    along = one @ two / one.norm()
    across = two - one * along / one.norm()
    return float(torch.atan2(across.norm(), along))
