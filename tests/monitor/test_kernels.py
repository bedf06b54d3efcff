"""Every way of taking the inner products, against float64 sums.

The Triton programs run on the GPU where there is one, else in Triton's interpreter if
Triton is installed (`pip install triton`, a gigabyte, and not needed otherwise).
"""

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from smd_mmdet.monitor.kernels import RepeatedGram, cpu, filter_gram, gpu, gram, plain
from smd_mmdet.monitor.kernels.layout import lay_flat

CPU = torch.device('cpu')
# Relative to the product of the norms.
TOLERANCE = 1e-6
PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
SIZES = (1, 2, 7, 8, 9, 63, 512, 1023, 1025, 16383, 16384, 16385, 100_003)
WAYS = ('library', 'plain', 'triton', 'plain on the GPU')

NEW_TRITON = find_spec('triton') and find_spec('triton.backends')
OLD_TRITON = 'Triton is missing, or older than 2.2'


@pytest.fixture(params=WAYS)
def way(request):
    """A function like `gram` and one like `filter_gram`, with the device."""
    gpu_there = torch.cuda.is_available()
    device = torch.device('cuda') if gpu_there else CPU
    if request.param == 'library':
        if not cpu.supports(CPU):
            pytest.skip('the C library is not built: pip install -e . builds it')
        return Way(cpu, CPU)
    if request.param == 'plain':
        return Way(plain, CPU)
    if request.param == 'triton':
        if not (gpu_there or NEW_TRITON):
            pytest.skip(f'there is no GPU, and without one {OLD_TRITON}')
        return Way(gpu, device)
    if not gpu_there:
        pytest.skip('there is no GPU')
    return Way(plain, device)


class Way:
    def __init__(self, backend, device):
        self.backend, self.device = backend, device

    def gram(self, layers):
        out = torch.full((len(layers), 7), 7.0, dtype=torch.float64, device=self.device)
        flat = [lay_flat(layer) for layer in layers]
        self.backend.write(flat, [1] * len(layers), out[:, :6])
        assert (out[:, 6] == 7).all(), 'wrote beside its columns'
        assert self.backend is not gpu or gpu.available(), 'another way was taken'
        return out[:, :6].cpu().numpy()

    def filter_gram(self, layers):
        rows = [layer[0].shape[0] for layer in layers]
        out = torch.full((sum(rows), 6), 7.0, dtype=torch.float64, device=self.device)
        flat = [lay_flat(layer, by_filter=True) for layer in layers]
        self.backend.write(flat, rows, out)
        return out.cpu().numpy()

    def layer(self, *shape, seed=0, dtypes=(torch.float32,) * 3):
        generator = torch.Generator().manual_seed(seed)
        tensors = (
            torch.randn(shape, generator=generator) * scale for scale in (1, 1e-3, 30)
        )
        return tuple(
            tensor.to(self.device, dtype)
            for tensor, dtype in zip(tensors, dtypes, strict=True)
        )


def truth(layer):
    flat = [tensor.detach().cpu().double().numpy().ravel() for tensor in layer]
    return np.array([(flat[i] * flat[j]).sum() for i, j in PAIRS])


def assert_right(measured, layers, tolerance=TOLERANCE):
    assert len(measured) == len(layers)
    for row, layer in zip(measured, layers, strict=True):
        expected = truth(layer)
        ww, _, _, gg, _, vv = expected
        norms = np.sqrt([ww, gg, vv])
        scale = np.array([norms[i] * norms[j] for i, j in PAIRS])
        error = np.abs(row - expected)
        assert (error <= tolerance * scale).all(), (
            tuple(layer[0].shape),
            error / scale,
        )


def test_sizes_from_one_element_on(way):
    layers = [way.layer(size, seed=size) for size in SIZES]
    assert_right(way.gram(layers), layers)


@pytest.mark.slow
@pytest.mark.parametrize('way', [w for w in WAYS if w != 'triton'], indirect=True)
def test_a_hundred_million_elements(way):
    check_hundred_million(way)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason='hours in the interpreter')
@pytest.mark.parametrize('way', ['triton'], indirect=True)
def test_a_hundred_million_elements_by_triton(way):
    check_hundred_million(way)


