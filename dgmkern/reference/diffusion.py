"""Diffusion noising in plain torch. `table` is fp64 [2, T]: sqrt(abar_t), sqrt(1 - abar_t); t int64 [N]."""

import torch
from torch import Tensor

from .gaussian import compute_dtype
from .layout import laid_out_as
from .noise import eps_like


def gathered(table: Tensor, t: Tensor, name: str = "t", *, first: int = 0) -> Tensor:
    """table[:, t - first]. [R, S], [N] -> [R, N]

    Raises IndexError for a step outside [first, first + S); on an accelerator, where a look would sync, such a sample
    becomes NaN.
    """
    last = first + table.shape[1]
    # under a transform (the backward of a backward) there is nothing to look at, and the forward has looked
    if t.device.type == "cpu" and not torch._C._are_functorch_transforms_active():
        outside = (t < first) | (t >= last)
        if outside.any():
            raise IndexError(f"{name}: expected steps in [{first}, {last}), got {t[outside][0].item()}")
    return gathered_or_nan(table, t, first=first)


def gathered_or_nan(table: Tensor, t: Tensor, *, first: int = 0) -> Tensor:
    """The same without a look: NaN for a step outside."""
    i = t - first
    rows = table[:, i.clamp(0, table.shape[1] - 1)]
    return rows.masked_fill((i < 0) | (i >= table.shape[1]), float("nan"))


def rows_of(table: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """table[:, t] in x's compute dtype, shaped to broadcast over x. [R, T], [N] -> [R, N, 1, ...]"""
    return gathered(table, t).to(compute_dtype(x)).reshape(table.shape[0], -1, *[1] * (x.dim() - 1))


def q_sample(x0: Tensor, t: Tensor, table: Tensor, noise: Tensor | None, seed: Tensor | None, offset: int) -> Tensor:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps."""
    a, b = rows_of(table, t, x0)
    return laid_out_as(x0, (a * x0 + b * eps_like(x0, noise, seed, offset).to(a.dtype)).to(x0.dtype))


def q_sample_target(
    x0: Tensor, t: Tensor, table: Tensor, noise: Tensor | None, seed: Tensor | None, offset: int, target: str
) -> tuple[Tensor, Tensor]:
    """(x_t, what the model is to predict): eps, or v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0."""
    a, b = rows_of(table, t, x0)
    eps = eps_like(x0, noise, seed, offset).to(a.dtype)
    wanted = eps if target == "eps" else a * eps - b * x0
    x_t = (a * x0 + b * eps).to(x0.dtype)
    return laid_out_as(x0, x_t), laid_out_as(x0, wanted.to(x0.dtype, copy=True))


def q_sample_backward(grad: Tensor, t: Tensor, table: Tensor, row: int) -> Tensor:
    """table[row, t] grad: the gradient by x_0 (row 0) or by the noise (row 1)."""
    return laid_out_as(grad, (rows_of(table, t, grad)[row] * grad).to(grad.dtype))


MEAN_X0, MEAN_X, LOGVAR = 2, 3, 4  # rows of DiffusionSchedule.p_table


def q_posterior(x0: Tensor, x_t: Tensor, t: Tensor, table: Tensor) -> Tensor:
    """coef1_t x_0 + coef2_t x_t; table is fp64 [7, T]."""
    rows = rows_of(table, t, x0)
    return laid_out_as(x0, (rows[MEAN_X0] * x0 + rows[MEAN_X] * x_t).to(x0.dtype))


def q_posterior_backward(grad: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """coef1_t grad, coef2_t grad."""
    rows = rows_of(table, t, x0)
    dx0, dx = rows[MEAN_X0] * grad, rows[MEAN_X] * grad
    return laid_out_as(x0, dx0.to(x0.dtype)), laid_out_as(x0, dx.to(x0.dtype))
