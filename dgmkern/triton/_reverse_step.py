"""The reverse step of each sample of a tile: its coefficients, the x_0 that a model's output means, its clipping."""

import triton
import triton.language as tl

from ._schedule import (
    MEAN_X,
    MEAN_X0,
    at_step,
    ddim,
    dpm_solver,
    level_after,
    level_at,
    log_variance,
    steps_of,
    to_x0,
)


@triton.jit
def step_of(
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
    signal, sigma = level_at(table, count, step)
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
            signal_last, sigma_last = level_at(table, count, steps_of(t_last, last_stride, rows, samples))
            by_x, by_x0, by_last = dpm_solver(signal, sigma, signal_next, sigma_next, signal_last, sigma_last, True)
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
def raw_x0(x0_by_x, x0_by_out, x, out):
    """An infinite x plays no part where the model predicts x_0 itself."""
    return tl.where(x0_by_x == 0, 0.0, x0_by_x * x) + x0_by_out * out


@triton.jit
def limits_of(bound, rows, samples, CLIP: tl.constexpr, C: tl.constexpr):
    """Where x0 is clipped, and the factor of it inside: bounds of the samples, or one for all."""
    if bound is None:
        limit = tl.full(rows.shape, CLIP, C)
        factor = tl.full(rows.shape, 1.0, C)
    else:
        limits = tl.load(bound + rows, rows < samples, other=1.0)
        limit = limits.to(C)
        factor = (1.0 / limits).to(C)
    return limit, factor
