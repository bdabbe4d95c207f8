"""Training losses of diffusion models in plain torch, per sample [N].

`table` is `DiffusionSchedule.q_table` for `diffusion_mse`, else `p_table`; t int64 [N]; weight fp64 [N].
"""

import math

import torch
from torch import Tensor

from .diffusion import gathered
from .gaussian import compute_dtype, exp_minus_1_minus_x, over_samples
from .layout import laid_out_as
from .likelihood import discretized_gaussian, discretized_gaussian_grad
from .noise import eps_like
from .reverse import MEAN_X, MEAN_X0, SIGMA, SIGNAL, halves, log_variance, over, to_x0

LOGVAR_Q = 4  # of the posterior, clipped


def mean_per_sample(x: Tensor) -> Tensor:
    """Over all dimensions but the first. [N, ...] -> [N]"""
    return x.mean(tuple(range(1, x.dim()))) if x.dim() > 1 else x


def elements(x: Tensor) -> int:
    """Elements of a sample."""
    return math.prod(x.shape[1:])


def target_of(prediction: str, x0: Tensor, eps: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """What the model is to predict: eps, x_0 or v."""
    if prediction == "x0":
        return x0
    return eps if prediction == "eps" else signal * eps - sigma * x0


def _residual(out: Tensor, x0: Tensor, levels: Tensor, noise, seed, offset: int, prediction: str) -> Tensor:
    """out - target, in the compute dtype; levels [2, N] are sqrt(abar_t) and sqrt(1 - abar_t)."""
    c = compute_dtype(x0)
    eps = eps_like(x0, noise, seed, offset).to(c)
    return out.to(c) - target_of(prediction, x0.to(c), eps, over(x0, levels[0]), over(x0, levels[1]))


def _weighted(x: Tensor, weight: Tensor | None) -> Tensor:
    return x if weight is None else x * weight.to(x.dtype)


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
    """weight_n mean (model_out - target)^2."""
    r = _residual(model_out, x0, gathered(table, t), noise, seed, offset, prediction)
    return _weighted(mean_per_sample(r * r), weight)


def diffusion_mse_backward(grad: Tensor, model_out: Tensor, x0: Tensor, t, table, weight, *how) -> Tensor:
    """2 grad_n weight_n (model_out - target) / D."""
    r = _residual(model_out, x0, gathered(table, t), *how)
    dout = over_samples(_weighted(grad, weight), x0) * (2 / max(elements(x0), 1)) * r
    return laid_out_as(x0, dout.to(x0.dtype))


def _vb(diff: Tensor, logvar: Tensor, mean: Tensor, x0: Tensor, t: Tensor, logvar_q: Tensor) -> Tensor:
    """One element of the bound, nats: the KL of the posterior from the model's step, their means `diff` apart, and at
    t = 0 the likelihood of x_0 under the model's step, of that `mean`."""
    decodes = over(x0, t) == 0
    kl = (diff**2 * torch.exp(-logvar) + exp_minus_1_minus_x(logvar_q - logvar)) / 2
    nll = discretized_gaussian(x0, torch.where(decodes, mean, x0), torch.where(decodes, logvar / 2, 0.0))
    return torch.where(decodes, nll, kl)


def _vb_grad(diff, logvar, mean, x0, t, logvar_q) -> tuple[Tensor, Tensor]:
    """Its derivatives by diff (at t = 0 by minus the mean) and by logvar."""
    decodes = over(x0, t) == 0
    ddiff = diff * torch.exp(-logvar)
    dlogvar = -(diff * ddiff + torch.expm1(logvar_q - logvar)) / 2
    dmean, dlog_scale = discretized_gaussian_grad(
        x0, torch.where(decodes, mean, x0), torch.where(decodes, logvar / 2, 0.0)
    )
    return torch.where(decodes, -dmean, ddiff), torch.where(decodes, dlog_scale / 2, dlogvar)


def _of_prediction(model_out, x0, x_t, t, table, prediction: str, variance: str, clip: float | None):
    """What `_vb` takes, and the derivative of diff (of minus the mean) by the prediction, 0 where x_0 is clipped."""
    c = compute_dtype(x0)
    out, v = halves(model_out, x0)
    rows = gathered(table, t)
    logvar, by_v = log_variance(variance, rows, v, x0)
    by_x, by_out = to_x0(prediction, rows[SIGNAL], rows[SIGMA])
    x, data = x_t.to(c), x0.to(c)
    predicted = torch.where(over(x0, by_x) == 0, 0.0, over(x0, by_x) * x) + over(x0, by_out) * out.to(c)
    mean_x0 = over(x0, rows[MEAN_X0])
    slope = -mean_x0 * over(x0, by_out)
    if clip is not None:
        slope = torch.where(predicted.abs() > clip, 0.0, slope)
        predicted = predicted.clamp(-clip, clip)
    mean = mean_x0 * predicted + over(x0, rows[MEAN_X]) * x
    return (mean_x0 * (data - predicted), logvar, mean, data, t, over(x0, rows[LOGVAR_Q])), slope, by_v


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
    """L_{t} of Ho et al. 2020, eq. 5, bits/dim."""
    terms, _, _ = _of_prediction(model_out, x0, x_t, t, table, prediction, variance, clip)
    return mean_per_sample(_vb(*terms)) / math.log(2)


def vb_terms_backward(grad: Tensor, model_out: Tensor, x0: Tensor, x_t, t, table, prediction, variance, clip) -> Tensor:
    """The gradient by model_out."""
    terms, slope, by_v = _of_prediction(model_out, x0, x_t, t, table, prediction, variance, clip)
    ddiff, dlogvar = _vb_grad(*terms)
    g = over_samples(grad, x0) / (max(elements(x0), 1) * math.log(2))
    return _joined(x0, g * ddiff * slope, g * dlogvar * by_v if variance.startswith("learned") else None)


def _joined(x0: Tensor, dout: Tensor, dv: Tensor | None) -> Tensor:
    both = dout if dv is None else torch.cat([dout, dv], 1)
    return laid_out_as(x0, both.to(x0.dtype))


def _of_noise(model_out, x0, t, table, noise, seed, offset, prediction, variance, frozen_mean):
    """The residual of the prediction, and what `_vb` takes: the error of the predicted x_0 is that residual times a
    number, so that neither it nor x_t has to be formed."""
    c = compute_dtype(x0)
    out, v = halves(model_out, x0)
    rows = gathered(table, t)
    r = _residual(out, x0, rows[:2], noise, seed, offset, prediction)
    logvar, by_v = log_variance(variance, rows, v, x0)
    signal, sigma = rows[:2]
    error = {"eps": sigma / signal, "v": sigma}.get(prediction, -torch.ones_like(signal))  # (x_0 - predicted) / r
    slope = over(x0, rows[MEAN_X0] * error)
    data, of_mean = x0.to(c), r.detach() if frozen_mean else r
    diff, mean = slope * of_mean, over(x0, rows[MEAN_X0]) * (data - over(x0, error) * of_mean)
    return r, (diff, logvar, mean, data, t, over(x0, rows[LOGVAR_Q])), slope, by_v


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
    """(weight_n mean (prediction - target)^2, the bound's term in bits/dim)."""
    r, terms, _, _ = _of_noise(model_out, x0, t, table, noise, seed, offset, prediction, variance, frozen_mean)
    return _weighted(mean_per_sample(r * r), weight), mean_per_sample(_vb(*terms)) / math.log(2)


def hybrid_terms_backward(grad_mse: Tensor, grad_vb: Tensor, model_out, x0, t, table, weight, *how) -> Tensor:
    """The gradient by model_out."""
    r, terms, slope, by_v = _of_noise(model_out, x0, t, table, *how)
    ddiff, dlogvar = _vb_grad(*terms)
    n = max(elements(x0), 1)
    dout = over_samples(_weighted(grad_mse, weight), x0) * (2 / n) * r
    g = over_samples(grad_vb, x0) / (n * math.log(2))
    if not how[-1]:  # frozen_mean
        dout = dout + g * ddiff * slope
    return _joined(x0, dout, g * dlogvar * by_v)


def prior_bound(x0: Tensor, abar: float) -> Tensor:
    """KL(q(x_T | x_0) || N(0, I)), bits/dim: (abar mean x_0^2 - abar - log(1 - abar)) / (2 log 2)."""
    c = compute_dtype(x0)
    return (abar * mean_per_sample(x0.to(c) ** 2) + (-abar - math.log1p(-abar))) / (2 * math.log(2))


def prior_bound_backward(grad: Tensor, x0: Tensor, abar: float) -> Tensor:
    """grad_n abar x_0 / (D log 2)."""
    dx = over_samples(grad, x0) * (abar / (max(elements(x0), 1) * math.log(2))) * x0.to(compute_dtype(x0))
    return laid_out_as(x0, dx.to(x0.dtype))
