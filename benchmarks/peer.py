"""Our pass beside other ways to know how weights and gradients are, on the same layers.

    python benchmarks/peer.py [--threads N] [--rounds N]

Each way does to the weights what that tool does, written here anew and without the
tool: docs/comparison.md names the file of each. What a tool does besides (sending a
figure to a server, say) is left out, so a call costs at least as much as is told here.
Of TensorBoard it is the writer itself, which comes with torch.
"""

import copy
import tempfile
from collections import defaultdict

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
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from smd_mmdet import SphericalMotionMonitor

LR = 1e-3
# Every how many steps a tool looks, unless it is told otherwise; None: the user says.
USUALLY = {
    'smd_mmdet, windows included': 1,
    'cvpods: five sums a weight, fetched': 1,
    'Cockpit: update size, distance, gradient norm': 1,
    'REQ: norms and angles of layers and neurons': 10,
    'Lightning: norms of gradients': None,
    'W&B: histograms of gradients': 1000,
    'TensorBoard: histograms of gradients': None,
}


class FetchedSums:
    """Five sums of each weight, each of which waits for the device."""

    def __init__(self, optimizer, params):
        self.optimizer, self.params = optimizer, params

    def __call__(self):
        rows = []
        for param in self.params:
            step = self.optimizer.state[param]['momentum_buffer']
            ww = (param * param).sum().item()
            vv = (step * step).sum().item()
            gg = (param.grad * param.grad).sum().item()
            wg = (param * param.grad).sum().item()
            wv = (param * step).sum().item()
            cosine = wv / ((ww * vv) ** 0.5 + 1e-5)
            sine = (1 - min(1.0, cosine**2)) ** 0.5
            angle = LR * vv**0.5 * sine / (ww**0.5 + 1e-5)
            rows.append((ww, gg, wg / ((ww * gg) ** 0.5 + 1e-5), angle))
        return rows


class CopiedAndFetched:
    """Weights copied at each step; norms of updates, ways and gradients fetched."""

    def __init__(self, params):
        self.params = params
        self.first = [param.detach().clone() for param in params]
        self.before = [param.detach().clone() for param in params]

    def __call__(self):
        updates = [
            (param - old).norm(2).item()
            for param, old in zip(self.params, self.before, strict=True)
        ]
        distances = [
            (param - first).norm(2).item()
            for param, first in zip(self.params, self.first, strict=True)
        ]
        gradients = [param.grad.norm(2).item() for param in self.params]
        self.before = [param.detach().clone() for param in self.params]
        return updates, distances, gradients


class CopiedWithState:
    """Weights and state copied at each step; norms and angles by layer and neuron."""

    def __init__(self, optimizer, params):
        self.optimizer, self.params = optimizer, params
        self.kept = defaultdict(list)

    def __call__(self):
        self.kept.clear()  # as it does when it has logged
        old = [param.detach().clone() for param in self.params]
        copy.deepcopy([self.optimizer.state[param] for param in self.params])
        for i, (param, before) in enumerate(zip(self.params, old, strict=True)):
            for neurons in (False, True):
                start = 1 if neurons else 0
                w, old_w, g = (
                    tensor.flatten(start) for tensor in (param, before, param.grad)
                )
                cosine = F.cosine_similarity(old_w, w, dim=start)
                norm = torch.linalg.vector_norm(old_w, dim=start)
                moved = torch.linalg.vector_norm(w - old_w, dim=start) / norm
                angle = torch.acos(cosine.clamp(-1, 1))
                gradient = torch.linalg.vector_norm(g, dim=start)
                self.kept[i, neurons] += [norm, gradient, angle, moved]


def norms_of_gradients(params):
    """The norm of each gradient, and of all together."""
    norms = [param.grad.norm(2.0) for param in params]
    return torch.tensor(norms).norm(2.0)


def histograms_of_gradients(params):
    """64 bins of each gradient between its least and its greatest value."""
    rows = []
    for param in params:
        flat = param.grad.detach().clone().reshape(-1)
        if not torch.isfinite(flat).all():
            flat = flat[torch.isfinite(flat)]
        least, most = flat.min().item(), flat.max().item()
        counts = flat.histc(bins=64, min=least, max=most).tolist()
        rows.append((counts, torch.linspace(least, most, 65).tolist()))
    return rows


def written_histograms(params, writer):
    """TensorBoard's histograms of each gradient, in its file."""
    for i, param in enumerate(params):
        writer.add_histogram(f'gradients/{i}', param.grad, 0)


def make_params(device):
    params = []
    for w, g, _ in random_layers(resnet50_shapes(), device):
        params.append(torch.nn.Parameter(w))
        params[-1].grad = g
    return params


def measure(args, writer):
    """Seconds of a call of each way, by name."""
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
    ways = [
        ours,
        FetchedSums(optimizer, params),
        CopiedAndFetched(params),
        CopiedWithState(optimizer, params),
        lambda: norms_of_gradients(params),
        lambda: histograms_of_gradients(params),
        lambda: written_histograms(params, writer),
    ]
    with torch.no_grad():
        return interleaved(
            {
                'plain read of w, g, v': plain_read(layers),
                **dict(zip(USUALLY, ways, strict=True)),
                'the optimizer step itself': optimizer.step,
            },
            args.rounds,
            warmup=5,
        )


def main() -> None:
    args = arguments(__doc__, rounds=30).parse_args()
    torch.set_num_threads(args.threads)
    told = machine()
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        times = measure(args, writer)
    base = times['smd_mmdet, windows included'].mean()
    rows = []
    for name, values in times.items():
        every = USUALLY.get(name, 1)
        a_step = '' if every is None else milliseconds(values.mean() / every)
        mean, median = values.mean(), sorted(values)[len(values) // 2]
        rows.append([name, milliseconds(mean), milliseconds(median)])
        rows[-1] += [f'{mean / base:.2f}', every or "the user's choice", a_step]
    print(told)
    print(f'\n53 weights of ResNet-50, {args.device}, {args.threads} threads\n')
    head = ['way', 'mean ms', 'median ms', 'times ours']
    print(table([*head, 'every so many steps', 'ms a step at that'], rows))


if __name__ == '__main__':
    main()
