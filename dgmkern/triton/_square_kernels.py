"""Squared errors of a prediction and squares, averaged over samples [N], and their gradients."""

import triton.language as tl

from ._math_bound import factor_of_mean, target_of
from ._random import eps_of
from ._schedule import level_at, steps_of
from ._tile import elements_of, kernel, load, part_of, store, store_sum, sum_columns, tile_of


@kernel
def mse_kernel(
    model_out,
    x0,
    t,
    t_stride,
    table,
    count,
    weight,
    mse,
    source,
    offset,
    samples,
    inner,
    channels,
    PREDICTION: tl.constexpr,
    NOISE: tl.constexpr,
    PART: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    C: tl.constexpr = tl.float64 if x0.dtype.element_ty == tl.float64 else tl.float32
    rows, first, end = part_of(inner, PART, ROWS, WIDE)
    signal, sigma = level_at(table, count, steps_of(t, t_stride, rows, samples))
    total = tl.zeros([ROWS, 1], tl.float64)
    for column in range(first, end, COLS):
        at, mask = elements_of(rows, column, samples, inner, channels, NOISE, COLS)
        eps = eps_of(source, offset, rows, column, at, mask, inner, channels, NOISE, ROWS, COLS).to(C)
        r = load(model_out + at, mask) - target_of(load(x0 + at, mask), eps, signal.to(C), sigma.to(C), PREDICTION)
        total += sum_columns(r * r, mask)
    store_sum(mse, total, rows, first, samples, inner, PART, weight=weight, MEAN=True)


@kernel
def mse_backward_kernel(
    grad,
    model_out,
    x0,
    t,
    t_stride,
    table,
    count,
    weight,
    dout,
    source,
    offset,
    samples,
    inner,
    channels,
    PREDICTION: tl.constexpr,
    NOISE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    C: tl.constexpr = tl.float64 if x0.dtype.element_ty == tl.float64 else tl.float32
    rows, first = tile_of(inner, ROWS, COLS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, channels, NOISE, COLS)
    signal, sigma = level_at(table, count, steps_of(t, t_stride, rows, samples))
    eps = eps_of(source, offset, rows, first, at, mask, inner, channels, NOISE, ROWS, COLS).to(C)
    r = load(model_out + at, mask) - target_of(load(x0 + at, mask), eps, signal.to(C), sigma.to(C), PREDICTION)
    factor = (2.0 * factor_of_mean(grad, weight, rows, rows < samples, inner)).to(C)
    store(dout + at, factor * r, mask)


@kernel
def square_kernel(
    x,
    out,
    samples,
    inner,
    SCALE: tl.constexpr,
    SHIFT: tl.constexpr,
    PART: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    rows, first, end = part_of(inner, PART, ROWS, WIDE)
    total = tl.zeros([ROWS, 1], tl.float64)
    for column in range(first, end, COLS):
        at, mask = elements_of(rows, column, samples, inner, 1, "given", COLS)
        value = load(x + at, mask)
        total += sum_columns(value * value, mask)
    store_sum(out, total, rows, first, samples, inner, PART, SCALE=SCALE, SHIFT=SHIFT, MEAN=True)


@kernel
def square_backward_kernel(
    grad, x, dx, samples, inner, SCALE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, WIDE: tl.constexpr
):
    rows, first = tile_of(inner, ROWS, COLS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, 1, "given", COLS)
    value = load(x + at, mask)
    factor = 2.0 * SCALE * factor_of_mean(grad, None, rows, rows < samples, inner)
    store(dx + at, factor.to(value.dtype) * value, mask)
