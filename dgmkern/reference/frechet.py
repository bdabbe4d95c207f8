"""The trace term of the Frechet distance, from covariances and from features, in plain torch and fp64."""

import math

import torch
from torch import Tensor

from .linalg import EPS, checked, eigen, nuclear_norm, polar_factor, spectral, svd


def nearest_psd(s: Tensor, name: str, rounding: float) -> Tensor:
    """S without its negative eigenvalues: the nearest semidefinite matrix (N. Higham, 1988); itself if it has a
    Cholesky factor (2048 x 2048, one thread: 0.4 s; with eigenvectors 2 s)."""
    if s.device.type == "cpu":
        checked(name, s, rounding)
        s = (s + s.mT) / 2
        if not torch.linalg.cholesky_ex(s).info.any():
            return s
    values, vectors = eigen(name, s, rounding)
    return spectral(vectors, values.clamp(min=0))


def covariance_factor(sigma: Tensor, rounding: float) -> Tensor:
    """F [D, D] with F^T F = sigma; its last rows have the largest eigenvalues, those of rounding errors are 0."""
    return factor("sigma", sigma, rounding)[0].mT.contiguous()


def factor(name: str, s: Tensor, rounding: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """L = V diag(r) with S = L L^T, r [..., D] (0 for rounding errors), V, and a bound on |S^(1/2) - (L L^T)^(1/2)|_F.

    With E = S - L L^T the element i, j of the difference of the roots, in the eigenvectors of both, is that of E over
    sqrt(a_i) + sqrt(b_j). Its square is at most |E_ij|^2 / a_i, and also at most |E_ij| times the square of the product
    of the two vectors, so that the sum over all is at most sum_i min(e, e^2 / a_i) <= 2 e^2 tr (S + e I)^-1, e = |E|_2
    (compare R. Powers and E. Stoermer, 1970). e is taken as 8 D eps |S|_2, and twice that, since S is as inexact
    itself; rows of zeros have no error.
    """
    values, vectors = eigen(name, s, rounding)
    largest = values.abs().amax(-1, keepdim=True)
    is_real = values > s.shape[-1] * EPS * largest
    roots = torch.where(is_real, values, 0.0).sqrt()
    e = 16 * s.shape[-1] * EPS * largest
    empty = (s.diagonal(dim1=-2, dim2=-1) == 0).sum(-1, keepdim=True)
    squares = 4 * e * ((e / (values.clamp(min=0) + e)).sum(-1, keepdim=True) - empty)
    error = torch.where(largest > 0, squares.clamp(min=0).sqrt(), 0.0)
    return vectors * roots.unsqueeze(-2), roots, vectors, error.squeeze(-1)


def trace_sqrtm_product(s1: Tensor, s2: Tensor, rounding: float) -> Tensor:
    """tr (S1 S2)^(1/2) = |L1^T L2|_* for S = L L^T. [...]"""
    return nuclear_norm(factor("sigma1", s1, rounding)[0].mT @ factor("sigma2", s2, rounding)[0])


def trace_sqrtm_product_bounded(s1: Tensor, s2: Tensor, rounding: float) -> tuple[Tensor, Tensor]:
    """The same, and a bound on its error, [...]: of |S1^(1/2) S2^(1/2) - S1'^(1/2) S2'^(1/2)|_*, by factors not exact,
    and of the rounding of the product and of its singular values."""
    (l1, roots1, _, error1), (l2, roots2, _, error2) = (
        factor(name, s, rounding) for name, s in (("sigma1", s1), ("sigma2", s2))
    )
    d, norm1, norm2 = s1.shape[-1], roots1.norm(dim=-1), roots2.norm(dim=-1)  # |L|_F = (tr S)^(1/2)
    rounded = 16 * d * math.sqrt(d) * EPS * norm1 * norm2
    return nuclear_norm(l1.mT @ l2), error1 * (norm2 + error2) + error2 * norm1 + rounded


def trace_sqrtm_product_backward(grad: Tensor, s1: Tensor, s2: Tensor, rounding: float) -> tuple[Tensor, Tensor]:
    """grad times S1^-1 # S2 / 2 and S2^-1 # S1 / 2 (geometric means), as L1^-T Q L2^T / 2 with the polar factor Q of
    L1^T L2. I / 2 where both are the same, and over the null space that they share: of all supergradients there, the
    one for which a distance between equals has none.
    """
    (l1, roots1, v1, _), (l2, roots2, v2, _) = factor("sigma1", s1, rounding), factor("sigma2", s2, rounding)
    q = polar_factor(l1.mT @ l2)
    inverse1, inverse2 = (v * torch.where(r > 0, 1 / r, 0.0).unsqueeze(-2) for v, r in ((v1, roots1), (v2, roots2)))
    identity = torch.eye(s1.shape[-1], dtype=s1.dtype, device=s1.device)
    shared = _shared_null(v1, roots1, v2, roots2)
    same = (s1 == s2).flatten(-2).all(-1)[..., None, None]
    grads = []
    for mean in (inverse1 @ q @ l2.mT, inverse2 @ q.mT @ l1.mT):
        mean = torch.where(same, identity, (mean + mean.mT) / 2 + shared)
        grads.append(mean * (grad / 2)[..., None, None])
    return grads[0], grads[1]


def _shared_null(v1: Tensor, roots1: Tensor, v2: Tensor, roots2: Tensor) -> Tensor:
    """The projector onto the null space that both matrices have."""
    if roots1.device.type == "cpu" and ((roots1 > 0).all() or (roots2 > 0).all()):
        return torch.zeros_like(v1)
    ranges = torch.cat([v * (roots > 0).unsqueeze(-2) for v, roots in ((v1, roots1), (v2, roots2))], -1)
    u, values, _ = svd(ranges)
    u = u * (values < math.sqrt(EPS)).to(u.dtype).unsqueeze(-2)
    return u @ u.mT


def reduced(a: Tensor) -> tuple[Tensor | None, Tensor]:
    """(Q, R) with A = Q R where A has more rows than columns, else (None, A)."""
    return (None, a) if a.shape[0] <= a.shape[1] else torch.linalg.qr(a)


def feature_rounding(shape1: tuple[int, int], shape2: tuple[int, int]) -> float:
    """A bound on the rounding of |A1 A2^T|_* (product, factors, singular values), over |A1|_F |A2|_F."""
    n, m = shape1[0], shape2[0]
    size = min(*shape1, *shape2)
    return 16 * (n + m + shape1[1]) * math.sqrt(size) * EPS
