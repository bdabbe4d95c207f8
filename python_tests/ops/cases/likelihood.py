"""Negative log-likelihoods per sample."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import dgmkern

from .case import Case, summed

DELTA = 1 / 255
NODES, WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(12))


def eager_gaussian(x, mean, logvar):
    return (summed(0.5 * (math.log(2 * math.pi) + logvar + (x - mean) ** 2 / logvar.exp())),)


def eager_discretized(x, mean, log_scale):
    """The integral of the density over the bin by Gauss-Legendre quadrature, of any dtype in its own digits; good for
    scales wider than a bin."""
    u, h = (x - mean) * torch.exp(-log_scale), DELTA * torch.exp(-log_scale)
    nodes = h.unsqueeze(-1) * NODES.to(x.dtype)
    terms = (WEIGHTS / 2).log().to(x.dtype) - u.unsqueeze(-1) * nodes - nodes**2 / 2
    inside = u**2 / 2 + math.log(2 * math.pi) / 2 + log_scale - math.log(2 * DELTA) - torch.logsumexp(terms, -1)
    a = torch.where(x > 0, h - u, h + u)
    outermost = -torch.special.log_ndtr(a.to(torch.promote_types(a.dtype, torch.float32))).to(a.dtype)
    return (summed(torch.where(x.abs() > 0.999, outermost, inside)),)


def pixels(z: list[Tensor]) -> list[Tensor]:
    """Normals -> x on the 256 levels of [-1, 1], log_scale in [-3, 0], mean some scales away."""
    x = torch.round((torch.tanh(z[0]) + 1) / 2 * 255) / 255 * 2 - 1
    log_scale = -1.5 + 1.5 * torch.tanh(z[2])
    return [x, x + torch.exp(log_scale) * z[1] / 2, log_scale]


CASES = [
    Case(
        "bernoulli_nll",
        2,
        lambda *x: (dgmkern.bernoulli_nll(*x),),
        lambda logits, x: (summed(F.binary_cross_entropy_with_logits(logits, x, reduction="none")),),
        False,
        domain=lambda z: [3 * z[0], torch.sigmoid(z[1])],
        limits=(0,),
    ),
    Case("gaussian_nll", 3, lambda *x: (dgmkern.gaussian_nll(*x),), eager_gaussian, False, limits=(0, 1, 2)),
    Case(
        "discretized_gaussian_nll",
        3,
        lambda *x: (dgmkern.discretized_gaussian_nll(*x),),
        eager_discretized,
        False,
        domain=pixels,
        limits=(0, 1, 2),
    ),
]