def check_hundred_million(way):
    # A mean, so that the sums grow: rounding of a running sum would show.
    w = torch.rand(10**8, generator=torch.Generator().manual_seed(0)) + 0.5
    w = w.to(way.device)
    layer = (w, w.flip(0), w)
    assert_right(way.gram([layer]), [layer])


@pytest.mark.parametrize('layout', ['channels_last', 'mixed', 'transposed', 'slice'])
def test_memory_layouts(way, layout):
    w, g, v = way.layer(6, 10, 3, 5)
    if layout == 'channels_last':
        w, g, v = (x.to(memory_format=torch.channels_last) for x in (w, g, v))
    elif layout == 'mixed':
        w, v = w.to(memory_format=torch.channels_last), v.transpose(0, 3)
        v = v.contiguous().transpose(0, 3)
    elif layout == 'transposed':
        w, g, v = (x.transpose(0, 1) for x in (w, g, v))
    else:
        w, g, v = (x[:, ::2, 1:] for x in (w, g, v))
    layers = [(w, g, v)]
    assert_right(way.gram(layers), layers)
    filters = [tuple(x[i] for x in (w, g, v)) for i in range(len(w))]
    assert_right(way.filter_gram(layers), filters)


def test_addresses_that_are_not_aligned(way):
    w, g, v = way.layer(5003)
    layers = [(w[1:], g[:-1], v[1:]), (w[3:1000], g[1:998], v[2:999])]
    assert_right(way.gram(layers), layers)


HALF, BF16, SINGLE, DOUBLE = torch.float16, torch.bfloat16, torch.float32, torch.float64


def test_mixed_dtypes(way):
    kinds = [
        *((kind,) * 3 for kind in (HALF, BF16, SINGLE, DOUBLE)),
        *((BF16, SINGLE, SINGLE), (SINGLE, HALF, DOUBLE), (HALF, BF16, SINGLE)),
    ]
    layers = [way.layer(300 + 7 * i, seed=i, dtypes=k) for i, k in enumerate(kinds)]
    measured = way.gram(layers)
    # The truth is of the rounded elements: what is half is not the sum.
    assert_right(measured, layers)
    assert_right(measured[3:4], layers[3:4], tolerance=1e-14)


def test_filters(way):
    layers = [way.layer(8, 3, 3, 3), way.layer(5, 40, seed=1), way.layer(2, 20000)]
    filters = [
        tuple(x[i] for x in layer) for layer in layers for i in range(len(layer[0]))
    ]
    assert_right(way.filter_gram(layers), filters)


def test_nothing_to_measure(way):
    assert way.gram([]).shape == (0, 6)
    assert way.filter_gram([]).shape == (0, 6)
    layers = [way.layer(0), way.layer(4), way.layer(0, 3)]
    measured = way.gram(layers)
    assert (measured[[0, 2]] == 0).all()
    assert_right(measured[1:2], layers[1:2])
    assert way.filter_gram([way.layer(0, 3), way.layer(2, 0)]).tolist() == [[0] * 6] * 2


def test_a_scalar_is_a_layer(way):
    layers = [way.layer()]
    assert_right(way.gram(layers), layers)


def test_what_is_not_finite_stays_in_its_row(way):
    layers = [way.layer(40_000, seed=i) for i in range(3)]
    layers[1][1][39_999] = torch.inf
    layers[2][0][0] = torch.nan
    measured = way.gram(layers)
    assert_right(measured[:1], layers[:1])
    assert np.isinf(measured[1, 3]) and np.isfinite(measured[1, [0, 2, 5]]).all()
    assert np.isnan(measured[2, :3]).all() and np.isfinite(measured[2, 3:]).all()


def test_the_same_bits_every_time(way):
    layers = [way.layer(size, seed=size) for size in SIZES]
    first = way.gram(layers)
    copies = [tuple(x.clone() for x in layer) for layer in layers]
    np.testing.assert_array_equal(way.gram(layers), first)
    np.testing.assert_array_equal(way.gram(copies), first)


