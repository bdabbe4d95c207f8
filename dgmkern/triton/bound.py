"""Training losses of diffusion models, per sample [N]: squared error, the variational bound, both at once, and the
prior's term. Formulas: csrc/math/bound.h and diffusion.h.

`table` is fp64 [2, T] for `diffusion_mse`, else [7, T]; t int64 [N]; weight fp64 [N].
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import INTERPRETED, TILE, Operands
from ._math import exp_minus_1, exp_minus_1_minus_x, exp_of
from ._math_likelihood import clamped, discretized_gaussian_grad, discretized_gaussian_nll
from ._random import eps_of
from ._schedule import (
    LOGVAR_SMALL,
    MEAN_X,
    MEAN_X0,
    SIGMA,
    SIGNAL,
    at_step,
    log_variance,
    steps_of,
    to_x0,
)
from ._tile import at_halves, elements_of, load, store, store_sum, sum_columns, tile_of

_BITS = tl.constexpr(1 / math.log(2))


@triton.jit
def _target(x0, eps, signal, sigma, PREDICTION: tl.constexpr):
    """What the model is to predict; NaN where the step is none."""
    if PREDICTION == "eps":
        return eps + signal * 0.0
    elif PREDICTION == "v":
        return signal * eps - sigma * x0
    else:
        return x0 + signal * 0.0


@triton.jit
def _error_of_x0(signal, sigma, PREDICTION: tl.constexpr):
    """x_0 less the predicted x_0 is this times (out - target)."""
    if PREDICTION == "eps":
        return sigma / signal
    elif PREDICTION == "v":
        return sigma
    else:
        return signal * 0.0 - 1.0


@triton.jit
def _kl_step(table, count, step, VARIANCE: tl.constexpr):
    """Of samples' steps: the posterior's coefficients of x_0 and x_t and its precision; the model's log-variance, first
    + second v; the posterior's log-variance less the first. fp64."""
    small = at_step(table, LOGVAR_SMALL, count, step)
    logvar, logvar_by = log_variance(table, count, step, VARIANCE)
    mean_x0 = at_step(table, MEAN_X0, count, step)
    return mean_x0, at_step(table, MEAN_X, count, step), tl.exp(-small), logvar, logvar_by, small - logvar


@triton.jit
def _kl(diff, d, precision):
    """KL(q || p) of Gaussians whose means differ by diff; d = log var_q - log var_p, precision = 1 / var_q."""
    exp_d = exp_of(d)
    return 0.5 * (diff * diff * (precision * exp_d) + exp_minus_1_minus_x(d, exp_d))


@triton.jit
def _kl_grad(diff, d, precision):
    """Its derivatives by diff and log var_p."""
    exp_d = exp_of(d)
    ddiff = diff * (precision * exp_d)
    return ddiff, -0.5 * (diff * ddiff + exp_minus_1(d, exp_d))


