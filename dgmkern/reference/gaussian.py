"""Diagonal Gaussians in plain torch. logvar is log sigma^2; arithmetic and sums in fp32 (fp64 for fp64)."""

import torch
from torch import Tensor

from .layout import laid_out_as
from .noise import eps_like


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the arithmetic and of per-sample sums: fp64 for fp64, else fp32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def exp_minus_1_minus_x(x: Tensor) -> Tensor:
    """e^x - 1 - x without cancellation: its Taylor series for |x| < 1."""
    series = torch.zeros_like(x)
    for k in range(20, 1, -1):  # x^2/2! + x^3/3! + ... + x^20/20!, by Horner
        series = (1 + series) * x / k
    small = series * x
    return torch.where(x.abs() < 1, small, torch.expm1(x) - x)


def gaussian_rsample(mu: Tensor, logvar: Tensor, noise: Tensor | None, seed: Tensor | None, offset: int) -> Tensor:
    """z = mu + exp(logvar / 2) eps."""
    c = compute_dtype(mu)
    eps = eps_like(mu, noise, seed, offset).to(c)
    return laid_out_as(mu, (mu.to(c) + torch.exp(logvar.to(c) / 2) * eps).to(mu.dtype))


def gaussian_rsample_backward(
    grad: Tensor, logvar: Tensor, noise: Tensor | None, seed: Tensor | None, offset: int
) -> Tensor:
    """dL/dlogvar = grad eps exp(logvar / 2) / 2."""
    c = compute_dtype(logvar)
    eps = eps_like(logvar, noise, seed, offset).to(c)
    return laid_out_as(logvar, (grad.to(c) * eps * torch.exp(logvar.to(c) / 2) / 2).to(logvar.dtype))


def _kl(mu: Tensor, logvar: Tensor) -> Tensor:
    c = compute_dtype(mu)
    return (mu.to(c) ** 2 + exp_minus_1_minus_x(logvar.to(c))) / 2


def _kl_between(mu: Tensor, logvar: Tensor, mu_p: Tensor, logvar_p: Tensor) -> Tensor:
    c = compute_dtype(mu)
    mu, logvar, mu_p, logvar_p = (x.to(c) for x in (mu, logvar, mu_p, logvar_p))
    return ((mu - mu_p) ** 2 * torch.exp(-logvar_p) + exp_minus_1_minus_x(logvar - logvar_p)) / 2


def per_sample(x: Tensor) -> Tensor:
    """Sum over all dimensions but the first. [N, ...] -> [N]"""
    return x.sum(tuple(range(1, x.dim()))) if x.dim() > 1 else x


def over_samples(grad: Tensor, x: Tensor) -> Tensor:
    """`grad` [N] or shaped as `x` -> broadcastable over x."""
    return grad if grad.dim() == x.dim() else grad.reshape(-1, *[1] * (x.dim() - 1))


def gaussian_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) = (mu^2 + e^logvar - 1 - logvar) / 2, per element."""
    return laid_out_as(mu, _kl(mu, logvar).to(mu.dtype))


def gaussian_kl_sample(mu: Tensor, logvar: Tensor) -> Tensor:
    """The same, summed per sample: [N]."""
    return per_sample(_kl(mu, logvar))


def gaussian_kl_backward(grad: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """grad mu, grad (e^logvar - 1) / 2. grad is [N] or shaped as mu."""
    c = compute_dtype(mu)
    g = over_samples(grad, mu).to(c)
    dlogvar = g * torch.expm1(logvar.to(c)) / 2
    return laid_out_as(mu, (g * mu.to(c)).to(mu.dtype)), laid_out_as(mu, dlogvar.to(mu.dtype))


def gaussian_kl_between(mu: Tensor, logvar: Tensor, mu_p: Tensor, logvar_p: Tensor) -> Tensor:
    """KL between two, per element: ((mu - mu_p)^2 e^-logvar_p + e^d - 1 - d) / 2, d = logvar - logvar_p."""
    return laid_out_as(mu, _kl_between(mu, logvar, mu_p, logvar_p).to(mu.dtype))


def gaussian_kl_between_sample(mu: Tensor, logvar: Tensor, mu_p: Tensor, logvar_p: Tensor) -> Tensor:
    """The same, summed per sample: [N]."""
    return per_sample(_kl_between(mu, logvar, mu_p, logvar_p))


def gaussian_kl_between_backward(
    grad: Tensor, mu: Tensor, logvar: Tensor, mu_p: Tensor, logvar_p: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients by mu, logvar, mu_p and logvar_p. grad is [N] or shaped as mu."""
    c = compute_dtype(mu)
    g, diff = over_samples(grad, mu).to(c), mu.to(c) - mu_p.to(c)
    dmu = g * diff * torch.exp(-logvar_p.to(c))
    dlogvar = g * torch.expm1(logvar.to(c) - logvar_p.to(c)) / 2
    dlogvar_p = -dmu * diff / 2 - dlogvar
    return tuple(laid_out_as(mu, d.to(mu.dtype)) for d in (dmu, dlogvar, -dmu, dlogvar_p))


def gaussian_rsample_kl(
    mu: Tensor, logvar: Tensor, noise: Tensor | None, seed: Tensor | None, offset: int
) -> tuple[Tensor, Tensor]:
    """(z, KL to N(0, 1) per sample) in one pass."""
    return gaussian_rsample(mu, logvar, noise, seed, offset), gaussian_kl_sample(mu, logvar)


def gaussian_rsample_kl_backward(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    noise: Tensor | None,
    seed: Tensor | None,
    offset: int,
) -> tuple[Tensor, Tensor]:
    """grad_z + grad_kl mu, grad_z eps e^(logvar/2) / 2 + grad_kl (e^logvar - 1) / 2; a gradient that is None is 0."""
    c = compute_dtype(mu)
    m, lv = mu.to(c), logvar.to(c)
    dmu, dlogvar = torch.zeros_like(m), torch.zeros_like(lv)
    if grad_z is not None:
        g = grad_z.to(c)
        dmu, dlogvar = g, g * eps_like(mu, noise, seed, offset).to(c) * torch.exp(lv / 2) / 2
    if grad_kl is not None:
        gk = over_samples(grad_kl, mu).to(c)
        dmu, dlogvar = dmu + gk * m, dlogvar + gk * torch.expm1(lv) / 2
    # + 0: where grad_kl is None dmu would be grad_z itself, and an op's result must not be its argument
    return laid_out_as(mu, (dmu + 0).to(mu.dtype)), laid_out_as(mu, dlogvar.to(mu.dtype))
