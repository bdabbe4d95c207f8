"""The trace term of the Frechet distance, from covariances and from features: nuclear norms of products of factors."""

import math

import torch
from torch import Tensor

from ..reference.linalg import EPS
from ._factor import factor
from ._polar import polar
from ._polar_steps import least_converged
from .linalg import norm_of

FP32 = torch.finfo(torch.float32).eps


def nearest_psd(s: Tensor, name: str, rounding: float) -> Tensor:
    """(S + |S|) / 2, |S| = Q S with the polar factor Q of S: no eigenvectors, for which one waits for the device."""
    s = (s + s.mT) / 2
    absolute = polar(s) @ s
    return (s + (absolute + absolute.mT) / 2) / 2


def trace_sqrtm_product(s1: Tensor, s2: Tensor, rounding: float) -> Tensor:
    """In low mode where rounding is that of fp32 covariances."""
    l1, l2 = factor(torch.stack([s1, s2]))
    trace = norm_of(l1.mT @ l2, low=rounding > s1.shape[-1] * FP32)
    finite = (s1.isfinite() & s2.isfinite()).flatten(-2).all(-1)
    return torch.where(finite, trace, torch.nan)


def trace_sqrtm_product_bounded(s1: Tensor, s2: Tensor, rounding: float) -> tuple[Tensor, Tensor]:
    """In strict mode, with the bound of csrc/cpu/frechet.cpp and what singular values that do not come to 1 leave."""
    s = torch.stack([s1, s2])
    l = factor(s)
    (l1, l2), d = l, s1.shape[-1]
    product = l1.mT @ l2
    finite = s.isfinite().flatten(-2).all(-1).all(0)
    trace = torch.where(finite, norm_of(product, low=False), torch.nan)
    (norm1, norm2), (error1, error2) = l.flatten(-2).norm(dim=-1), _errors(s, l)
    left = d * least_converged("strict") * product.flatten(-2).norm(dim=-1)
    rounded = 16 * d * math.sqrt(d) * EPS * norm1 * norm2
    return trace, error1 * (norm2 + error2) + error2 * norm1 + rounded + left


def _errors(s: Tensor, l: Tensor) -> Tensor:
    """Bounds on |S^(1/2) - (L L^T)^(1/2)|_F. [...]"""
    d, diagonal = s.shape[-1], s.diagonal(dim1=-2, dim2=-1)
    largest, empty, rank = diagonal.amax(-1), (diagonal == 0).sum(-1), l.any(-2).sum(-1)
    e = 16 * d * EPS * torch.where(largest > 0, largest, 1.0)
    identity = torch.eye(d, dtype=s.dtype, device=s.device)
    ridged = torch.linalg.cholesky_ex((s + s.mT) / 2 + e[..., None, None] * identity).L
    inverse = torch.linalg.solve_triangular(ridged, identity.expand_as(s), upper=False)
    squares = inverse.square().sum((-2, -1)) - empty / e
    left_out = (d - empty - rank) * 2 * d * EPS * largest
    return torch.where(largest > 0, 2 * e * squares.sqrt() + left_out.sqrt(), 0.0)
