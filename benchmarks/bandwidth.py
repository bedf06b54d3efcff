"""The pass over (w, g, v) against a plain read of the same bytes.

    python benchmarks/bandwidth.py [--threads N] [--layers resnet50|quickstart]

All ways give the six inner products of every layer, and each result is compared with
float64 before it is timed. torch.compile needs a compiler, numba is measured where it
is installed; neither is used by smd_mmdet.
"""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from common import (
    Layers,
    arguments,
    interleaved,
    machine,
    milliseconds,
    plain_read,
    quickstart_shapes,
    random_layers,
    resnet50_shapes,
    table,
)

from smd_mmdet.monitor.kernels import cpu, gpu, gram, plain
from smd_mmdet.monitor.kernels.layout import lay_flat

PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
CHUNK = 65536
TOLERANCE = 1e-4  # of the norms' product; the pass itself is held to 1e-6 by tests


def flat(layer):
    return [tensor.reshape(-1) for tensor in layer]


def whole_dot(layers):
    rows = [[torch.dot(f[i], f[j]) for i, j in PAIRS] for f in map(flat, layers)]
    return torch.stack([torch.stack(row) for row in rows])


def chunks(layer):
    return zip(*(tensor.split(CHUNK) for tensor in flat(layer)), strict=True)


def six(chunk):
    return [torch.dot(chunk[i], chunk[j]) for i, j in PAIRS]


def by_plain(layers):
    out = torch.empty(len(layers), 6, dtype=torch.float64, device=layers[0][0].device)
    plain.write([lay_flat(layer) for layer in layers], [1] * len(layers), out)
    return out


def by_numpy(layers):
    out = np.zeros((len(layers), 6))
    for row, layer in zip(out, layers, strict=True):
        arrays = [tensor.numpy() for tensor in flat(layer)]
        for begin in range(0, len(arrays[0]), CHUNK):
            part = [array[begin : begin + CHUNK] for array in arrays]
            row += [np.dot(part[i], part[j]) for i, j in PAIRS]
    return torch.from_numpy(out)


def in_threads(layers):
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        work = [
            (row, chunk) for row, layer in enumerate(layers) for chunk in chunks(layer)
        ]
        products = list(pool.map(lambda item: six(item[1]), work))
    rows = torch.tensor([row for row, _ in work])
    values = torch.stack([torch.stack(p) for p in products]).double()
    return torch.zeros(len(layers), 6, dtype=torch.float64).index_add_(0, rows, values)


def by_foreach(layers):
    ws, gs, vs = (list(tensors) for tensors in zip(*layers, strict=True))
    squares = torch._foreach_norm([*ws, *gs, *vs])
    ww, gg, vv = torch.stack(squares).square().view(3, -1)
    mixed = [
        torch.stack([x.sum() for x in torch._foreach_mul(a, b)])
        for a, b in ((ws, gs), (ws, vs), (gs, vs))
    ]
    return torch.stack([ww, mixed[0], mixed[1], gg, mixed[2], vv], 1)


def by_vecdot(layers):
    rows = []
    for layer in layers:
        n = layer[0].numel()
        parts = [t.view(-1, CHUNK if n % CHUNK == 0 else n) for t in flat(layer)]
        products = [torch.linalg.vecdot(parts[i], parts[j]).sum() for i, j in PAIRS]
        rows.append(torch.stack(products))
    return torch.stack(rows)


def by_einsum(layers):
    rows = []
    for layer in map(flat, layers):
        rows.append(
            torch.stack([torch.einsum('i,i->', layer[i], layer[j]) for i, j in PAIRS])
        )
    return torch.stack(rows)


def by_matmul(layers):
    upper = torch.triu_indices(3, 3, device=layers[0][0].device)
    rows = []
    for layer in layers:
        total = 0
        for chunk in chunks(layer):
            stacked = torch.stack(chunk)
            total = total + stacked @ stacked.T
        rows.append(total[upper[0], upper[1]])
    return torch.stack(rows)


def compiled():
    @torch.compile(dynamic=True)
    def products(w, g, v):
        return torch.stack(
            [(a * b).sum() for a, b in ((w, w), (w, g), (w, v), (g, g), (g, v), (v, v))]
        )

    return lambda layers: torch.stack([products(*flat(layer)) for layer in layers])


