"""Importance weights."""

import torch

import dgmkern

from .case import Case

K = 3


def eager_log_ratio(mu, logvar, *, noise):
    z = mu.unsqueeze(1) + torch.exp(0.5 * logvar.unsqueeze(1)) * noise
    terms = 0.5 * (noise**2 + logvar.unsqueeze(1) - z**2)
    return z, terms.sum(tuple(range(2, z.dim()))) if z.dim() > 2 else terms


CASES = [
    Case(
        "gaussian_log_ratio",
        2,
        lambda *x, **k: dgmkern.gaussian_log_ratio(*x, K, **k),
        eager_log_ratio,
        True,
        samples=K,
        limits=(1,),
    ),
]
