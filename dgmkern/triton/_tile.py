"""Tiles of [samples, inner] on the device: which elements a program has, reading and writing them, per-sample sums."""

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def tile_of(inner, width, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """This program's samples, int64 [ROWS, 1], and the first of its `width` columns."""
    program = tl.program_id(0).to(tl.int64)
    across = tl.cdiv(inner, width)
    rows = (program // across) * ROWS + tl.arange(0, ROWS)[:, None]
    first = (program % across) * width
    if not WIDE:
        first = first.to(tl.int32)
    return rows, first


@triton.jit
def elements_of(rows, first, samples, inner, channels, NOISE: tl.constexpr, COLS: tl.constexpr):
    """Where COLS columns from `first` on lie: offsets from the first element of all, int64 [ROWS, COLS], and whether
    there is such an element.

    Columns go in memory order but for NOISE = "fours_last": there in groups of four pixels of one channel, whose noise
    has one counter.
    """
    columns = first + tl.arange(0, COLS)[None, :]
    mask = (rows < samples) & (columns < inner)
    at = columns
    if NOISE == "fours_last":
        group = columns // 4
        at = (group // channels * 4 + columns % 4) * channels + group % channels
    return rows * inner + at, mask


@triton.jit
def at_halves(at, rows, inner, channels, HALVES: tl.constexpr):
    """Where the same elements lie in the first half of a tensor of twice the channels, and the way to the second; for
    "none" of a tensor of the same channels."""
    if HALVES == "none":
        first, way = at, inner
    elif HALVES == "last":
        first, way = at // channels * (2 * channels) + at % channels, channels
    else:
        first, way = at + rows * inner, inner
    return first, way


@triton.jit
def load(pointer, mask):
    """Numbers in the compute dtype: fp64 for fp64, else fp32; 0 outside the mask."""
    x = tl.load(pointer, mask, other=0)
    if x.dtype != tl.float64:
        x = x.to(tl.float32)
    return x


@triton.jit
def store(pointer, x, mask):
    """Numbers rounded to nearest, ties to even, to the pointer's dtype."""
    if INTERPRETED and pointer.dtype.element_ty == tl.bfloat16:  # the interpreter truncates
        bits = x.to(tl.float32).to(tl.uint32, bitcast=True)
        rounded = ((bits >> 16) + (((bits & 0xFFFF) + ((bits >> 16) & 1) + 0x7FFF) >> 16)) << 16
        x = tl.where(x != x, x, rounded.to(tl.float32, bitcast=True))
    tl.store(pointer, x.to(pointer.dtype.element_ty), mask)


@triton.jit
def sum_columns(x, mask):
    """The sums of the rows of a tile, fp64 [ROWS, 1]."""
    return tl.sum(tl.where(mask, x, 0.0), 1, keep_dims=True).to(tl.float64)


@triton.jit
def _rounded(total, out, weight, rows, mask, inner, SCALE: tl.constexpr, SHIFT: tl.constexpr, MEAN: tl.constexpr):
    if MEAN:
        total = total / inner
    c = out.dtype.element_ty
    result = (total * SCALE + SHIFT).to(c)
    if weight is not None:
        result = result * tl.load(weight + rows, mask, other=0).to(c)
    return result


@triton.jit
def store_sum(
    target,
    total,
    rows,
    first,
    part,
    samples,
    inner,
    IN_PARTS: tl.constexpr,
    weight=None,
    SCALE: tl.constexpr = 1.0,
    SHIFT: tl.constexpr = 0.0,
    MEAN: tl.constexpr = False,
):
    """Write sums, fp64 [ROWS, 1], to the target of a `Sum` made with the same scale, shift, mean and weight."""
    mask = rows < samples
    if IN_PARTS:
        tl.store(target + rows * tl.cdiv(inner, part) + first // part, total, mask)
    else:
        tl.store(target + rows, _rounded(total, target, weight, rows, mask, inner, SCALE, SHIFT, MEAN), mask)


@triton.jit
def finish_sum(
    partial,
    out,
    parts,
    inner,
    weight,
    SCALE: tl.constexpr,
    SHIFT: tl.constexpr,
    MEAN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The sum of a sample from those of its parts, fp64 [N, parts]."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, BLOCK)
    total = tl.sum(tl.load(partial + row * parts + part, part < parts, other=0.0), 0)
    tl.store(out + row, _rounded(total, out, weight, row, True, inner, SCALE, SHIFT, MEAN))