def by_numba():
    import numba

    @numba.njit(fastmath=True)
    def products(w, g, v, out):
        ww = wg = wv = gg = gv = vv = np.float32(0)
        for i in range(w.size):
            ww += w[i] * w[i]
            wg += w[i] * g[i]
            wv += w[i] * v[i]
            gg += g[i] * g[i]
            gv += g[i] * v[i]
            vv += v[i] * v[i]
        out[:] = ww, wg, wv, gg, gv, vv

    def way(layers):
        out = np.empty((len(layers), 6))
        for row, layer in zip(out, layers, strict=True):
            products(*(tensor.numpy() for tensor in flat(layer)), row)
        return torch.from_numpy(out)

    return way


def ours(layers):
    out = torch.empty(len(layers), 6, dtype=torch.float64, device=layers[0][0].device)
    gram(layers, out)
    return out


def ways(device: str) -> dict:
    """Name to function; those that cannot run here are left out, and named."""
    found = {
        'torch.dot, whole layers': whole_dot,
        'torch.dot, chunks (without the library)': by_plain,
        'stacked chunks, matmul': by_matmul,
        'torch.linalg.vecdot': by_vecdot,
        'einsum': by_einsum,
        '_foreach_norm and _foreach_mul': by_foreach,
    }
    if device == 'cpu':
        found['numpy.dot, chunks'] = by_numpy
        found['torch.dot, chunks in a thread pool'] = in_threads
        here = cpu.supports(torch.device('cpu'))
        name = 'gram (C library)' if here else 'gram (library not built)'
    else:
        name = 'gram (Triton)' if gpu.available() else 'gram (Triton missing)'
    found[name] = ours
    return found


def optional_ways(device: str) -> dict:
    makers = {'torch.compile': compiled}
    if device == 'cpu':
        makers['numba'] = by_numba
    return makers


def check(way, layers: Layers) -> None:
    """Raises if a way is wrong."""
    measured = way(layers).double().cpu()
    for row, layer in zip(measured, layers, strict=True):
        wide = torch.stack(flat(layer)).double().cpu()
        product = wide @ wide.T
        norms = product.diagonal().sqrt()
        for value, (i, j) in zip(row, PAIRS, strict=True):
            error = abs(value - product[i, j]) / (norms[i] * norms[j])
            if not error <= TOLERANCE:
                raise ArithmeticError(f'relative error {error:.1e}')


def measure(layers: Layers, device: str, rounds: int, compile: bool) -> str:
    """A table of all ways."""
    candidates, notes = ways(device), []
    if compile:
        for name, make in optional_ways(device).items():
            try:
                candidates[name] = make()
                candidates[name](layers)
            except Exception as fault:
                candidates.pop(name, None)
                notes.append(f'{name}: not here ({type(fault).__name__})')
    for name, way in list(candidates.items()):
        try:
            check(way, layers)
        except ArithmeticError as fault:
            notes.append(f'{name}: left out, {fault}')
            del candidates[name]
    read = plain_read(layers)
    calls = {'plain read (sum)': read} | {
        name: (lambda way=way: way(layers)) for name, way in candidates.items()
    }
    times = interleaved(calls, rounds)
    base = times['plain read (sum)']
    rows = []
    for name, values in sorted(times.items(), key=lambda item: np.median(item[1])):
        ratio = np.median(values / base)
        rows.append(
            [
                name,
                milliseconds(np.median(values)),
                milliseconds(values.min()),
                f'{ratio:.2f}',
            ]
        )
    head = ['way', 'median ms', 'least ms', 'times a plain read']
    return '\n\n'.join([table(head, rows), *notes])


def main() -> None:
    parser = arguments(__doc__, rounds=30)
    parser.add_argument(
        '--layers', choices=['resnet50', 'quickstart'], default='resnet50'
    )
    parser.add_argument('--no-compile', action='store_true')
    parser.add_argument('--dtype', default='float32')
    args = parser.parse_args()
    warnings.filterwarnings('ignore')
    torch.set_num_threads(args.threads)
    shapes = resnet50_shapes() if args.layers == 'resnet50' else quickstart_shapes()
    layers = random_layers(shapes, args.device, getattr(torch, args.dtype))
    elements = sum(layer[0].numel() for layer in layers)
    print(machine())
    print(
        f'\n{args.layers}: {len(layers)} layers, {elements / 1e6:.2f} M elements, '
        f'{args.dtype}, {args.device}, {args.threads} threads, {args.rounds} rounds\n'
    )
    with torch.no_grad():
        print(measure(layers, args.device, args.rounds, not args.no_compile))


if __name__ == '__main__':
    main()
