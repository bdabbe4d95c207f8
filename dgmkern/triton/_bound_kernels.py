"""Terms of a diffusion model's variational bound, alone and with the squared error, and their gradients."""

import triton
import triton.language as tl

from ._math_bound import BITS, bound_term, bound_term_grad, error_of_x0, factor_of_mean, kl_step, raw_x0, target_of
from ._math_likelihood import clamped
from ._random import eps_of
from ._schedule import level_at, steps_of, to_x0
from ._tile import at_halves, elements_of, kernel, load, part_of, store, store_sum, sum_columns, tile_of


@triton.jit
def _vb_element(
    model_out,
    x0,
    x_t,
    mean_x0,
    mean_x,
    by_x,
    by_out,
    at,
    at_out,
    to_second,
    mask,
    PREDICTION: tl.constexpr,
    CLIP: tl.constexpr,
    HALVES: tl.constexpr,
):
    """The model's x_0 before it is clipped; data, mean, diff and v of `bound_term`."""
    x = load(x_t + at, mask)
    data = load(x0 + at, mask)
    raw = raw_x0(x, load(model_out + at_out, mask), by_x, by_out, PREDICTION)
    predicted = raw
    if CLIP is not None:
        predicted = clamped(raw, CLIP)
    v = tl.zeros_like(x)
    if HALVES != "none":
        v = load(model_out + at_out + to_second, mask)
    return raw, data, mean_x0 * predicted + mean_x * x, mean_x0 * (data - predicted), v


