"""Square roots of symmetric positive semidefinite matrices, polar factors and nuclear norms, in plain torch and fp64.

Matrices are [..., D, D] (polar factors: [..., M, N]). An eigenvalue up to D eps times the largest is a rounding error.
Inputs on the CPU are looked at; elsewhere that would wait for the device.
"""

import math

import torch
from torch import Tensor

EPS = torch.finfo(torch.float64).eps


def checked(name: str, s: Tensor, rounding: float) -> None:
    """Raise ValueError unless `s` is finite and symmetric, up to `rounding` times its largest number."""
    if s.device.type != "cpu" or s.numel() == 0:
        return
    if not s.isfinite().all():
        raise ValueError(f"{name}: expected finite numbers, got {int((~s.isfinite()).sum())} that are not")
    by, largest = (s - s.mT).abs().max().item(), s.abs().max().item()
    if by > rounding * largest:
        raise ValueError(
            f"{name}: expected a symmetric matrix, got one that differs from its transpose by {by:.3g} (its largest "
            f"number: {largest:.3g}; rounding explains {rounding * largest:.3g})"
        )


def eigen(name: str, s: Tensor, rounding: float) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors of `s`, which is to have none below -`rounding` times its largest."""
    checked(name, s, rounding)
    values, vectors = torch.linalg.eigh((s + s.mT) / 2)
    vectors = vectors.contiguous()
    if s.device.type == "cpu" and s.numel() > 0:
        largest = values.abs().amax(-1)
        excess = values[..., 0] + rounding * largest
        if (excess < 0).any():
            at = excess.argmin()
            raise ValueError(
                f"{name}: expected a positive semidefinite matrix, got one with eigenvalues from "
                f"{values[..., 0].flatten()[at].item():.3g} to {values[..., -1].flatten()[at].item():.3g} (rounding "
                f"explains -{rounding * largest.flatten()[at].item():.3g})"
            )
    return values, vectors


def sqrtm(a: Tensor, rounding: float) -> tuple[Tensor, Tensor, Tensor]:
    """R = A^(1/2), its eigenvectors V and eigenvalues r [..., D]."""
    values, vectors = eigen("a", a, rounding)
    roots = values.clamp(min=0).sqrt()
    return spectral(vectors, roots), vectors, roots


def spectral(vectors: Tensor, values: Tensor) -> Tensor:
    """V diag(values) V^T, symmetric to the last bit."""
    result = (vectors * values.unsqueeze(-2)) @ vectors.mT
    return (result + result.mT) / 2


def negligible(roots: Tensor) -> Tensor:
    """Which square roots are those of rounding errors. [..., D] bool"""
    return roots <= math.sqrt(max(roots.shape[-1], 1) * EPS) * roots.amax(-1, keepdim=True)


def sqrtm_backward(grad: Tensor, root: Tensor, vectors: Tensor, roots: Tensor) -> Tensor:
    """X with R X + X R = grad: grad_ij / (r_i + r_j) in the eigenbasis; 0 between two eigenvalues that are 0."""
    null = negligible(roots)
    sums = (roots.unsqueeze(-1) + roots.unsqueeze(-2)).masked_fill(null.unsqueeze(-1) & null.unsqueeze(-2), math.inf)
    return vectors @ ((vectors.mT @ grad @ vectors) / sums) @ vectors.mT


def inverse_root(root: Tensor, vectors: Tensor, roots: Tensor) -> Tensor:
    """The pseudo-inverse of R."""
    return spectral(vectors, torch.where(negligible(roots), 0.0, 1 / roots))


def svd(b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U [..., M, K], the singular values [..., K], V [..., N, K]; K = min(M, N)."""
    u, values, vh = torch.linalg.svd(b, full_matrices=False)
    return u, values, vh.mT


def nuclear_norm(b: Tensor) -> Tensor:
    """The sum of the singular values; NaN where a number is not finite. [...]"""
    finite = b.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    norm = torch.linalg.svdvals(torch.where(finite, b, 0.0)).sum(-1)
    return torch.where(finite[..., 0, 0], norm, torch.nan)


def polar_factor(b: Tensor) -> Tensor:
    """U V^T without the singular vectors of rounding errors: the gradient of the nuclear norm."""
    u, values, v = svd(b)
    return (u * _range(values).unsqueeze(-2)) @ v.mT


def _range(values: Tensor) -> Tensor:
    """1 for singular values, 0 for rounding errors."""
    largest = values.amax(-1, keepdim=True) if values.shape[-1] else values
    return (values > values.shape[-1] * EPS * largest).to(values.dtype)


def polar_factor_backward(grad: Tensor, b: Tensor) -> Tensor:
    """The derivative of the polar factor Q = U V^T of B, which is its own adjoint:

    U (W - W^T) / (s_i + s_j) V^T + (I - U U^T) grad V S^-1 V^T + U S^-1 U^T grad (I - V V^T), W = U^T grad V
    (A. Kenney and A. Laub, "Polar decomposition and matrix sign function condition estimates", 1991).
    """
    u, values, v = svd(b)
    inside = _range(values)
    u, v = u * inside.unsqueeze(-2), v * inside.unsqueeze(-2)
    inverse = torch.where(inside > 0, 1 / values, 0.0)
    w = u.mT @ grad @ v
    sums = torch.where(
        (inside.unsqueeze(-1) * inside.unsqueeze(-2)) > 0, values.unsqueeze(-1) + values.unsqueeze(-2), math.inf
    )
    by_v, by_u = grad @ v, u.mT @ grad
    left = (by_v - u @ w) * inverse.unsqueeze(-2)
    right = inverse.unsqueeze(-1) * (by_u - w @ v.mT)
    return u @ ((w - w.mT) / sums) @ v.mT + left @ v.mT + u @ right
