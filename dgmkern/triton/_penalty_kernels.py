"""Random interpolates of two batches, and penalties on the norm of each sample's gradient."""

import triton
import triton.language as tl

from ._math_adversarial import penalty_of, penalty_slope
from ._random import uniform_of
from ._tile import elements_of, kernel, load, part_of, store, store_sum, sum_columns, tile_of


@triton.jit
def _weight(alpha, seed, offset, rows, mask):
    """The weights of samples, [ROWS, 1]: given, or drawn."""
    if alpha is not None:
        return load(alpha + rows, mask)
    else:
        return uniform_of(rows + offset, tl.load(seed))


@kernel
def interpolate_kernel(
    x,
    y,
    alpha,
    seed,
    offset,
    out,
    samples,
    inner,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    rows, first = tile_of(inner, ROWS, COLS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, 1, "given", COLS)
    a = _weight(alpha, seed, offset, rows, rows < samples)
    store(out + at, a * load(x + at, mask) + (1.0 - a) * load(y + at, mask), mask)


@kernel
def interpolate_backward_kernel(
    grad,
    x,
    y,
    alpha,
    seed,
    offset,
    dx,
    dy,
    dalpha,
    samples,
    inner,
    PART: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Without alpha, dalpha is None."""
    rows, first, end = part_of(inner, PART, ROWS, WIDE)
    a = _weight(alpha, seed, offset, rows, rows < samples)
    total = tl.zeros([ROWS, 1], tl.float64)
    for column in range(first, end, COLS):
        at, mask = elements_of(rows, column, samples, inner, 1, "given", COLS)
        g = load(grad + at, mask)
        if dalpha is not None:
            total += sum_columns(g * (load(x + at, mask) - load(y + at, mask)), mask)
        store(dx + at, a * g, mask)
        store(dy + at, (1.0 - a) * g, mask)
    if dalpha is not None:
        store_sum(dalpha, total, rows, first, samples, inner, PART)


@triton.jit
def _squares(grad, rows, first, end, samples, inner, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Sums of squares of columns `first` to `end`, fp64 [ROWS, 1]: no gradient of fp32 overflows or vanishes."""
    total = tl.zeros([ROWS, 1], tl.float64)
    for column in range(first, end, COLS):
        at, mask = elements_of(rows, column, samples, inner, 1, "given", COLS)
        g = load(grad + at, mask).to(tl.float64)
        total += sum_columns(g * g, mask)
    return total


@kernel
def penalty_kernel(
    grad,
    penalty,
    samples,
    inner,
    TARGET: tl.constexpr,
    ONE_SIDED: tl.constexpr,
    PART: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Penalties [N], or sums of squares [N, parts] where a sample has more than one part."""
    rows, first, end = part_of(inner, PART, ROWS, WIDE)
    square = _squares(grad, rows, first, end, samples, inner, ROWS, COLS)
    if PART is not None:
        store_sum(penalty, square, rows, first, samples, inner, PART)
    else:
        result = penalty_of(square, TARGET, ONE_SIDED)
        tl.store(penalty + rows, result.to(penalty.dtype.element_ty), rows < samples)


@triton.jit
def _square_of_parts(squares, row, parts, BLOCK: tl.constexpr):
    part = tl.arange(0, BLOCK)
    return tl.sum(tl.load(squares + row * parts + part, part < parts, other=0.0), 0)


@kernel
def finish_penalty(squares, penalty, parts, TARGET: tl.constexpr, ONE_SIDED: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    result = penalty_of(_square_of_parts(squares, row, parts, BLOCK), TARGET, ONE_SIDED)
    tl.store(penalty + row, result.to(penalty.dtype.element_ty))


@kernel
def penalty_backward_kernel(
    grad_penalty,
    grad,
    squares,
    out,
    parts,
    samples,
    inner,
    TARGET: tl.constexpr,
    ONE_SIDED: tl.constexpr,
    PARTS: tl.constexpr,
    PART: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """`squares` [N, parts] where a sample has more than one part, PARTS being a power of 2; else it is None, and a
    program reads its samples twice."""
    rows, first, end = part_of(inner, PART, ROWS, WIDE)
    if squares is None:
        square = _squares(grad, rows, first, end, samples, inner, ROWS, COLS)
    else:
        square = tl.zeros([ROWS, 1], tl.float64) + _square_of_parts(squares, tl.max(rows), parts, PARTS)
    by_penalty = tl.load(grad_penalty + rows, rows < samples, other=0.0).to(tl.float64)
    c: tl.constexpr = tl.float64 if grad.dtype.element_ty == tl.float64 else tl.float32
    factor = (by_penalty * penalty_slope(square, TARGET, ONE_SIDED)).to(c)
    for column in range(first, end, COLS):
        at, mask = elements_of(rows, column, samples, inner, 1, "given", COLS)
        store(out + at, factor * load(grad + at, mask), mask)
