"""Diffusion noising. `table` is fp64 [2, T] (posterior: [7, T]); t int64 [N]."""

import triton.language as tl
from torch import Tensor

from ._launch import Operands
from ._random import eps_of
from ._schedule import MEAN_X, MEAN_X0, at_step, level_at, steps_of
from ._tile import elements_of, kernel, load, store, tile_of


@kernel
def _q_sample_kernel(
    x0,
    t,
    t_stride,
    table,
    count,
    x_t,
    wanted,
    source,
    offset,
    samples,
    inner,
    channels,
    TARGET: tl.constexpr,
    NOISE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    rows, first = tile_of(inner, ROWS, COLS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, channels, NOISE, COLS)
    x = load(x0 + at, mask)
    eps = eps_of(source, offset, rows, first, at, mask, inner, channels, NOISE, ROWS, COLS).to(x.dtype)
    signal, sigma = level_at(table, count, steps_of(t, t_stride, rows, samples))
    signal = signal.to(x.dtype)
    sigma = sigma.to(x.dtype)
    store(x_t + at, signal * x + sigma * eps, mask)
    if TARGET == "eps":
        store(wanted + at, tl.where(signal == signal, eps, signal), mask)
    elif TARGET == "v":
        store(wanted + at, signal * eps - sigma * x, mask)


@kernel
def _scale_kernel(
    x,
    t,
    t_stride,
    table,
    count,
    out,
    samples,
    inner,
    ROW: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    rows, first = tile_of(inner, ROWS, COLS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, 1, "given", COLS)
    x = load(x + at, mask)
    store(out + at, at_step(table, ROW, count, steps_of(t, t_stride, rows, samples)).to(x.dtype) * x, mask)


@kernel
def _posterior_kernel(
    x0,
    x,
    t,
    t_stride,
    table,
    count,
    mean,
    samples,
    inner,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    rows, first = tile_of(inner, ROWS, COLS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, 1, "given", COLS)
    x0 = load(x0 + at, mask)
    step = steps_of(t, t_stride, rows, samples)
    by_x0 = at_step(table, MEAN_X0, count, step).to(x0.dtype)
    by_x = at_step(table, MEAN_X, count, step).to(x0.dtype)
    store(mean + at, by_x0 * x0 + by_x * load(x + at, mask), mask)


@kernel
def _posterior_backward_kernel(
    grad,
    t,
    t_stride,
    table,
    count,
    dx0,
    dx,
    samples,
    inner,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    rows, first = tile_of(inner, ROWS, COLS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, 1, "given", COLS)
    g = load(grad + at, mask)
    step = steps_of(t, t_stride, rows, samples)
    store(dx0 + at, at_step(table, MEAN_X0, count, step).to(g.dtype) * g, mask)
    store(dx + at, at_step(table, MEAN_X, count, step).to(g.dtype) * g, mask)


def q_sample(x0: Tensor, t: Tensor, table: Tensor, noise: Tensor | None, seed: Tensor | None, offset: int) -> Tensor:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps."""
    tensors = Operands(x0)
    x_t = tensors.out()
    drawn = tensors.noise(noise, seed, offset)
    tensors.run(_q_sample_kernel, tensors.dense(x0), *tensors.scheduled(t, table, 2), x_t, None, **drawn, TARGET="none")
    return x_t


def q_sample_target(
    x0: Tensor, t: Tensor, table: Tensor, noise: Tensor | None, seed: Tensor | None, offset: int, target: str
) -> tuple[Tensor, Tensor]:
    """(x_t, what the model is to predict): eps, or v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0."""
    if target not in ("eps", "v"):
        raise ValueError(f"target: expected 'eps' or 'v', got {target!r}")
    tensors = Operands(x0)
    x_t, wanted = tensors.out(), tensors.out()
    drawn = tensors.noise(noise, seed, offset)
    tensors.run(
        _q_sample_kernel, tensors.dense(x0), *tensors.scheduled(t, table, 2), x_t, wanted, **drawn, TARGET=target
    )
    return x_t, wanted


def q_sample_backward(grad: Tensor, t: Tensor, table: Tensor, row: int) -> Tensor:
    """table[row, t] grad: the gradient by x_0 (row 0) or by the noise (row 1)."""
    if row not in (0, 1):
        raise ValueError(f"row: expected 0 or 1, got {row}")
    tensors = Operands(grad)
    out = tensors.out()
    tensors.run(_scale_kernel, tensors.dense(grad), *tensors.scheduled(t, table, 2), out, ROW=row)
    return out


def q_posterior(x0: Tensor, x_t: Tensor, t: Tensor, table: Tensor) -> Tensor:
    """coef1_t x_0 + coef2_t x_t; table is fp64 [7, T]."""
    tensors = Operands(x0)
    mean = tensors.out()
    tensors.run(_posterior_kernel, tensors.dense(x0), tensors.dense(x_t, "x_t"), *tensors.scheduled(t, table), mean)
    return mean


def q_posterior_backward(grad: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """coef1_t grad, coef2_t grad."""
    tensors = Operands(x0)
    dx0, dx = tensors.out(), tensors.out()
    tensors.check(x_t, "x_t")
    tensors.run(_posterior_backward_kernel, tensors.dense(grad), *tensors.scheduled(t, table), dx0, dx)
    return dx0, dx
