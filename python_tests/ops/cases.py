"""Every differentiable public op, once: how to call it, and what eager torch writes for it.

The contract tests (test_contract.py) run on each; a new op adds its cases here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import dgmkern

SCHEDULE = dgmkern.DiffusionSchedule.cosine(100)


@dataclass(frozen=True)
class Case:
    """`call` and `eager` take the inputs (all differentiable) and keyword noise= or seed= where the op draws."""

    name: str
    inputs: int  # number of tensors of the shape given
    call: Callable[..., tuple[Tensor, ...]]
    eager: Callable[..., tuple[Tensor, ...]]
    draws: bool

    def __str__(self) -> str:
        return self.name


def steps_for(x: Tensor) -> Tensor:
    """One step per sample, from all over the schedule."""
    return (torch.arange(len(x)) * 37 + 5) % SCHEDULE.steps


def tables(x: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(abar_t), sqrt(1 - abar_t) in x's dtype, as eager code has them."""
    shape = (-1, *[1] * (x.dim() - 1))
    a = SCHEDULE.sqrt_alphas_cumprod[steps_for(x)].to(x.dtype).reshape(shape)
    return a, SCHEDULE.sqrt_one_minus_alphas_cumprod[steps_for(x)].to(x.dtype).reshape(shape)


def summed(x: Tensor) -> Tensor:
    return x.sum(tuple(range(1, x.dim()))) if x.dim() > 1 else x


def eager_rsample(mu, logvar, *, noise):
    return (mu + torch.exp(0.5 * logvar) * noise,)


def eager_kl(mu, logvar):
    return (-0.5 * (1 + logvar - mu**2 - logvar.exp()),)


def eager_kl_between(mu, logvar, mu_p, logvar_p):
    return (0.5 * (logvar_p - logvar + (logvar.exp() + (mu - mu_p) ** 2) / logvar_p.exp() - 1),)


def eager_q_sample(x0, *, noise):
    a, b = tables(x0)
    return (a * x0 + b * noise,)


def eager_q_sample_v(x0, *, noise):
    a, b = tables(x0)
    return a * x0 + b * noise, a * noise - b * x0


CASES = [
    Case("gaussian_rsample", 2, lambda *x, **k: (dgmkern.gaussian_rsample(*x, **k),), eager_rsample, True),
    Case("gaussian_kl", 2, lambda *x: (dgmkern.gaussian_kl(*x),), eager_kl, False),
    Case(
        "gaussian_kl_sample",
        2,
        lambda *x: (dgmkern.gaussian_kl(*x, reduction="sample"),),
        lambda *x: (summed(eager_kl(*x)[0]),),
        False,
    ),
    Case("gaussian_kl_between", 4, lambda *x: (dgmkern.gaussian_kl(*x),), eager_kl_between, False),
    Case(
        "gaussian_kl_between_sample",
        4,
        lambda *x: (dgmkern.gaussian_kl(*x, reduction="sample"),),
        lambda *x: (summed(eager_kl_between(*x)[0]),),
        False,
    ),
    Case(
        "gaussian_rsample_kl",
        2,
        lambda *x, **k: dgmkern.gaussian_rsample_kl(*x, **k),
        lambda *x, noise: (*eager_rsample(*x, noise=noise), summed(eager_kl(*x)[0])),
        True,
    ),
    Case("q_sample", 1, lambda x, **k: (dgmkern.q_sample(x, steps_for(x), SCHEDULE, **k),), eager_q_sample, True),
    Case(
        "q_sample_eps",
        1,
        lambda x, **k: dgmkern.q_sample(x, steps_for(x), SCHEDULE, target="eps", **k),
        lambda x, noise: (*eager_q_sample(x, noise=noise), noise.clone()),
        True,
    ),
    Case(
        "q_sample_v",
        1,
        lambda x, **k: dgmkern.q_sample(x, steps_for(x), SCHEDULE, target="v", **k),
        eager_q_sample_v,
        True,
    ),
]
