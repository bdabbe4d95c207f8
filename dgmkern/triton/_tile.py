"""Tiles of [samples, inner] on the device: which elements a program has, reading and writing them, per-sample sums."""

import inspect
import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


# integers that are no part of where elements lie next to each other: knowing that one of them is 1 or divisible by 16
# makes no better code
_ANY = (
    *("samples", "count", "k", "t_stride", "next_stride", "last_stride", "offset", "parts", "elements"),
    *("real_programs", "columns", "non_zeros", "groups", "groups_in_all", "parts_in_all"),
    *("panel", "batches"),
)


def kernel(function):
    """`triton.jit` for what is launched."""
    return triton.jit(function, do_not_specialize=[n for n in inspect.signature(function).parameters if n in _ANY])


@triton.jit
def _tile_number(inner, width, WIDE: tl.constexpr):
    """Of this program: the number of its rows, and of its columns among `width` each. There are fewer than 2^31."""
    across = tl.cdiv(inner, width)
    if WIDE:
        across = across.to(tl.int32)
    return tl.program_id(0) // across, tl.program_id(0) % across


@triton.jit
def _rows_of(number, ROWS: tl.constexpr):
    return number.to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]


@triton.jit
def tile_of(inner, ROWS: tl.constexpr, COLS: tl.constexpr, WIDE: tl.constexpr):
    """This program's samples, int64 [ROWS, 1], and the first of its COLS columns."""
    down, across = _tile_number(inner, COLS, WIDE)
    if WIDE:
        across = across.to(tl.int64)
    return _rows_of(down, ROWS), across * COLS


@triton.jit
def first_column(WIDE: tl.constexpr):
    """0, as an integer of the width of columns."""
    zero = tl.program_id(0) * 0
    if WIDE:
        zero = zero.to(tl.int64)
    return zero


@triton.jit
def part_of(inner, PART: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """This program's samples, int64 [ROWS, 1], and where its PART columns begin and end; None are all of them."""
    if PART is None:
        return _rows_of(tl.program_id(0), ROWS), first_column(WIDE), inner
    else:
        rows, first = tile_of(inner, ROWS, PART, WIDE)
        return rows, first, tl.minimum(first + PART, inner)


@triton.jit
def quotient(n, by):
    """n // by of numbers 0 <= n < 2^52; 64-bit ones without a division in a loop, which would be a call."""
    if INTERPRETED:
        q = n // by
    elif n.dtype == tl.int64:
        q = (n.to(tl.float64) * (tl.full([], 1.0, tl.float64) / by)).to(tl.int64)
        left = n - q * by
        q += tl.where(left >= by, 1, tl.where(left < 0, -1, 0))
    else:
        q = n // by
    return q


@triton.jit
def divided(first, steps, by):
    """(first + steps) // by and what is left, for a number `first` and small steps."""
    divisor = tl.full([1, 1], by, tl.int32).to(tl.uint32)
    whole = quotient(first, by)
    left = (first - whole * by + steps).to(tl.uint32)
    return whole + (left // divisor).to(tl.int32), (left % divisor).to(tl.int32)


@triton.jit
def _pixels_of(first, channels, NOISE: tl.constexpr, COLS: tl.constexpr):
    """Pixels and channels of COLS columns from `first` on, channels_last: see `elements_of`."""
    columns = tl.arange(0, COLS)[None, :]
    if NOISE == "fours_last":
        group, channel = divided(first // 4, columns // 4, channels)
        pixel = group * 4 + columns % 4
    else:
        pixel, channel = divided(first, columns, channels)
    return pixel, channel


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
        pixel, channel = _pixels_of(first, channels, NOISE, COLS)
        at = pixel * channels + channel
    return rows * inner + at, mask


@triton.jit
def at_halves(at, rows, first, inner, channels, HALVES: tl.constexpr, NOISE: tl.constexpr, COLS: tl.constexpr):
    """Where the same elements lie in the first half of a tensor of twice the channels, and the way to the second; for
    "none" of a tensor of the same channels."""
    if HALVES == "none":
        half, way = at, inner
    elif HALVES == "last":
        pixel, _ = _pixels_of(first, channels, NOISE, COLS)
        half, way = at + rows * inner + pixel * channels, channels
    else:
        half, way = at + rows * inner, inner
    return half, way


@triton.jit
def load(pointer, mask):
    """Numbers in the compute dtype: fp64 for fp64, else fp32; 0 outside the mask."""
    x = tl.load(pointer, mask, other=0)
    if x.dtype != tl.float64:
        x = x.to(tl.float32)
    return x


@triton.jit
def to_bfloat16(x):
    """fp32 rounded to nearest, ties to even."""
    if INTERPRETED:  # which truncates
        bits = x.to(tl.uint32, bitcast=True)
        rounded = ((bits >> 16) + (((bits & 0xFFFF) + ((bits >> 16) & 1) + 0x7FFF) >> 16)) << 16
        x = tl.where(x != x, x, rounded.to(tl.float32, bitcast=True))
    return x.to(tl.bfloat16)


@triton.jit
def store(pointer, x, mask):
    """Numbers rounded to nearest, ties to even, to the pointer's dtype."""
    if pointer.dtype.element_ty == tl.bfloat16:
        x = to_bfloat16(x.to(tl.float32))
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
    samples,
    inner,
    PART: tl.constexpr,
    weight=None,
    SCALE: tl.constexpr = 1.0,
    SHIFT: tl.constexpr = 0.0,
    MEAN: tl.constexpr = False,
):
    """Write sums, fp64 [ROWS, 1], to the target of a `Sum` made with the same scale, shift, mean and weight."""
    mask = rows < samples
    if PART is None:
        tl.store(target + rows, _rounded(total, target, weight, rows, mask, inner, SCALE, SHIFT, MEAN), mask)
    else:
        tl.store(target + rows * tl.cdiv(inner, PART) + first // PART, total, mask)


@kernel
def finish_sum(
    partial,
    out,
    parts,
    elements,
    weight,
    SCALE: tl.constexpr,
    SHIFT: tl.constexpr,
    MEAN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The sum of a sample of so many elements from those of its parts, fp64 [N, parts]."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, BLOCK)
    total = tl.sum(tl.load(partial + row * parts + part, part < parts, other=0.0), 0)
    tl.store(out + row, _rounded(total, out, weight, row, True, elements, SCALE, SHIFT, MEAN))
