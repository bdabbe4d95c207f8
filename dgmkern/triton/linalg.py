"""The nuclear norm and polar factors: |B|_* = <Q, B>, where an error of Q's direction enters squared."""

import torch
from torch import Tensor

from ._polar import polar


def nuclear_norm(b: Tensor) -> Tensor:
    return norm_of(b, False)


def norm_of(b: Tensor, low: bool) -> Tensor:
    """The nuclear norm, in low mode from a `polar` in low mode; NaN where a number is not finite. [...]"""
    finite = b.isfinite().flatten(-2).all(-1)
    return torch.where(finite, (polar(b, low) * b).sum((-2, -1)), torch.nan)


def polar_factor(b: Tensor) -> Tensor:
    return polar(b).contiguous()
