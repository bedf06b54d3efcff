"""Our pass beside other ways to the same knowledge, on the same layers.

    python benchmarks/peer.py [--threads N] [--rounds N]

The angular SGD of cvpods keeps, for every parameter, norms and angles of each step as
Python numbers; cockpit-like tools copy the weights and take differences. Both are
written here anew from what they do, as training scripts would have them.
"""

import math

import torch
from common import (
    arguments,
    interleaved,
    machine,
    milliseconds,
    plain_read,
    random_layers,
    resnet50_shapes,
    table,
)

from smd_mmdet import SphericalMotionMonitor

LR = 1e-3


class PerParameter:
    """Norms and products of each parameter, five numbers fetched for each."""

    def __init__(self, params):
        self.params = params

    def __call__(self):
        rows = []
        for param in self.params:
            update = param.grad.add(param, alpha=1e-4)
            weight_norm = param.norm().item()
            grad_norm = param.grad.norm().item()
            update_norm = update.norm().item()
            along = (param * update).sum().item()
            radial = (param * param.grad).sum().item()
            scale = max(weight_norm * update_norm, 1e-12)
            sine = math.sqrt(max(0.0, 1 - (along / scale) ** 2))
            angle = math.atan2(LR * update_norm * sine, weight_norm)
            rows.append((weight_norm, grad_norm, radial, angle))
        return rows


class CloneAndDiff:
    """Weights copied at each step, and differences taken."""

    def __init__(self, params):
        self.params = params
        self.before = [param.detach().clone() for param in params]

    def __call__(self):
        rows = []
        for i, param in enumerate(self.params):
            moved = param - self.before[i]
            cosine = torch.nn.functional.cosine_similarity(
                param.reshape(-1), self.before[i].reshape(-1), dim=0
            )
            rows += [moved.norm(), param.norm(), param.grad.norm(), cosine]
            self.before[i] = param.detach().clone()
        return torch.stack(rows)


def make_params(device):
    params = []
    for w, g, _ in random_layers(resnet50_shapes(), device):
        params.append(torch.nn.Parameter(w))
        params[-1].grad = g
    return params


def main() -> None:
    args = arguments(__doc__, rounds=30).parse_args()
    torch.set_num_threads(args.threads)
    params = make_params(args.device)
    optimizer = torch.optim.SGD(params, lr=LR, momentum=0.9, weight_decay=1e-4)
    optimizer.step()  # makes the momentum buffers
    monitor = SphericalMotionMonitor(
        optimizer, {str(i): param for i, param in enumerate(params)}, window=50
    )
    monitor.detach()

    def ours():
        monitor._measure()
        if monitor.ready:  # as the hook does
            monitor.collect(wait=False)

    layers = [(p.data, p.grad, optimizer.state[p]['momentum_buffer']) for p in params]
    with torch.no_grad():
        times = interleaved(
            {
                'plain read of w, g, v': plain_read(layers),
                'smd_mmdet, windows included': ours,
                'per parameter, .item() five times': PerParameter(params),
                'clone and difference': CloneAndDiff(params),
                'the optimizer step itself': optimizer.step,
            },
            args.rounds,
            warmup=5,
        )
    base = sum(sorted(times['smd_mmdet, windows included'])) / args.rounds
    rows = [
        [
            name,
            milliseconds(values.mean()),
            milliseconds(sorted(values)[len(values) // 2]),
            f'{values.mean() / base:.2f}',
        ]
        for name, values in times.items()
    ]
    print(machine())
    print(f'\n53 weights of ResNet-50, {args.device}, {args.threads} threads\n')
    print(table(['way', 'mean ms', 'median ms', 'times ours'], rows))


if __name__ == '__main__':
    main()
