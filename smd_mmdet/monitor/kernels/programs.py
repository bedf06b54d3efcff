"""Triton programs of :mod:`.gpu`; importing this imports Triton."""
# mypy: allow-untyped-defs
# (Triton compiles the functions below, and has types of its own.)

import torch
import triton
import triton.language as tl

__all__ = ['DTYPES', 'chunk_products', 'row_sums']

DTYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}


@triton.jit
def chunk_products(
    pointers,
    chunks,
    partial,
    W: tl.constexpr,
    G: tl.constexpr,
    V: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Six inner products of one chunk.

    A program works on BLOCK lanes at a time. The terms of a lane are added in the dtype
    WIDE, and then the lanes in float64.
    """
    chunk = tl.program_id(0)
    layer = tl.load(chunks + 3 * chunk)
    begin = tl.load(chunks + 3 * chunk + 1)
    end = tl.load(chunks + 3 * chunk + 2)
    w = tl.load(pointers + 3 * layer).to(tl.pointer_type(W))
    g = tl.load(pointers + 3 * layer + 1).to(tl.pointer_type(G))
    v = tl.load(pointers + 3 * layer + 2).to(tl.pointer_type(V))
    if ALIGNED:  # lets a thread load 16 bytes at a time
        w = tl.multiple_of(w, 16)
        g = tl.multiple_of(g, 16)
        v = tl.multiple_of(v, 16)
        begin = tl.multiple_of(begin, 16)
    ww = tl.zeros([BLOCK], WIDE)
    wg = tl.zeros([BLOCK], WIDE)
    wv = tl.zeros([BLOCK], WIDE)
    gg = tl.zeros([BLOCK], WIDE)
    gv = tl.zeros([BLOCK], WIDE)
    vv = tl.zeros([BLOCK], WIDE)
    lanes = tl.arange(0, BLOCK)
    whole = begin + (end - begin) // BLOCK * BLOCK
    for first in range(begin, whole, BLOCK):
        a = tl.load(w + first + lanes).to(WIDE)
        b = tl.load(g + first + lanes).to(WIDE)
        c = tl.load(v + first + lanes).to(WIDE)
        ww += a * a
        wg += a * b
        wv += a * c
        gg += b * b
        gv += b * c
        vv += c * c
    if whole < end:
        inside = whole + lanes < end
        a = tl.load(w + whole + lanes, mask=inside, other=0).to(WIDE)
        b = tl.load(g + whole + lanes, mask=inside, other=0).to(WIDE)
        c = tl.load(v + whole + lanes, mask=inside, other=0).to(WIDE)
        ww += a * a
        wg += a * b
        wv += a * c
        gg += b * b
        gv += b * c
        vv += c * c
    out = partial + 6 * chunk
    tl.store(out, tl.sum(ww.to(tl.float64)))
    tl.store(out + 1, tl.sum(wg.to(tl.float64)))
    tl.store(out + 2, tl.sum(wv.to(tl.float64)))
    tl.store(out + 3, tl.sum(gg.to(tl.float64)))
    tl.store(out + 4, tl.sum(gv.to(tl.float64)))
    tl.store(out + 5, tl.sum(vv.to(tl.float64)))


@triton.jit
def row_sums(partial, spans, out, row_stride, column_stride, BLOCK: tl.constexpr):
    """One product of one row: the sum over the row's chunks."""
    row = tl.program_id(0)
    product = tl.program_id(1)
    begin = tl.load(spans + 2 * row)
    end = tl.load(spans + 2 * row + 1)
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float64)
    for first in range(begin, end, BLOCK):
        chunk = first + lanes
        total += tl.load(partial + 6 * chunk + product, mask=chunk < end, other=0)
    tl.store(out + row * row_stride + product * column_stride, tl.sum(total))
