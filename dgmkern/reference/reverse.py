"""Reverse diffusion steps in plain torch.

`table` is `DiffusionSchedule.p_table`, fp64 [7, T]; t, t_next and t_last int64 [N]; t_next = -1 is x_0 itself.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .diffusion import gathered
from .gaussian import compute_dtype
from .layout import laid_out_as
from .noise import eps_like

SIGNAL, SIGMA, MEAN_X0, MEAN_X, LOGVAR_SMALL, LOGVAR_LARGE, LOG_BETA = range(7)


def over(x: Tensor, per_sample: Tensor) -> Tensor:
    """Numbers of samples, [N] fp64, in x's compute dtype and shaped to broadcast over x."""
    return per_sample.to(compute_dtype(x)).reshape(-1, *[1] * (x.dim() - 1))


def to_x0(prediction: str, signal: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """(by_x, by_out) with x_0 = by_x x_t + by_out model_out."""
    if prediction == "eps":
        return 1 / signal, -sigma / signal
    if prediction == "v":
        return signal, -sigma
    return torch.zeros_like(signal), torch.ones_like(signal)


def ddim_coefficients(table: Tensor, t: Tensor, t_next: Tensor, eta: float) -> tuple[Tensor, Tensor, Tensor]:
    """Factors of x_t and x_0 and the noise's standard deviation (Song et al. 2021, eq. 12 and 16), fp64 [N] each."""
    signal, sigma = gathered(table, t)[:2]
    signal_next, sigma_next = _next_level(table, t_next)
    gap = sigma**2 - sigma_next**2
    drawn = (eta**2 * sigma_next**2 * gap / (sigma**2 * signal_next**2)).clamp(min=0)
    kept = (sigma_next**2 - drawn).clamp(min=0).sqrt()
    return kept / sigma, signal_next - kept * signal / sigma, drawn.sqrt()


def dpm_solver_coefficients(
    table: Tensor, t: Tensor, t_next: Tensor, t_last: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Factors of x_t, of x_0 and of the last step's x_0 (Lu et al. 2022, algorithm 2), fp64 [N] each."""
    signal, sigma = gathered(table, t)[:2]
    signal_next, sigma_next = _next_level(table, t_next)
    by_d = signal_next - signal * sigma_next / sigma  # signal_next (1 - e^-h)
    half_ratio = torch.zeros_like(by_d)
    if t_last is not None:
        signal_last, sigma_last = gathered(table, t_last, "t_last")[:2]
        h = (signal_next * sigma / (sigma_next * signal)).log()
        h_last = (signal * sigma_last / (sigma * signal_last)).log()
        half_ratio = torch.where(sigma_next > 0, h / (2 * h_last), half_ratio)
    return sigma_next / sigma, by_d * (1 + half_ratio), -by_d * half_ratio


def _next_level(table: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(abar) and sqrt(1 - abar) at t_next, where -1 stands for no noise."""
    end = torch.zeros_like(table[:, :1])
    end[SIGNAL] = 1
    return tuple(gathered(torch.cat([end, table], 1), t_next, "t_prev", first=-1)[:2])


def log_variance(variance: str, rows: Tensor, v: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor | float]:
    """log sigma^2 and its derivative by the model's variance output v."""
    if variance in ("fixed_small", "fixed_large"):
        return over(x, rows[LOGVAR_SMALL if variance == "fixed_small" else LOGVAR_LARGE]), 0.0
    v = v.to(compute_dtype(x))
    if variance == "learned":
        return v, 1.0
    small, large = rows[LOGVAR_SMALL], rows[LOG_BETA]  # v in [-1, 1] goes from one to the other
    half = over(x, (large - small) / 2)
    return over(x, (large + small) / 2) + half * v, half


def halves(model_out: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The model's prediction, and its variance where it has twice the channels of x."""
    if x.dim() >= 2 and model_out.shape[1] == 2 * x.shape[1]:
        return model_out[:, : x.shape[1]], model_out[:, x.shape[1] :]
    return model_out, None


@dataclass(frozen=True)
class Step:
    """One step, in the compute dtype, broadcastable over x_t: with x0 = clip(x0_by_x x_t + x0_by_out out),
    next = by_x x_t + by_out out + by_x0 x0 + by_last x0_last + sigma eps."""

    x0_by_x: Tensor
    x0_by_out: Tensor
    by_x: Tensor
    by_out: Tensor | float
    by_x0: Tensor | float
    by_last: Tensor | float = 0.0
    sigma: Tensor | None = None
    logvar_by_v: Tensor | float = 0.0

    @classmethod
    def of(cls, v, x_t, x0_last, bound, t, t_next, t_last, table, solver, prediction, variance, eta, clip) -> "Step":
        rows = gathered(table, t)
        sigma, by_last, logvar_by_v = None, 0.0, 0.0
        if solver == "ddpm":
            by_x, by_x0 = rows[MEAN_X], rows[MEAN_X0]
            logvar, logvar_by_v = log_variance(variance, rows, v, x_t)
            sigma = torch.where(over(x_t, t) == 0, 0.0, torch.exp(logvar / 2))
        elif solver == "ddim":
            by_x, by_x0, drawn = ddim_coefficients(table, t, t_next, eta)
            sigma = None if eta == 0 else over(x_t, drawn)
        else:
            by_x, by_x0, by_last = dpm_solver_coefficients(table, t, t_next, t_last if x0_last is not None else None)
            by_last = over(x_t, by_last)
        x0_by_x, x0_by_out = to_x0(prediction, rows[SIGNAL], rows[SIGMA])
        by_out = 0.0
        if (
            clip is None and bound is None
        ):  # x_0 is never formed: at high noise it is a small difference of large numbers
            by_x, by_out, by_x0 = by_x + by_x0 * x0_by_x, over(x_t, by_x0 * x0_by_out), 0.0
        else:
            by_x0 = over(x_t, by_x0)
        return cls(
            over(x_t, x0_by_x), over(x_t, x0_by_out), over(x_t, by_x), by_out, by_x0, by_last, sigma, logvar_by_v
        )

    def raw_x0(self, x: Tensor, out: Tensor) -> Tensor:
        # an infinite x plays no part where the model predicts x_0 itself
        return torch.where(self.x0_by_x == 0, 0.0, self.x0_by_x * x) + self.x0_by_out * out


def reverse_step_x0(
    model_out: Tensor,
    x_t: Tensor,
    x0_last: Tensor | None,
    bound: Tensor | None,
    t: Tensor,
    t_next: Tensor | None,
    t_last: Tensor | None,
    table: Tensor,
    noise: Tensor | None,
    seed: Tensor | None,
    offset: int,
    solver: str,
    prediction: str,
    variance: str,
    eta: float,
    clip: float | None,
) -> tuple[Tensor, Tensor]:
    """(the sample at t_next, the predicted x_0)."""
    c = compute_dtype(x_t)
    out, v = halves(model_out, x_t)
    step = Step.of(v, x_t, x0_last, bound, t, t_next, t_last, table, solver, prediction, variance, eta, clip)
    out, x = out.to(c), x_t.to(c)
    x0 = step.raw_x0(x, out)
    if bound is not None:
        s = over(x_t, bound)
        x0 = torch.where(x0.abs() > s, x0.sign(), x0 / s)
    elif clip is not None:
        x0 = x0.clamp(-clip, clip)
    result = step.by_x * x + (step.by_out * out if clip is None and bound is None else step.by_x0 * x0)
    if x0_last is not None:
        result = result + step.by_last * x0_last.to(c)
    if step.sigma is not None:
        result = result + step.sigma * eps_like(x_t, noise, seed, offset).to(c)
    return laid_out_as(x_t, result.to(x_t.dtype)), laid_out_as(x_t, x0.to(x_t.dtype))


def reverse_step(*args) -> Tensor:
    """The first of the two."""
    return reverse_step_x0(*args)[0]


def reverse_step_x0_backward(
    grad: Tensor,
    grad_x0: Tensor | None,
    model_out: Tensor,
    x_t: Tensor,
    x0_last: Tensor | None,
    bound: Tensor | None,
    t: Tensor,
    t_next: Tensor | None,
    t_last: Tensor | None,
    table: Tensor,
    noise: Tensor | None,
    seed: Tensor | None,
    offset: int,
    solver: str,
    prediction: str,
    variance: str,
    eta: float,
    clip: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by model_out, x_t and x0_last (empty where there is none)."""
    c, dtype = compute_dtype(x_t), x_t.dtype
    out, v = halves(model_out, x_t)
    step = Step.of(v, x_t, x0_last, bound, t, t_next, t_last, table, solver, prediction, variance, eta, clip)
    g, out, x = grad.to(c), out.to(c), x_t.to(c)
    by_x0 = step.by_x0 * g + (0 if grad_x0 is None else grad_x0.to(c))
    limit = over(x_t, bound) if bound is not None else (math.inf if clip is None else clip)
    by_x0 = torch.where(step.raw_x0(x, out).abs() > limit, 0.0, by_x0) / (1 if bound is None else limit)
    dout = (step.by_out * g + step.x0_by_out * by_x0).to(dtype)
    dx = (step.by_x * g + step.x0_by_x * by_x0).to(dtype)
    if v is not None:
        dv = torch.zeros_like(dout)
        if solver == "ddpm":
            dv = g * eps_like(x_t, noise, seed, offset).to(c) * step.sigma * step.logvar_by_v / 2
        dout = torch.cat([dout, dv.to(dtype)], 1)
    dlast = x_t.new_empty(0) if x0_last is None else laid_out_as(x_t, (step.by_last * g).to(dtype))
    return laid_out_as(x_t, dout), laid_out_as(x_t, dx), dlast


def reverse_step_backward(grad: Tensor, *args) -> tuple[Tensor, Tensor, Tensor]:
    """The same for `reverse_step`."""
    return reverse_step_x0_backward(grad, None, *args)


def dynamic_bound(model_out: Tensor, x_t: Tensor, t: Tensor, table: Tensor, prediction: str, quantile: float) -> Tensor:
    """max(1, the quantile of |x_0| over each sample), fp64 [N] (Saharia et al. 2022, section 2.3)."""
    c = compute_dtype(x_t)
    signal, sigma = gathered(table, t)[:2]
    by_x, by_out = to_x0(prediction, signal, sigma)
    out = halves(model_out, x_t)[0].to(c)
    x0 = torch.where(over(x_t, by_x) == 0, 0.0, over(x_t, by_x) * x_t.to(c)) + over(x_t, by_out) * out
    if x0[0:1].numel() == 0:
        return torch.ones_like(signal)
    # sorted, since torch.quantile takes no more than 2^24 numbers
    ordered = x0.reshape(len(x0), -1).abs().sort(1).values.double()
    position = quantile * (ordered.shape[1] - 1)
    lower = int(position)
    upper = min(lower + 1, ordered.shape[1] - 1)
    value = ordered[:, lower].lerp(ordered[:, upper], position - lower)
    value = torch.where(ordered[:, -1].isnan(), torch.nan, value)
    return value.clamp(min=1)
