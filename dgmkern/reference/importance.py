"""Importance weights of diagonal Gaussians in plain torch: k samples of each datum, [N, k, ...]."""

import torch
from torch import Tensor

from .gaussian import compute_dtype
from .noise import normal


def samples_shape(mu: Tensor, k: int) -> list[int]:
    """The shape of k samples of each datum: [N, k, ...]."""
    return [mu.shape[0], k, *mu.shape[1:]]


def over_dimensions(grad: Tensor, mu: Tensor) -> Tensor:
    """`grad` [N, k] -> broadcastable over the samples."""
    return grad.reshape(*grad.shape, *[1] * (mu.dim() - 1))


def _drawn(
    mu: Tensor, logvar: Tensor, k: int, noise: Tensor | None, seed: Tensor | None, offset: int
) -> tuple[Tensor, Tensor, Tensor]:
    """mu and logvar [N, 1, ...] and the noise [N, k, ...], as the formulas use them."""
    c = compute_dtype(mu)
    eps = noise if noise is not None else normal(samples_shape(mu, k), seed, offset, torch.float32)
    return mu.to(c).unsqueeze(1), logvar.to(c).unsqueeze(1), eps.to(c)


def gaussian_log_ratio(
    mu: Tensor, logvar: Tensor, k: int, noise: Tensor | None, seed: Tensor | None, offset: int
) -> tuple[Tensor, Tensor]:
    """z = mu + exp(logvar / 2) eps, and log p(z) - log q(z) = sum (eps^2 + logvar - z^2) / 2, [N, k].

    The squares cancel where q is near p: eps^2 - z^2 = -(z - eps)(z + eps) with z - eps = mu + (sigma - 1) eps.
    """
    m, lv, eps = _drawn(mu, logvar, k, noise, seed, offset)
    z = m + torch.exp(lv / 2) * eps
    ratio = (lv - (m + torch.expm1(lv / 2) * eps) * (z + eps)) / 2
    return z.to(mu.dtype).contiguous(), ratio.sum(tuple(range(2, z.dim()))) if z.dim() > 2 else ratio.contiguous()


def gaussian_log_ratio_backward(
    grad_z: Tensor | None,
    grad_log_ratio: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    k: int,
    noise: Tensor | None,
    seed: Tensor | None,
    offset: int,
) -> tuple[Tensor, Tensor]:
    """a = grad_z - grad_log_ratio z: sums over the samples of a, and of (a eps exp(logvar / 2) + grad_log_ratio) / 2.

    A gradient that is None is zero.
    """
    m, lv, eps = _drawn(mu, logvar, k, noise, seed, offset)
    sigma = torch.exp(lv / 2)
    g = torch.zeros_like(eps) if grad_z is None else grad_z.to(eps.dtype)
    gr = g.new_zeros(()) if grad_log_ratio is None else over_dimensions(grad_log_ratio.to(eps.dtype), mu)
    a = g - gr * (m + sigma * eps)
    dlogvar = (a * eps * sigma + gr) / 2
    return a.sum(1).to(mu.dtype).contiguous(), dlogvar.sum(1).to(mu.dtype).contiguous()
