"""The quantile of |x_0| of each sample, without a sort: without their sign, floating-point numbers order as their bits
do, infinities and NaNs last (csrc/cpu/select.h)."""

import triton
import triton.language as tl

from ._reverse_step import raw_x0
from ._schedule import level_at, steps_of, to_x0
from ._tile import at_halves, elements_of, first_column, kernel, load

SHORT = 16384  # elements of a sample that stay in registers while its quantile is searched


@triton.jit
def _magnitudes(
    model_out,
    x_t,
    by_x,
    by_out,
    rows,
    first,
    samples,
    inner,
    channels,
    HALVES: tl.constexpr,
    COLS: tl.constexpr,
):
    """|x_0| of a tile as integers, -1 where there is no element."""
    at, mask = elements_of(rows, first, samples, inner, channels, "none", COLS)
    at_out, _ = at_halves(at, rows, first, inner, channels, HALVES, "none", COLS)
    x = load(x_t + at, mask)
    raw = raw_x0(by_x.to(x.dtype), by_out.to(x.dtype), x, load(model_out + at_out, mask))
    if x.dtype == tl.float64:
        bits = raw.to(tl.int64, bitcast=True) & 0x7FFFFFFFFFFFFFFF
    else:
        bits = raw.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return tl.where(mask, bits, -1)


@triton.jit
def _count(bits, bound):
    """How many elements of each row are at most `bound` [ROWS, 1]."""
    return tl.sum(((bits >= 0) & (bits <= bound)).to(tl.int32), 1, keep_dims=True).to(tl.int64)


@triton.jit
def _next(bits, bound, top):
    """The smallest of each row above `bound`, `top` where there is none."""
    return tl.min(tl.where(bits > bound, bits, top), 1, keep_dims=True)


@kernel
def quantile_kernel(
    model_out,
    x_t,
    t,
    t_stride,
    table,
    count,
    out,
    samples,
    inner,
    channels,
    PREDICTION: tl.constexpr,
    QUANTILE: tl.constexpr,
    HALVES: tl.constexpr,
    IS_SHORT: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Bisection over the bits for the number of the lower rank, then the next one, and linear interpolation, as
    torch.quantile; NaN where there is one. A long sample is read again for each bit."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    signal, sigma = level_at(table, count, steps_of(t, t_stride, rows, samples))
    by_x, by_out = to_x0(signal, sigma, PREDICTION)
    zero = first_column(WIDE)
    bits = _magnitudes(model_out, x_t, by_x, by_out, rows, zero, samples, inner, channels, HALVES, COLS)
    if bits.dtype == tl.int64:
        C: tl.constexpr = tl.float64
        BITS: tl.constexpr = 63
        INFINITY: tl.constexpr = 0x7FF0000000000000
        TOP: tl.constexpr = 0x7FFFFFFFFFFFFFFF
    else:
        C: tl.constexpr = tl.float32
        BITS: tl.constexpr = 31
        INFINITY: tl.constexpr = 0x7F800000
        TOP: tl.constexpr = 0x7FFFFFFF
    position = (inner + tl.zeros([ROWS, 1], tl.float64) - 1) * QUANTILE
    rank = position.to(tl.int64)
    fraction = position - rank.to(tl.float64)
    low = tl.zeros([ROWS, 1], bits.dtype)
    infinity = low + INFINITY
    top = low + TOP
    high = top
    for _ in range(BITS):
        middle = low + (high - low) // 2
        below = tl.zeros([ROWS, 1], tl.int64)
        if IS_SHORT:
            below += _count(bits, middle)
        else:
            for first in range(zero, inner, COLS):
                some = _magnitudes(model_out, x_t, by_x, by_out, rows, first, samples, inner, channels, HALVES, COLS)
                below += _count(some, middle)
        enough = below > rank
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, tl.minimum(middle + 1, high))
    upto = tl.zeros([ROWS, 1], tl.int64)
    numbers = tl.zeros([ROWS, 1], tl.int64)
    following = top
    if IS_SHORT:
        upto += _count(bits, low)
        numbers += _count(bits, infinity)
        following = _next(bits, low, top)
    else:
        for first in range(zero, inner, COLS):
            some = _magnitudes(model_out, x_t, by_x, by_out, rows, first, samples, inner, channels, HALVES, COLS)
            upto += _count(some, low)
            numbers += _count(some, infinity)
            following = tl.minimum(following, _next(some, low, top))
    a = low.to(C, bitcast=True).to(tl.float64)
    b = following.to(C, bitcast=True).to(tl.float64)
    between = (upto <= rank + 1) & (fraction > 0) & (following != top)
    value = tl.where(between, a + fraction * (b - a), a)
    value = tl.where(numbers < inner, float("nan"), value)
    tl.store(out + rows, tl.where(value < 1.0, 1.0, value), rows < samples)