@pytest.mark.parametrize('way', ['library'], indirect=True)
def test_the_same_bits_with_any_number_of_threads(way, monkeypatch):
    layers = [way.layer(size, seed=size) for size in (100_003, 5, 70_000)]
    results = []
    for threads in (1, 2, 3, 100):
        monkeypatch.setattr(cpu, 'ELEMENTS_PER_THREAD', 1700)
        monkeypatch.setattr(torch, 'get_num_threads', lambda n=threads: n)
        results.append(way.gram(layers))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_squared_norms():
    tensors = [torch.randn(4, 5), torch.randn(7).bfloat16(), torch.tensor(torch.nan)]
    out = torch.empty(3, 2, dtype=torch.float64)[:, 1]
    RepeatedGram().squared_norms(tensors, out)
    expected = [(x.double() ** 2).sum().item() for x in tensors]
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-6)


def test_without_the_library_torch_measures(monkeypatch):
    layers = [tuple(torch.randn(3, 4, 5).unbind()) for _ in range(2)]
    monkeypatch.setattr(cpu, '_library', lambda: None)
    out = torch.empty(2, 6, dtype=torch.float64)
    gram(layers, out)
    assert_right(out.numpy(), layers)
    by_filter = torch.empty(8, 6, dtype=torch.float64)
    filter_gram(layers, by_filter)
    filters = [tuple(x[i] for x in layer) for layer in layers for i in range(4)]
    assert_right(by_filter.numpy(), filters)


def test_a_library_that_does_not_load_is_done_without(monkeypatch, tmp_path):
    suffix = cpu.EXTENSION_SUFFIXES[0]
    (tmp_path / f'_fused{suffix}').write_bytes(b'built on another machine')
    monkeypatch.setattr(cpu, '__file__', str(tmp_path / 'cpu.py'))
    assert cpu._library.__wrapped__() is None


def test_where_triton_fails_torch_measures_and_says_so_once(monkeypatch):
    def broken(*_):
        raise RuntimeError('no compiler')

    monkeypatch.setattr(gpu, '_launch', broken)
    monkeypatch.setattr(gpu, '_fault', None)
    layers = [tuple(torch.randn(3, 50).unbind())]
    out = torch.empty(1, 6, dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match='Triton does not run here.*no compiler'):
        gpu.write(layers, [1], out)
    assert_right(out.numpy(), layers)
    assert not gpu.available()


COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from smd_mmdet.monitor.kernels import programs

def compile(program, pointers, **constants):
    signature = pointers | {name: 'constexpr' for name in constants}
    source = ASTSource(program, signature, constants)
    return triton.compile(source, target=GPUTarget('cuda', 90, 32)).asm['ptx']

tables = {'pointers': '*i64', 'chunks': '*i64', 'partial': '*fp64'}
kinds = programs.DTYPES
for dtype in (torch.float32, torch.bfloat16):
    code = compile(
        programs.chunk_products, tables, W=kinds[dtype], G=kinds[dtype],
        V=kinds[torch.float32], WIDE=kinds[torch.float32], ALIGNED=True, BLOCK=1024,
    )
    assert 'ld.global.v4' in code, 'does not read 16 bytes at a time'
    for atomic in ('atom.', 'red.global'):
        assert atomic not in code, 'the order of atomics is chance'