@kernel
def vb_kernel(
    model_out,
    x0,
    x_t,
    t,
    t_stride,
    table,
    count,
    vb,
    samples,
    inner,
    channels,
    PREDICTION: tl.constexpr,
    VARIANCE: tl.constexpr,
    CLIP: tl.constexpr,
    HALVES: tl.constexpr,
    PART: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    C: tl.constexpr = tl.float64 if x0.dtype.element_ty == tl.float64 else tl.float32
    rows, first, end = part_of(inner, PART, ROWS, WIDE)
    step = steps_of(t, t_stride, rows, samples)
    mean_x0, mean_x, precision, logvar, logvar_by, gap = kl_step(table, count, step, VARIANCE, C)
    signal, sigma = level_at(table, count, step)
    by_x, by_out = to_x0(signal, sigma, PREDICTION)
    mean_x0, by_x, by_out = mean_x0.to(C), by_x.to(C), by_out.to(C)
    total = tl.zeros([ROWS, 1], tl.float64)
    for column in range(first, end, COLS):
        at, mask = elements_of(rows, column, samples, inner, channels, "given", COLS)
        at_out, to_second = at_halves(at, rows, column, inner, channels, HALVES, "given", COLS)
        where = (at, at_out, to_second, mask)
        _, data, mean, diff, v = _vb_element(
            model_out, x0, x_t, mean_x0, mean_x, by_x, by_out, *where, PREDICTION, CLIP, HALVES
        )
        nats = bound_term(step, data, mean, diff, v, precision, logvar, logvar_by, gap)
        total += sum_columns(nats, mask)
    store_sum(vb, total, rows, first, samples, inner, PART, SCALE=BITS, MEAN=True)


@kernel
def vb_backward_kernel(
    grad,
    model_out,
    x0,
    x_t,
    t,
    t_stride,
    table,
    count,
    dout,
    samples,
    inner,
    channels,
    PREDICTION: tl.constexpr,
    VARIANCE: tl.constexpr,
    CLIP: tl.constexpr,
    HALVES: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    C: tl.constexpr = tl.float64 if x0.dtype.element_ty == tl.float64 else tl.float32
    rows, first = tile_of(inner, ROWS, COLS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, channels, "given", COLS)
    at_out, to_second = at_halves(at, rows, first, inner, channels, HALVES, "given", COLS)
    step = steps_of(t, t_stride, rows, samples)
    mean_x0, mean_x, precision, logvar, logvar_by, gap = kl_step(table, count, step, VARIANCE, C)
    signal, sigma = level_at(table, count, step)
    by_x, by_out = to_x0(signal, sigma, PREDICTION)
    mean_x0, by_x, by_out = mean_x0.to(C), by_x.to(C), by_out.to(C)
    g = (factor_of_mean(grad, None, rows, rows < samples, inner) * BITS).to(C)
    where = (at, at_out, to_second, mask)
    raw, data, mean, diff, v = _vb_element(
        model_out, x0, x_t, mean_x0, mean_x, by_x, by_out, *where, PREDICTION, CLIP, HALVES
    )
    dmean, dlogvar = bound_term_grad(step, data, mean, diff, v, precision, logvar, logvar_by, gap)
    by_prediction = -g * (mean_x0 * by_out) * dmean
    if CLIP is not None:
        by_prediction = tl.where((raw > CLIP) | (raw < -CLIP), 0.0, by_prediction)
    store(dout + at_out, by_prediction, mask)
    if HALVES != "none":
        store(dout + at_out + to_second, g * logvar_by * dlogvar, mask)


@kernel
def hybrid_kernel(
    model_out,
    x0,
    t,
    t_stride,
    table,
    count,
    weight,
    mse,
    vb,
    source,
    offset,
    samples,
    inner,
    channels,
    PREDICTION: tl.constexpr,
    VARIANCE: tl.constexpr,
    HALVES: tl.constexpr,
    NOISE: tl.constexpr,
    PART: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """x_t and the predicted x_0 are never formed: the error of x_0 is that of the prediction times a number."""
    C: tl.constexpr = tl.float64 if x0.dtype.element_ty == tl.float64 else tl.float32
    rows, first, end = part_of(inner, PART, ROWS, WIDE)
    step = steps_of(t, t_stride, rows, samples)
    mean_x0, _, precision, logvar, logvar_by, gap = kl_step(table, count, step, VARIANCE, C)
    signal, sigma = level_at(table, count, step)
    error = error_of_x0(signal, sigma, PREDICTION)
    by_r = (mean_x0 * error).to(C)
    squares = tl.zeros([ROWS, 1], tl.float64)
    bits = tl.zeros([ROWS, 1], tl.float64)
    for column in range(first, end, COLS):
        at, mask = elements_of(rows, column, samples, inner, channels, NOISE, COLS)
        at_out, to_second = at_halves(at, rows, column, inner, channels, HALVES, NOISE, COLS)
        eps = eps_of(source, offset, rows, column, at, mask, inner, channels, NOISE, ROWS, COLS).to(C)
        data = load(x0 + at, mask)
        r = load(model_out + at_out, mask) - target_of(data, eps, signal.to(C), sigma.to(C), PREDICTION)
        v = load(model_out + at_out + to_second, mask)
        mean = mean_x0.to(C) * (data - error.to(C) * r)
        nats = bound_term(step, data, mean, by_r * r, v, precision, logvar, logvar_by, gap)
        squares += sum_columns(r * r, mask)
        bits += sum_columns(nats, mask)
    store_sum(mse, squares, rows, first, samples, inner, PART, weight=weight, MEAN=True)
    store_sum(vb, bits, rows, first, samples, inner, PART, SCALE=BITS, MEAN=True)


@kernel
def hybrid_backward_kernel(
    grad_mse,
    grad_vb,
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
    VARIANCE: tl.constexpr,
    FROZEN_MEAN: tl.constexpr,
    HALVES: tl.constexpr,
    NOISE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    C: tl.constexpr = tl.float64 if x0.dtype.element_ty == tl.float64 else tl.float32
    rows, first = tile_of(inner, ROWS, COLS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, channels, NOISE, COLS)
    at_out, to_second = at_halves(at, rows, first, inner, channels, HALVES, NOISE, COLS)
    step = steps_of(t, t_stride, rows, samples)
    mean_x0, _, precision, logvar, logvar_by, gap = kl_step(table, count, step, VARIANCE, C)
    signal, sigma = level_at(table, count, step)
    error = error_of_x0(signal, sigma, PREDICTION)
    by_r = (mean_x0 * error).to(C)
    g_mse = (2.0 * factor_of_mean(grad_mse, weight, rows, rows < samples, inner)).to(C)
    g = (factor_of_mean(grad_vb, None, rows, rows < samples, inner) * BITS).to(C)
    eps = eps_of(source, offset, rows, first, at, mask, inner, channels, NOISE, ROWS, COLS).to(C)
    data = load(x0 + at, mask)
    r = load(model_out + at_out, mask) - target_of(data, eps, signal.to(C), sigma.to(C), PREDICTION)
    v = load(model_out + at_out + to_second, mask)
    mean = mean_x0.to(C) * (data - error.to(C) * r)
    dmean, dlogvar = bound_term_grad(step, data, mean, by_r * r, v, precision, logvar, logvar_by, gap)
    by_prediction = g_mse * r
    if not FROZEN_MEAN:
        by_prediction += g * by_r * dmean
    store(dout + at_out, by_prediction, mask)
    store(dout + at_out + to_second, g * logvar_by * dlogvar, mask)
