"""The trace term of the Frechet distance, from covariances and from features: nuclear norms of products of factors."""

import torch
from torch import Tensor

from ..reference.frechet import reduced
from ._factor import factor
from ._polar import polar
from .linalg import norm_of, polar_factor

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


def feature_trace(a1: Tensor, a2: Tensor) -> Tensor:
    return norm_of(reduced(a1)[1] @ reduced(a2)[1].mT, low=False)


def feature_trace_backward(grad: Tensor, a1: Tensor, a2: Tensor) -> tuple[Tensor, Tensor]:
    (q1, r1), (q2, r2) = reduced(a1), reduced(a2)
    q = grad * polar_factor(r1 @ r2.mT)
    by1, by2 = q @ r2, q.mT @ r1
    return by1 if q1 is None else q1 @ by1, by2 if q2 is None else q2 @ by2