sums = {'partial': '*fp64', 'spans': '*i64', 'out': '*fp64', 'row_stride': 'i32'}
compile(programs.row_sums, sums, column_stride=1, BLOCK=256)
"""


@pytest.mark.skipif(not NEW_TRITON, reason=OLD_TRITON)
def test_triton_compiles_the_programs():
    """For a GPU that need not be there: vector loads, no atomics."""
    env = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    done = subprocess.run(
        [sys.executable, '-c', COMPILE], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_repeated_pass_sees_every_change():
    """Each step differs in one thing from the one before it."""
    repeated = RepeatedGram()

    def check(*layers):
        columns = list(zip(*layers, strict=True))
        out = torch.full((len(layers), 7), 7.0, dtype=torch.float64)
        for _ in range(2):  # by new tables, then by those that are kept
            repeated.write(columns, out[:, :6])
            assert_right(out[:, :6].numpy(), layers)
        assert (out[:, 6] == 7).all(), 'wrote beside its columns'

    def tensors(*shape, seed=0, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(shape, generator=generator).to(dtype) for _ in range(3)]

    (w, g, v), other = tensors(6, 4, 3, 3), tensors(600_000, seed=1)
    check((w, g, v), other)
    w.mul_(3.0)
    check((w, g, v), other)
    check((w, g.clone(), v), other)
    check((w, g, v.clone()), other)
    check((w, g, v), other)
    check((w, g.bfloat16(), v), other)
    check((w, g, v), other)
    check((w, g, v), [x[:999] for x in other])
    check((w, g, v), other)
    check((w, g, v.double()), other)
    check((w, g, v), tensors(600_000, seed=1, dtype=torch.float64))
    check((w, g, v), tensors(599_999, seed=2))
    check((w, g, v))
    # In the same memory, in another order.
    shuffled = torch.as_strided(g, g.shape, (1, 6, 24, 72))
    check((w, shuffled, v))
    w.data = torch.as_strided(w.data, w.shape, (1, 6, 24, 72))
    check((w, shuffled, v))
    check((w, g, v))
    last = [x.contiguous(memory_format=torch.channels_last) for x in (w, g, v)]
    check(last)
    assert repeated._table is not None or not cpu.supports(CPU)
    check((last[0], last[1].contiguous(), last[2]))
    check(last, other)


@pytest.mark.parametrize('way', ['triton'], indirect=True)
def test_a_repeated_pass_by_triton(way, monkeypatch):
    monkeypatch.setattr(cpu, 'supports', lambda device: False)
    monkeypatch.setattr(gpu, 'supports', lambda device: gpu.available())
    repeated = RepeatedGram()
    layers = [way.layer(5003), way.layer(70, 3, seed=1)]
    out = torch.empty(2, 6, dtype=torch.float64, device=way.device)
    for _ in range(3):
        w, g, v = (list(column) for column in zip(*layers, strict=True))
        repeated.write((w, [tensor.mul_(1.5) for tensor in g], v), out)
        assert_right(out.cpu().numpy(), layers)
    assert isinstance(repeated._table, gpu.Table)


def test_where_triton_fails_a_repeated_pass_goes_on(monkeypatch):
    monkeypatch.setattr(cpu, 'supports', lambda device: False)
    monkeypatch.setattr(gpu, 'supports', lambda device: gpu._fault is None)
    monkeypatch.setattr(gpu, '_fault', None)

    def broken(*_):
        raise RuntimeError('no compiler')

    monkeypatch.setattr(gpu._Plan, 'launch', broken)
    layers = [tuple(torch.randn(3, 50).unbind())]
    out = torch.empty(1, 6, dtype=torch.float64)
    repeated = RepeatedGram()
    with pytest.warns(RuntimeWarning, match='Triton does not run here') as caught:
        for _ in range(3):
            repeated.write(list(zip(*layers, strict=True)), out.zero_())
            assert_right(out.numpy(), layers)
    assert len(caught) == 1


class Program:
    """A program as Triton has it: what it returns is compiled, and takes ``takes``."""

    def __init__(self, takes=2):
        self.takes, self.looked_up, self.started = takes, [], []

    def __getitem__(self, grid):
        def look_up(*args):
            self.looked_up.append((grid, args))
            return {(*grid, 1, 1)[:3]: self._compiled}

        return look_up

    def _compiled(self, *args):
        if len(args) != self.takes:
            raise TypeError(f'function takes exactly {self.takes} arguments')
        self.started.append(args)


def test_a_program_is_looked_up_once_for_what_is_alike():
    program = Program()
    launcher = gpu.Launcher(program, (5,))
    for number in range(4):
        launcher.start('even', number, 2)
        launcher.start('odd', number, 3)
    assert program.looked_up == [((5,), (0, 2)), ((5,), (0, 3))]
    assert program.started == [(n, k) for n in (1, 2, 3) for k in (2, 3)]


def test_triton_looks_it_up_where_what_is_compiled_takes_other_arguments():
    program = Program(takes=3)
    launcher = gpu.Launcher(program, (5, 6))
    for number in range(4):
        launcher.start('same', number, 2)
    assert program.looked_up == [((5, 6), (n, 2)) for n in range(4)]
    assert program.started == []