@triton.jit
def _mse_kernel(
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
    pixels,
    part,
    PREDICTION: tl.constexpr,
    NOISE: tl.constexpr,
    IN_PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    C: tl.constexpr = tl.float64 if x0.dtype.element_ty == tl.float64 else tl.float32
    rows, first = tile_of(inner, part, ROWS, WIDE)
    step = steps_of(t, t_stride, rows, samples)
    signal = at_step(table, SIGNAL, count, step).to(C)
    sigma = at_step(table, SIGMA, count, step).to(C)
    total = tl.zeros([ROWS, 1], tl.float64)
    for column in range(first, tl.minimum(first + part, inner), COLS):
        at, mask = elements_of(rows, column, samples, inner, channels, NOISE, COLS)
        eps = eps_of(source, offset, rows, column, at, mask, inner, channels, pixels, NOISE, ROWS, COLS).to(C)
        r = load(model_out + at, mask) - _target(load(x0 + at, mask), eps, signal, sigma, PREDICTION)
        total += sum_columns(r * r, mask)
    store_sum(mse, total, rows, first, part, samples, inner, IN_PARTS, weight=weight, MEAN=True)


@triton.jit
def _factor(grad, weight, rows, mask, inner):
    """The gradient by each element's term of a mean over a sample, fp64 [ROWS, 1]."""
    factor = tl.load(grad + rows, mask, other=0.0).to(tl.float64) / inner
    if weight is not None:
        factor *= tl.load(weight + rows, mask, other=0.0)
    return factor


@triton.jit
def _mse_backward_kernel(
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
    pixels,
    PREDICTION: tl.constexpr,
    NOISE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    C: tl.constexpr = tl.float64 if x0.dtype.element_ty == tl.float64 else tl.float32
    rows, first = tile_of(inner, COLS, ROWS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, channels, NOISE, COLS)
    step = steps_of(t, t_stride, rows, samples)
    signal = at_step(table, SIGNAL, count, step).to(C)
    sigma = at_step(table, SIGMA, count, step).to(C)
    eps = eps_of(source, offset, rows, first, at, mask, inner, channels, pixels, NOISE, ROWS, COLS).to(C)
    r = load(model_out + at, mask) - _target(load(x0 + at, mask), eps, signal, sigma, PREDICTION)
    factor = (2.0 * _factor(grad, weight, rows, rows < samples, inner)).to(C)
    store(dout + at, factor * r, mask)


@triton.jit
def _vb_kernel(
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
    part,
    PREDICTION: tl.constexpr,
    VARIANCE: tl.constexpr,
    CLIP: tl.constexpr,
    HALVES: tl.constexpr,
    IN_PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    C: tl.constexpr = tl.float64 if x0.dtype.element_ty == tl.float64 else tl.float32
    rows, first = tile_of(inner, part, ROWS, WIDE)
    step = steps_of(t, t_stride, rows, samples)
    mean_x0, mean_x, precision, logvar, logvar_by, gap = _kl_step(table, count, step, VARIANCE)
    by_x, by_out = to_x0(at_step(table, SIGNAL, count, step), at_step(table, SIGMA, count, step), PREDICTION)
    total = tl.zeros([ROWS, 1], tl.float64)
    for column in range(first, tl.minimum(first + part, inner), COLS):
        at, mask = elements_of(rows, column, samples, inner, channels, "given", COLS)
        at_out = at
        if HALVES != "none":
            at_out, to_second = at_halves(at, rows, inner, channels, HALVES)
        x = load(x_t + at, mask)
        data = load(x0 + at, mask)
        predicted = _raw_x0(x, load(model_out + at_out, mask), by_x.to(C), by_out.to(C), PREDICTION)
        if CLIP is not None:
            predicted = clamped(predicted, CLIP)
        v = tl.zeros_like(x)
        d = gap.to(C) + v
        if HALVES != "none":
            v = load(model_out + at_out + to_second, mask)
            d = gap.to(C) - logvar_by.to(C) * v
        nats = _kl(mean_x0.to(C) * (data - predicted), d, precision.to(C))
        if tl.max(tl.where(step == 0, 1, 0)) > 0:  # few samples: the likelihood costs more than all the rest
            mean = mean_x0.to(C) * predicted + mean_x.to(C) * x
            nll = discretized_gaussian_nll(data, mean, 0.5 * (logvar.to(C) + logvar_by.to(C) * v))
            nats = tl.where(step == 0, nll, nats)
        total += sum_columns(nats, mask)
    store_sum(vb, total, rows, first, part, samples, inner, IN_PARTS, SCALE=_BITS, MEAN=True)


@triton.jit
def _raw_x0(x, out, by_x, by_out, PREDICTION: tl.constexpr):
    """The x_0 that the model's output means; an infinite x plays no part where that is x_0 itself."""
    if PREDICTION == "x0":
        return by_x + by_out * out  # 0 + 1 out; NaN where the step is none
    else:
        return by_x * x + by_out * out


@triton.jit
def _vb_backward_kernel(
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
    rows, first = tile_of(inner, COLS, ROWS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, channels, "given", COLS)
    at_out = at
    if HALVES != "none":
        at_out, to_second = at_halves(at, rows, inner, channels, HALVES)
    step = steps_of(t, t_stride, rows, samples)
    mean_x0, mean_x, precision, logvar, logvar_by, gap = _kl_step(table, count, step, VARIANCE)
    by_x, by_out = to_x0(at_step(table, SIGNAL, count, step), at_step(table, SIGMA, count, step), PREDICTION)
    g = (_factor(grad, None, rows, rows < samples, inner) * _BITS).to(C)
    x = load(x_t + at, mask)
    data = load(x0 + at, mask)
    raw = _raw_x0(x, load(model_out + at_out, mask), by_x.to(C), by_out.to(C), PREDICTION)
    predicted = raw
    if CLIP is not None:
        predicted = clamped(raw, CLIP)
    v = tl.zeros_like(x)
    d = gap.to(C) + v
    if HALVES != "none":
        v = load(model_out + at_out + to_second, mask)
        d = gap.to(C) - logvar_by.to(C) * v
    # by minus the mean, and by the log-variance
    dmean, dlogvar = _kl_grad(mean_x0.to(C) * (data - predicted), d, precision.to(C))
    if tl.max(tl.where(step == 0, 1, 0)) > 0:
        mean = mean_x0.to(C) * predicted + mean_x.to(C) * x
        by_mean, by_log_scale = discretized_gaussian_grad(data, mean, 0.5 * (logvar.to(C) + logvar_by.to(C) * v))
        dmean = tl.where(step == 0, -by_mean, dmean)
        dlogvar = tl.where(step == 0, 0.5 * by_log_scale, dlogvar)
    by_prediction = -g * (mean_x0.to(C) * by_out.to(C)) * dmean
    if CLIP is not None:
        by_prediction = tl.where((raw > CLIP) | (raw < -CLIP), 0.0, by_prediction)
    store(dout + at_out, by_prediction, mask)
    if HALVES != "none":
        store(dout + at_out + to_second, g * logvar_by.to(C) * dlogvar, mask)


@triton.jit
def _hybrid_kernel(
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
    pixels,
    part,
    PREDICTION: tl.constexpr,
    VARIANCE: tl.constexpr,
    HALVES: tl.constexpr,
    NOISE: tl.constexpr,
    IN_PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """x_t and the predicted x_0 are never formed: the error of x_0 is that of the prediction times a number."""
    C: tl.constexpr = tl.float64 if x0.dtype.element_ty == tl.float64 else tl.float32
    rows, first = tile_of(inner, part, ROWS, WIDE)
    step = steps_of(t, t_stride, rows, samples)
    mean_x0, _, precision, logvar, logvar_by, gap = _kl_step(table, count, step, VARIANCE)
    signal = at_step(table, SIGNAL, count, step)
    sigma = at_step(table, SIGMA, count, step)
    error = _error_of_x0(signal, sigma, PREDICTION)
    squares = tl.zeros([ROWS, 1], tl.float64)
    bits = tl.zeros([ROWS, 1], tl.float64)
    for column in range(first, tl.minimum(first + part, inner), COLS):
        at, mask = elements_of(rows, column, samples, inner, channels, NOISE, COLS)
        at_out, to_second = at_halves(at, rows, inner, channels, HALVES)
        eps = eps_of(source, offset, rows, column, at, mask, inner, channels, pixels, NOISE, ROWS, COLS).to(C)
        data = load(x0 + at, mask)
        r = load(model_out + at_out, mask) - _target(data, eps, signal.to(C), sigma.to(C), PREDICTION)
        v = load(model_out + at_out + to_second, mask)
        nats = _kl((mean_x0 * error).to(C) * r, gap.to(C) - logvar_by.to(C) * v, precision.to(C))
        if tl.max(tl.where(step == 0, 1, 0)) > 0:  # as in _vb_kernel
            mean = mean_x0.to(C) * (data - error.to(C) * r)
            nll = discretized_gaussian_nll(data, mean, 0.5 * (logvar.to(C) + logvar_by.to(C) * v))
            nats = tl.where(step == 0, nll, nats)
        squares += sum_columns(r * r, mask)
        bits += sum_columns(nats, mask)
    store_sum(mse, squares, rows, first, part, samples, inner, IN_PARTS, weight=weight, MEAN=True)
    store_sum(vb, bits, rows, first, part, samples, inner, IN_PARTS, SCALE=_BITS, MEAN=True)


@triton.jit
def _hybrid_backward_kernel(
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
    pixels,
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
    rows, first = tile_of(inner, COLS, ROWS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, channels, NOISE, COLS)
    at_out, to_second = at_halves(at, rows, inner, channels, HALVES)
    step = steps_of(t, t_stride, rows, samples)
    mean_x0, _, precision, logvar, logvar_by, gap = _kl_step(table, count, step, VARIANCE)
    signal = at_step(table, SIGNAL, count, step)
    sigma = at_step(table, SIGMA, count, step)
    error = _error_of_x0(signal, sigma, PREDICTION)
    by_r = (mean_x0 * error).to(C)
    g_mse = (2.0 * _factor(grad_mse, weight, rows, rows < samples, inner)).to(C)
    g = (_factor(grad_vb, None, rows, rows < samples, inner) * _BITS).to(C)
    eps = eps_of(source, offset, rows, first, at, mask, inner, channels, pixels, NOISE, ROWS, COLS).to(C)
    data = load(x0 + at, mask)
    r = load(model_out + at_out, mask) - _target(data, eps, signal.to(C), sigma.to(C), PREDICTION)
    v = load(model_out + at_out + to_second, mask)
    dmean, dlogvar = _kl_grad(by_r * r, gap.to(C) - logvar_by.to(C) * v, precision.to(C))
    if tl.max(tl.where(step == 0, 1, 0)) > 0:
        by_mean, by_log_scale = discretized_gaussian_grad(
            data, mean_x0.to(C) * (data - error.to(C) * r), 0.5 * (logvar.to(C) + logvar_by.to(C) * v)
        )
        dmean = tl.where(step == 0, -by_mean, dmean)
        dlogvar = tl.where(step == 0, 0.5 * by_log_scale, dlogvar)
    by_prediction = g_mse * r
    if not FROZEN_MEAN:
        by_prediction += g * by_r * dmean
    store(dout + at_out, by_prediction, mask)
    store(dout + at_out + to_second, g * logvar_by.to(C) * dlogvar, mask)


@triton.jit
def _square_kernel(
    x,
    out,
    samples,
    inner,
    part,
    SCALE: tl.constexpr,
    SHIFT: tl.constexpr,
    IN_PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    rows, first = tile_of(inner, part, ROWS, WIDE)
    total = tl.zeros([ROWS, 1], tl.float64)
    for column in range(first, tl.minimum(first + part, inner), COLS):
        at, mask = elements_of(rows, column, samples, inner, 1, "given", COLS)
        value = load(x + at, mask)
        total += sum_columns(value * value, mask)
    store_sum(out, total, rows, first, part, samples, inner, IN_PARTS, SCALE=SCALE, SHIFT=SHIFT, MEAN=True)


@triton.jit
def _square_backward_kernel(
    grad, x, dx, samples, inner, SCALE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, WIDE: tl.constexpr
):
    rows, first = tile_of(inner, COLS, ROWS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, 1, "given", COLS)
    value = load(x + at, mask)
    factor = 2.0 * SCALE * _factor(grad, None, rows, rows < samples, inner)
    store(dx + at, factor.to(value.dtype) * value, mask)


def _weights(weight: Tensor | None, tensors: Operands) -> Tensor | None:
    return tensors.per_sample(weight, "weight", torch.float64)


def _output(model_out: Tensor, tensors: Operands, variance: str) -> Tensor:
    """What a model gives, dense: with twice the channels where it gives a variance too."""
    learned = variance.startswith("learned")
    return tensors.doubled(model_out) if learned else tensors.dense(model_out, "model_out")


def _tile(x0: Tensor) -> int:
    """Elements of a tile: the many fp64 numbers of a discretized Gaussian's bin are to stay in registers."""
    return min(TILE, 256) if x0.dtype is torch.float64 and not INTERPRETED else TILE


def _halves(tensors: Operands, variance: str) -> str:
    return tensors.halves() if variance.startswith("learned") else "none"


def _learned(tensors: Operands, variance: str) -> str:
    if variance not in ("learned", "learned_range"):
        raise ValueError(f"variance: expected learned or learned_range, got {variance!r}")
    return tensors.halves()


def _gradient(model_out: Tensor, tensors: Operands) -> Tensor:
    return torch.empty_like(model_out, memory_format=tensors.layout)


def diffusion_mse(
    model_out: Tensor,
    x0: Tensor,
    t: Tensor,
    table: Tensor,
    weight: Tensor | None,
    noise: Tensor | None,
    seed: Tensor | None,
    offset: int,
    prediction: str,
) -> Tensor:
    """weight_n mean (model_out - target)^2. [N]"""
    tensors = Operands(x0, sums=True)
    weight = _weights(weight, tensors)
    mse, drawn = tensors.sum(mean=True, weight=weight), tensors.noise(noise, seed, offset)
    args = (
        tensors.dense(model_out, "model_out"),
        tensors.dense(x0),
        *tensors.scheduled(t, table, 2),
        weight,
        mse.target,
    )
    tensors.run(_mse_kernel, *args, **drawn, PREDICTION=prediction)
    return tensors.finished(mse)


def diffusion_mse_backward(
    grad: Tensor,
    model_out: Tensor,
    x0: Tensor,
    t: Tensor,
    table: Tensor,
    weight: Tensor | None,
    noise: Tensor | None,
    seed: Tensor | None,
    offset: int,
    prediction: str,
) -> Tensor:
    """2 grad_n weight_n (model_out - target) / D."""
    tensors = Operands(x0)
    dout, drawn = tensors.out(), tensors.noise(noise, seed, offset)
    args = (
        tensors.dense(model_out, "model_out"),
        tensors.dense(x0),
        *tensors.scheduled(t, table, 2),
        _weights(weight, tensors),
        dout,
    )
    tensors.run(_mse_backward_kernel, tensors.per_sample(grad), *args, **drawn, PREDICTION=prediction)
    return dout


def vb_terms(
    model_out: Tensor,
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    table: Tensor,
    prediction: str,
    variance: str,
    clip: float | None,
) -> Tensor:
    """The bound's term at t (Ho et al. 2020, eq. 5), bits/dim. [N]"""
    tensors = Operands(x0, sums=True)
    vb = tensors.sum(scale=_BITS.value, mean=True)
    args = (
        _output(model_out, tensors, variance),
        tensors.dense(x0),
        tensors.dense(x_t, "x_t"),
        *tensors.scheduled(t, table),
        vb.target,
    )
    how = {"PREDICTION": prediction, "VARIANCE": variance, "CLIP": clip, "HALVES": _halves(tensors, variance)}
    tensors.run(_vb_kernel, *args, **how, tile=_tile(x0))
    return tensors.finished(vb)


def vb_terms_backward(
    grad: Tensor,
    model_out: Tensor,
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    table: Tensor,
    prediction: str,
    variance: str,
    clip: float | None,
) -> Tensor:
    """The gradient by model_out."""
    tensors = Operands(x0)
    dout = _gradient(model_out, tensors)
    args = (
        _output(model_out, tensors, variance),
        tensors.dense(x0),
        tensors.dense(x_t, "x_t"),
        *tensors.scheduled(t, table),
        dout,
    )
    how = {"PREDICTION": prediction, "VARIANCE": variance, "CLIP": clip, "HALVES": _halves(tensors, variance)}
    tensors.run(_vb_backward_kernel, tensors.per_sample(grad), *args, **how, tile=_tile(x0))
    return dout


def hybrid_terms(
    model_out: Tensor,
    x0: Tensor,
    t: Tensor,
    table: Tensor,
    weight: Tensor | None,
    noise: Tensor | None,
    seed: Tensor | None,
    offset: int,
    prediction: str,
    variance: str,
    frozen_mean: bool,
) -> tuple[Tensor, Tensor]:
    """(weight_n mean (prediction - target)^2, the bound's term in bits/dim). [N] twice"""
    tensors = Operands(x0, sums=True)
    weight = _weights(weight, tensors)
    mse, vb = tensors.sum(mean=True, weight=weight), tensors.sum(scale=_BITS.value, mean=True)
    drawn = tensors.noise(noise, seed, offset)
    inputs = (tensors.doubled(model_out), tensors.dense(x0))
    args = (*inputs, *tensors.scheduled(t, table), weight, mse.target, vb.target)
    how = {"PREDICTION": prediction, "VARIANCE": variance, "HALVES": _learned(tensors, variance)}
    tensors.run(_hybrid_kernel, *args, **drawn, **how, tile=_tile(x0))
    return tensors.finished(mse), tensors.finished(vb)


def hybrid_terms_backward(
    grad_mse: Tensor,
    grad_vb: Tensor,
    model_out: Tensor,
    x0: Tensor,
    t: Tensor,
    table: Tensor,
    weight: Tensor | None,
    noise: Tensor | None,
    seed: Tensor | None,
    offset: int,
    prediction: str,
    variance: str,
    frozen_mean: bool,
) -> Tensor:
    """The gradient by model_out."""
    tensors = Operands(x0)
    dout, drawn = _gradient(model_out, tensors), tensors.noise(noise, seed, offset)
    grads = tensors.per_sample(grad_mse, "grad_mse"), tensors.per_sample(grad_vb, "grad_vb")
    args = (
        tensors.doubled(model_out),
        tensors.dense(x0),
        *tensors.scheduled(t, table),
        _weights(weight, tensors),
        dout,
    )
    how = {
        "PREDICTION": prediction,
        "VARIANCE": variance,
        "FROZEN_MEAN": frozen_mean,
        "HALVES": _learned(tensors, variance),
    }
    tensors.run(_hybrid_backward_kernel, *grads, *args, **drawn, **how, tile=_tile(x0))
    return dout


def prior_bound(x0: Tensor, abar: float) -> Tensor:
    """KL(q(x_T | x_0) || N(0, I)), bits/dim: (abar mean x_0^2 - abar - log(1 - abar)) / (2 log 2). [N]"""
    tensors, how = Operands(x0, sums=True), _prior(abar)
    prior = tensors.sum(scale=how["SCALE"], shift=how["SHIFT"], mean=True)
    tensors.run(_square_kernel, tensors.dense(x0), prior.target, **how)
    return tensors.finished(prior)


def _prior(abar: float) -> dict[str, float]:
    return {"SCALE": abar / (2 * math.log(2)), "SHIFT": (-abar - math.log1p(-abar)) / (2 * math.log(2))}


def prior_bound_backward(grad: Tensor, x0: Tensor, abar: float) -> Tensor:
    """grad_n abar x_0 / (D log 2)."""
    tensors = Operands(x0)
    dx = tensors.out()
    tensors.run(_square_backward_kernel, tensors.per_sample(grad), tensors.dense(x0), dx, SCALE=_prior(abar)["SCALE"])
    return dx
