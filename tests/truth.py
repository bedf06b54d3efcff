"""The truth that the monitor is held to: float64 copies of the weights around a step.

Also the small network whose training the tests of the monitor measure.
"""

import numpy as np
import torch
from torch import nn

from smd_mmdet.monitor.quantities import QUANTITIES


def small_net(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    ).to(dtype)


def weights_of(net):
    return {'first': net[0].weight, 'second': net[3].weight}


def batch(step, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1000 + step)
    images = torch.randn(8, 3, 8, 8, generator=generator, dtype=dtype)
    return images, torch.randint(4, (8,), generator=generator)


def backward(net, step, scale=1.0):
    images, labels = batch(step, next(net.parameters()).dtype)
    (nn.functional.cross_entropy(net(images), labels) * scale).backward()


class Truth:
    """Keeps float64 copies around every step and recomputes every quantity."""

    def __init__(self, optimizer, params):
        self.optimizer, self.params = optimizer, params
        self.rows = {name: [] for name in params}
        self.buffers = {
            name: torch.zeros_like(p).double() for name, p in params.items()
        }
        optimizer.register_step_pre_hook(lambda *_: self.before())
        optimizer.register_step_post_hook(lambda *_: self.after())

    def before(self):
        self.old = {n: p.detach().double().clone() for n, p in self.params.items()}

    def after(self):
        for name, param in self.params.items():
            if param.grad is None:
                continue
            group = next(
                g
                for g in self.optimizer.param_groups
                if any(p is param for p in g['params'])
            )
            alpha = group.get('momentum', 0.0)
            kept = 1 - group.get('dampening', 0.0) if alpha else 1.0
            w, u = self.old[name], param.detach().double()
            g = param.grad.double()
            v_old, first = self.buffers[name], not self.rows[name]
            v = alpha * v_old + kept * (g + group['weight_decay'] * w)
            if first:  # torch's first buffer is the gradient
                v = v / kept
            self.buffers[name] = v
            cosine = (w * u).sum() / (w.norm() * u.norm())
            unit_w, unit_u = w / w.norm(), u / u.norm()
            # Kahan's angle, exact for small and for large angles.
            angle = 2 * torch.atan2((unit_w - unit_u).norm(), (unit_w + unit_u).norm())
            assert abs(torch.cos(angle) - cosine) < 1e-12
            # In place of v and ηv it is v/(1−d) and η(1−d) with dampening d.
            held = alpha * v_old / kept
            if first:
                held = (1 / kept - 1) * g
            if group.get('nesterov'):
                held = alpha * held
            h = g.square().sum() + 2 * (held * g).sum()
            update = self.update(param, group)
            self.rows[name].append(
                {
                    'weight_norm': w.norm(),
                    'grad_norm': g.norm(),
                    'unit_grad_sq': (g.norm() * w.norm()) ** 2,
                    'unit_h': h * w.norm() ** 2,
                    'angular_update': angle,
                    'cosine': (w * g).sum() / (w.norm() * g.norm()),
                    'momentum_norm': v.norm() / kept,
                    'update_sq': update.square().sum(),
                    'update_cosine': (w * update).sum() / (w.norm() * update.norm()),
                }
            )

    def update(self, param, group):
        """m̂/√v̂ of Adam's kind, from the optimizer's own moments."""
        state = self.optimizer.state[param]
        if 'exp_avg_sq' not in state:
            return torch.full_like(param, torch.nan).double()
        t = float(state['step'])
        mean, square = state['exp_avg'].double(), state['exp_avg_sq'].double()
        beta1, beta2 = group['betas']
        root = (square / (1 - beta2**t)).sqrt() + group['eps']
        return mean / (1 - beta1**t) / root

    def statistics(self, name, quantity, steps):
        values = np.array([float(row[quantity]) for row in self.rows[name][steps]])
        return values.mean(), values.var(), values.min(), values.max()


def terms_of_unit_h(row):
    size = row['grad_norm'] * (row['grad_norm'] + 2 * row['momentum_norm'])
    return float(size * row['weight_norm'] ** 2)


OF_SGD = tuple(name for name in QUANTITIES if not name.startswith('update_'))


def assert_window_equals(rows, truth, layer, last, steps, rtol, quantities=OF_SGD):
    chosen = (rows['layer'] == layer) & (rows['iter'] == last)
    assert chosen.sum() == 1, f'no row, or several, for {layer} at {last}'
    count = len(truth.rows[layer][steps])
    assert rows['count'][chosen] == count
    for quantity in quantities:
        expected = truth.statistics(layer, quantity, steps)
        measured = [
            rows[f'{quantity}_{s}'][chosen][0] for s in ('mean', 'var', 'min', 'max')
        ]
        # A cosine that is 0 in truth is known to rounding only.
        atol = 3e-6 if quantity == 'cosine' else 0
        scale = max(abs(expected[2]), abs(expected[3]))
        if quantity == 'unit_h':  # a difference; its terms bound its rounding
            scale = max(map(terms_of_unit_h, truth.rows[layer][steps]))
        tolerance = [rtol * scale + atol] * 4
        tolerance[1] = rtol * scale**2 + atol**2
        for got, want, allowed in zip(measured, expected, tolerance, strict=True):
            assert abs(got - want) <= allowed, (quantity, measured, expected)
