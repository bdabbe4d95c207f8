"""Diagonal Gaussians."""

import torch

import dgmkern

from .case import Case, summed


def eager_rsample(mu, logvar, *, noise):
    return (mu + torch.exp(0.5 * logvar) * noise,)


def eager_kl(mu, logvar):
    return (-0.5 * (1 + logvar - mu**2 - logvar.exp()),)


def eager_kl_between(mu, logvar, mu_p, logvar_p):
    return (0.5 * (logvar_p - logvar + (logvar.exp() + (mu - mu_p) ** 2) / logvar_p.exp() - 1),)


CASES = [
    Case("gaussian_rsample", 2, lambda *x, **k: (dgmkern.gaussian_rsample(*x, **k),), eager_rsample, True, limits=(1,)),
    Case("gaussian_kl", 2, lambda *x: (dgmkern.gaussian_kl(*x),), eager_kl, False, limits=(1,)),
    Case(
        "gaussian_kl_sample",
        2,
        lambda *x: (dgmkern.gaussian_kl(*x, reduction="sample"),),
        lambda *x: (summed(eager_kl(*x)[0]),),
        False,
        limits=(1,),
    ),
    Case("gaussian_kl_between", 4, lambda *x: (dgmkern.gaussian_kl(*x),), eager_kl_between, False, limits=(0, 1, 2, 3)),
    Case(
        "gaussian_kl_between_sample",
        4,
        lambda *x: (dgmkern.gaussian_kl(*x, reduction="sample"),),
        lambda *x: (summed(eager_kl_between(*x)[0]),),
        False,
        limits=(0, 1, 2, 3),
    ),
    Case(
        "gaussian_rsample_kl",
        2,
        lambda *x, **k: dgmkern.gaussian_rsample_kl(*x, **k),
        lambda *x, noise: (*eager_rsample(*x, noise=noise), summed(eager_kl(*x)[0])),
        True,
        limits=(1,),
    ),
]
