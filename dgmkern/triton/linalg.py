"""The nuclear norm and polar factors: |B|_* = <Q, B>, where an error of Q's direction enters squared."""

import torch
from torch import Tensor

from ..reference.linalg import EPS
from ._polar import frobenius_norm, polar


def nuclear_norm(b: Tensor) -> Tensor:
    return norm_of(b, False)


def norm_of(b: Tensor, low: bool) -> Tensor:
    """The nuclear norm, in low mode from a `polar` in low mode; NaN where a number is not finite. [...]"""
    finite = b.isfinite().flatten(-2).all(-1)
    return torch.where(finite, (polar(b, low) * b).sum((-2, -1)), torch.nan)


def polar_factor(b: Tensor) -> Tensor:
    """Q P, B = Q H: P projects onto the eigenvectors of H but for rounding errors, by the sign of H - N eps |B|_F I."""
    if b.shape[-2] < b.shape[-1]:
        return polar_factor(b.mT).mT.contiguous()
    if b.numel() == 0:
        return torch.zeros_like(b)
    q, n = polar(b), b.shape[-1]
    h = q.mT @ b
    least = n * EPS * frobenius_norm(b) * torch.eye(n, dtype=b.dtype, device=b.device)
    return (q + q @ _sign((h + h.mT) / 2 - least)) / 2


def _sign(h: Tensor) -> Tensor:
    """Of a symmetric matrix: its polar factor. Near the null space rounding errors turn that; made symmetric again, it
    has eigenvalues of less than 1, which Newton-Schulz mends."""
    sign = polar(h)
    sign = (sign + sign.mT) / 2
    for _ in range(2):
        square = sign @ sign
        sign = (15 * sign - sign @ (10 * square - 3 * square @ square)) / 8
    return sign
