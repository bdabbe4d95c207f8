"""Reverse diffusion steps, and the bound of dynamic clipping. `table` is fp64 [7, T]; t, t_next, t_last int64 [N]."""

import torch
import triton.language as tl
from torch import Tensor

from ._launch import INTERPRETED, TILE, Operands
from ._math import exp_of
from ._quantile import SHORT, quantile_kernel
from ._random import eps_of
from ._reverse_step import limits_of, raw_x0, step_of
from ._tile import at_halves, elements_of, kernel, load, store, tile_of


@kernel
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
    rows, first = tile_of(inner, ROWS, COLS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, channels, NOISE, COLS)
    at_out, to_second = at_halves(at, rows, first, inner, channels, HALVES, NOISE, COLS)
    x = load(x_t + at, mask)
    out = load(model_out + at_out, mask)
    x0_by_x, x0_by_out, by_x, by_out, by_x0, by_last, sigma, logvar, logvar_by, ends = step_of(
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
    kept = raw_x0(x0_by_x, x0_by_out, x, out)
    if CLIPS:
        limit, scale = limits_of(bound, rows, samples, CLIP, x.dtype)
        end = limit if bound is None else limit * 0.0 + 1.0
        kept = tl.where(kept > limit, end, tl.where(kept < -limit, -end, kept * scale))
        result = by_x * x + by_x0 * kept
    else:
        result = by_x * x + by_out * out
    if x0_last is not None:
        result += by_last * load(x0_last + at, mask)
    if NOISE != "none":
        eps = eps_of(source, offset, rows, first, at, mask, inner, channels, NOISE, ROWS, COLS).to(x.dtype)
        if LEARNED:
            v = load(model_out + at_out + to_second, mask)
            sigma = tl.where(ends, 0.0, exp_of(0.5 * (logvar + logvar_by * v)))
        result += sigma * eps
    store(next + at, result, mask)
    if x0 is not None:
        store(x0 + at, kept, mask)


@kernel
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
    rows, first = tile_of(inner, ROWS, COLS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, channels, NOISE, COLS)
    at_out, to_second = at_halves(at, rows, first, inner, channels, HALVES, NOISE, COLS)
    g = load(grad + at, mask)
    x0_by_x, x0_by_out, by_x, by_out, by_x0, by_last, sigma, logvar, logvar_by, ends = step_of(
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
        by_kept = by_x0 * g
    else:
        by_kept = tl.zeros_like(g)
    if grad_x0 is not None:
        by_kept += load(grad_x0 + at, mask)
    if CLIPS:
        limit, scale = limits_of(bound, rows, samples, CLIP, g.dtype)
        raw = raw_x0(x0_by_x, x0_by_out, load(x_t + at, mask), load(model_out + at_out, mask))
        by_kept = tl.where((raw > limit) | (raw < -limit), 0.0, by_kept * scale)
        store(dout + at_out, x0_by_out * by_kept, mask)
    else:
        store(dout + at_out, by_out * g + x0_by_out * by_kept, mask)
    store(dx + at, by_x * g + x0_by_x * by_kept, mask)
    if dlast is not None:
        store(dlast + at, by_last * g, mask)
    if NOISE != "none":
        eps = eps_of(source, offset, rows, first, at, mask, inner, channels, NOISE, ROWS, COLS).to(g.dtype)
        v = load(model_out + at_out + to_second, mask)
        sigma = tl.where(ends, 0.0, exp_of(0.5 * (logvar + logvar_by * v)))
        store(dout + at_out + to_second, 0.5 * logvar_by * (g * eps * sigma), mask)
    elif HALVES != "none":
        store(dout + at_out + to_second, tl.zeros_like(g), mask)  # the half that plays no part


def _output(tensors: Operands, model_out: Tensor) -> tuple[Tensor, str]:
    """The model's output, dense, and HALVES: "none" unless it has a variance too, in a second half of the channels."""
    x = tensors.like
    if x.dim() >= 2 and model_out.dim() == x.dim() and model_out.shape[1] == 2 * x.shape[1]:
        return tensors.doubled(model_out), tensors.halves()
    return tensors.dense(model_out, "model_out"), "none"


def _steps(tensors: Operands, bound, t, t_next, t_last, table) -> tuple:
    """The arguments of a kernel that say which steps, from `bound` on."""
    t, t_stride, table, count = tensors.scheduled(t, table)
    steps = *tensors.steps(t_next, "t_prev"), *tensors.steps(t_last, "t_last")
    return tensors.per_sample(bound, "bound", torch.float64), t, t_stride, *steps, table, count


def _how(
    x0_last: Tensor | None, t_next, t_last, solver: str, prediction: str, variance: str, eta, clip, halves
) -> dict:
    """The constants of a kernel, checked with what they need."""
    for name, value, allowed in (
        ("solver", solver, ("ddpm", "ddim", "dpm_solver")),
        ("prediction", prediction, ("eps", "x0", "v")),
        ("variance", variance, ("fixed_small", "fixed_large", "learned", "learned_range")),
    ):
        if value not in allowed:
            raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")
    if solver != "ddpm" and t_next is None:
        raise ValueError("t_prev: expected an int64 tensor [N]")
    if x0_last is not None and (t_last is None or solver != "dpm_solver"):
        raise ValueError("x0_last: expected with t_last, for dpm_solver only")
    if solver == "ddpm" and variance.startswith("learned") and halves == "none":
        raise ValueError("model_out: expected [N, 2 C, ...] where the variance is learned")
    names = ("SOLVER", "PREDICTION", "VARIANCE", "ETA", "CLIP", "HALVES")
    return dict(zip(names, (solver, prediction, variance, eta, clip, halves), strict=True))


def _step(x0: Tensor | None, next: Tensor, tensors: Operands, model_out: Tensor, x_t: Tensor, x0_last, bound, *args):
    t, t_next, t_last, table, noise, seed, offset, solver, prediction, variance, eta, clip = args
    model_out, halves = _output(tensors, model_out)
    how = _how(x0_last, t_next, t_last, solver, prediction, variance, eta, clip, halves)
    steps = _steps(tensors, bound, t, t_next, t_last if x0_last is not None else None, table)
    draws = solver == "ddpm" or (solver == "ddim" and eta != 0)
    drawn = tensors.noise(noise, seed, offset) if draws else NO_NOISE
    tensors.run(
        _step_kernel,
        *(model_out, tensors.dense(x_t), tensors.dense(x0_last, "x0_last"), *steps, next, x0),
        **drawn,
        **how,
        tile=TILE if INTERPRETED or solver != "ddim" else TILE // 2,  # sm_80 spills around its fp64 quotients
    )


NO_NOISE = {"source": None, "offset": 0, "NOISE": "none"}


def reverse_step(model_out: Tensor, x_t: Tensor, *args) -> Tensor:
    """The sample at t_next: see `reverse_step_x0`."""
    tensors = Operands(x_t)
    next = tensors.out()
    _step(None, next, tensors, model_out, x_t, *args)
    return next


def reverse_step_x0(model_out: Tensor, x_t: Tensor, *args) -> tuple[Tensor, Tensor]:
    """(the sample at t_next, the predicted x_0). Further arguments: x0_last, bound, t, t_next, t_last, table, noise,
    seed, offset, solver, prediction, variance, eta, clip."""
    tensors = Operands(x_t)
    next, x0 = tensors.out(), tensors.out()
    _step(x0, next, tensors, model_out, x_t, *args)
    return next, x0


def reverse_step_x0_backward(
    grad: Tensor, grad_x0: Tensor | None, model_out: Tensor, x_t: Tensor, x0_last: Tensor | None, bound, *args
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by model_out, x_t and x0_last (empty where there is none)."""
    t, t_next, t_last, table, noise, seed, offset, solver, prediction, variance, eta, clip = args
    tensors = Operands(x_t)
    model_out, halves = _output(tensors, model_out)
    how = _how(x0_last, t_next, t_last, solver, prediction, variance, eta, clip, halves)
    if x0_last is not None:
        tensors.check(x0_last, "x0_last")
    steps = _steps(tensors, bound, t, t_next, t_last if x0_last is not None else None, table)
    dout = torch.empty_like(model_out, memory_format=tensors.layout)
    dx, dlast = tensors.out(), None if x0_last is None else tensors.out()
    learned = solver == "ddpm" and variance.startswith("learned")
    tensors.run(
        _backward_kernel,
        *(tensors.dense(grad, "grad"), tensors.dense(grad_x0, "grad_x0"), model_out, tensors.dense(x_t)),
        *(*steps, dout, dx, dlast),
        **(tensors.noise(noise, seed, offset) if learned else NO_NOISE),
        **how,
    )
    return dout, dx, x_t.new_empty(0) if dlast is None else dlast


def reverse_step_backward(grad: Tensor, *args) -> tuple[Tensor, Tensor, Tensor]:
    """The same for `reverse_step`."""
    return reverse_step_x0_backward(grad, None, *args)


def dynamic_bound(model_out: Tensor, x_t: Tensor, t: Tensor, table: Tensor, prediction: str, quantile: float) -> Tensor:
    """max(1, the quantile of |x_0| over each sample), fp64 [N] (Saharia et al. 2022, section 2.3)."""
    tensors = Operands(x_t)
    model_out, halves = _output(tensors, model_out)
    steps = tensors.scheduled(t, table)
    if tensors.numel == 0:
        return x_t.new_ones(x_t.shape[:1], dtype=torch.float64)
    out = x_t.new_empty(x_t.shape[:1], dtype=torch.float64)
    tensors.run_samples(
        quantile_kernel,
        *(model_out, tensors.dense(x_t), *steps, out),
        tile=SHORT,
        PREDICTION=prediction,
        QUANTILE=quantile,
        HALVES=halves,
        IS_SHORT=tensors.inner <= SHORT,
    )
    return out
