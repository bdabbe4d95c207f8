"""Reverse diffusion steps, and the bound of dynamic clipping. `table` is fp64 [7, T]; t, t_next, t_last int64 [N]."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import INTERPRETED, Operands, launch, power_of_2
from ._math import exp_of
from ._random import eps_of
from ._schedule import (
    MEAN_X,
    MEAN_X0,
    SIGMA,
    SIGNAL,
    at_step,
    ddim,
    dpm_solver,
    level_after,
    log_variance,
    steps_of,
    to_x0,
)
from ._tile import at_halves, elements_of, load, store, tile_of

ONE_TILE = 16384  # elements of a sample that stay in registers while its quantile is searched


@triton.jit
def _step_of(
    t,
    t_stride,
    t_next,
    next_stride,
    t_last,
    last_stride,
    table,
    count,
    rows,
    samples,
    SOLVER: tl.constexpr,
    PREDICTION: tl.constexpr,
    VARIANCE: tl.constexpr,
    ETA: tl.constexpr,
    CLIPS: tl.constexpr,
    C: tl.constexpr,
):
    """The steps of samples, [ROWS, 1] in the compute dtype C: with x0 = clip(x0_by_x x + x0_by_out out),

    next = by_x x + by_x0 x0 + by_last last + sigma eps, with by_out out in place of by_x0 x0 where nothing is clipped:
    there x0 is never formed, since at high noise it is a small difference of large numbers.
    log sigma^2 of a learned variance is logvar + logvar_by v; sigma is 0 at the end, where `ends`.
    """
    step = steps_of(t, t_stride, rows, samples)
    signal = at_step(table, SIGNAL, count, step)
    sigma = at_step(table, SIGMA, count, step)
    x0_by_x, x0_by_out = to_x0(signal, sigma, PREDICTION)
    drawn = signal * 0.0
    by_last = drawn
    logvar = drawn
    logvar_by = drawn
    if SOLVER == "ddpm":
        by_x = at_step(table, MEAN_X, count, step)
        by_x0 = at_step(table, MEAN_X0, count, step)
        logvar, logvar_by = log_variance(table, count, step, VARIANCE)
        drawn = tl.where(step == 0, 0.0, tl.exp(logvar / 2))
    else:
        signal_next, sigma_next = level_after(table, count, steps_of(t_next, next_stride, rows, samples))
        if SOLVER == "ddim":
            by_x, by_x0, drawn = ddim(signal, sigma, signal_next, sigma_next, ETA)
        elif t_last is None:
            by_x, by_x0, by_last = dpm_solver(signal, sigma, signal_next, sigma_next, signal, sigma, False)
        else:
            last = steps_of(t_last, last_stride, rows, samples)
            signal_last = at_step(table, SIGNAL, count, last)
            sigma_last = at_step(table, SIGMA, count, last)
            by_x, by_x0, by_last = dpm_solver(
                signal, sigma, signal_next, sigma_next, signal_last, sigma_last, True
            )
    by_out = by_x0 * x0_by_out
    if not CLIPS:
        by_x += by_x0 * x0_by_x
    return (
        x0_by_x.to(C),
        x0_by_out.to(C),
        by_x.to(C),
        by_out.to(C),
        by_x0.to(C),
        by_last.to(C),
        drawn.to(C),
        logvar.to(C),
        logvar_by.to(C),
        step == 0,
    )


@triton.jit
def _raw_x0(x0_by_x, x0_by_out, x, out):
    """An infinite x plays no part where the model predicts x_0 itself."""
    return tl.where(x0_by_x == 0, 0.0, x0_by_x * x) + x0_by_out * out


@triton.jit
def _limits(bound, rows, samples, CLIP: tl.constexpr, C: tl.constexpr):
    """Where x0 is clipped, and the factor of it inside: bounds of the samples, or one for all."""
    if bound is None:
        limit = tl.full(rows.shape, CLIP, C)
        return limit, tl.full(rows.shape, 1.0, C)
    limits = tl.load(bound + rows, rows < samples, other=1.0)
    return limits.to(C), (1.0 / limits).to(C)


@triton.jit
def _step_kernel(
    model_out,
    x_t,
    x0_last,
    bound,
    t,
    t_stride,
    t_next,
    next_stride,
    t_last,
    last_stride,
    table,
    count,
    next,
    x0,
    source,
    offset,
    samples,
    inner,
    channels,
    pixels,
    SOLVER: tl.constexpr,
    PREDICTION: tl.constexpr,
    VARIANCE: tl.constexpr,
    ETA: tl.constexpr,
    CLIP: tl.constexpr,
    HALVES: tl.constexpr,
    NOISE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    CLIPS: tl.constexpr = CLIP is not None or bound is not None
    LEARNED: tl.constexpr = SOLVER == "ddpm" and (VARIANCE == "learned" or VARIANCE == "learned_range")
    rows, first = tile_of(inner, COLS, ROWS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, channels, NOISE, COLS)
    at_out = at
    if HALVES != "none":
        at_out, to_second = at_halves(at, rows, inner, channels, HALVES)
    x = load(x_t + at, mask)
    out = load(model_out + at_out, mask)
    x0_by_x, x0_by_out, by_x, by_out, by_x0, by_last, sigma, logvar, logvar_by, ends = _step_of(
        t,
        t_stride,
        t_next,
        next_stride,
        t_last,
        last_stride,
        table,
        count,
        rows,
        samples,
        SOLVER,
        PREDICTION,
        VARIANCE,
        ETA,
        CLIPS,
        x.dtype,
    )
    kept = _raw_x0(x0_by_x, x0_by_out, x, out)
    if CLIPS:
        limit, scale = _limits(bound, rows, samples, CLIP, x.dtype)
        end = limit if bound is None else limit * 0.0 + 1.0
        kept = tl.where(kept > limit, end, tl.where(kept < -limit, -end, kept * scale))
        result = by_x * x + by_x0 * kept
    else:
        result = by_x * x + by_out * out
    if x0_last is not None:
        result += by_last * load(x0_last + at, mask)
    if NOISE != "none":
        eps = eps_of(source, offset, rows, first, at, mask, inner, channels, pixels, NOISE, ROWS, COLS).to(x.dtype)
        if LEARNED:
            v = load(model_out + at_out + to_second, mask)
            sigma = tl.where(ends, 0.0, exp_of(0.5 * (logvar + logvar_by * v)))
        result += sigma * eps
    store(next + at, result, mask)
    if x0 is not None:
        store(x0 + at, kept, mask)


@triton.jit
def _backward_kernel(
    grad,
    grad_x0,
    model_out,
    x_t,
    bound,
    t,
    t_stride,
    t_next,
    next_stride,
    t_last,
    last_stride,
    table,
    count,
    dout,
    dx,
    dlast,
    source,
    offset,
    samples,
    inner,
    channels,
    pixels,
    SOLVER: tl.constexpr,
    PREDICTION: tl.constexpr,
    VARIANCE: tl.constexpr,
    ETA: tl.constexpr,
    CLIP: tl.constexpr,
    HALVES: tl.constexpr,
    NOISE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """NOISE is "none" but where the variance is learned."""
    CLIPS: tl.constexpr = CLIP is not None or bound is not None
    rows, first = tile_of(inner, COLS, ROWS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, channels, NOISE, COLS)
    at_out = at
    if HALVES != "none":
        at_out, to_second = at_halves(at, rows, inner, channels, HALVES)
    g = load(grad + at, mask)
    x0_by_x, x0_by_out, by_x, by_out, by_x0, by_last, sigma, logvar, logvar_by, ends = _step_of(
        t,
        t_stride,
        t_next,
        next_stride,
        t_last,
        last_stride,
        table,
        count,
        rows,
        samples,
        SOLVER,
        PREDICTION,
        VARIANCE,
        ETA,
        CLIPS,
        g.dtype,
    )
    if CLIPS:
        by_out_total = by_x0 * g
    else:
        by_out_total = g * 0.0
    if grad_x0 is not None:
        by_out_total += load(grad_x0 + at, mask)
    if CLIPS:
        limit, scale = _limits(bound, rows, samples, CLIP, g.dtype)
        raw = _raw_x0(x0_by_x, x0_by_out, load(x_t + at, mask), load(model_out + at_out, mask))
        by_out_total = tl.where((raw > limit) | (raw < -limit), 0.0, by_out_total * scale)
        store(dout + at_out, x0_by_out * by_out_total, mask)
    else:
        store(dout + at_out, by_out * g + x0_by_out * by_out_total, mask)
    store(dx + at, by_x * g + x0_by_x * by_out_total, mask)
    if dlast is not None:
        store(dlast + at, by_last * g, mask)
    if NOISE != "none":
        eps = eps_of(source, offset, rows, first, at, mask, inner, channels, pixels, NOISE, ROWS, COLS).to(g.dtype)
        v = load(model_out + at_out + to_second, mask)
        sigma = tl.where(ends, 0.0, exp_of(0.5 * (logvar + logvar_by * v)))
        store(dout + at_out + to_second, 0.5 * logvar_by * (g * eps * sigma), mask)
    elif HALVES != "none":
        store(dout + at_out + to_second, g * 0.0, mask)  # the half that plays no part
