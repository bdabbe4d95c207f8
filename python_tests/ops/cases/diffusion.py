"""Diffusion noising."""

import torch
from torch import Tensor

import dgmkern

from .case import Case

SCHEDULE = dgmkern.DiffusionSchedule.cosine(100)


def steps_for(x: Tensor) -> Tensor:
    """One step per sample, from all over the schedule."""
    return (torch.arange(len(x), device=getattr(x, "device", None)) * 37 + 5) % SCHEDULE.steps


def tables(x: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(abar_t), sqrt(1 - abar_t) in x's dtype, as eager code has them."""
    shape = (-1, *[1] * (x.dim() - 1))
    a = SCHEDULE.sqrt_alphas_cumprod[steps_for(x)].to(x.dtype).reshape(shape)
    return a, SCHEDULE.sqrt_one_minus_alphas_cumprod[steps_for(x)].to(x.dtype).reshape(shape)


def eager_q_sample(x0, *, noise):
    a, b = tables(x0)
    return (a * x0 + b * noise,)


def eager_q_sample_v(x0, *, noise):
    a, b = tables(x0)
    return a * x0 + b * noise, a * noise - b * x0


def eager_q_posterior(x0, x):
    shape = (-1, *[1] * (x.dim() - 1))
    a = SCHEDULE.posterior_mean_coef1[steps_for(x)].to(x.dtype).reshape(shape)
    return (a * x0 + SCHEDULE.posterior_mean_coef2[steps_for(x)].to(x.dtype).reshape(shape) * x,)


CASES = [
    Case(
        "q_sample",
        1,
        lambda x, **k: (dgmkern.q_sample(x, steps_for(x), SCHEDULE, **k),),
        eager_q_sample,
        True,
        splits=False,
    ),
    Case(
        "q_sample_eps",
        1,
        lambda x, **k: dgmkern.q_sample(x, steps_for(x), SCHEDULE, target="eps", **k),
        lambda x, noise: (*eager_q_sample(x, noise=noise), noise.clone()),
        True,
        splits=False,
    ),
    Case(
        "q_sample_v",
        1,
        lambda x, **k: dgmkern.q_sample(x, steps_for(x), SCHEDULE, target="v", **k),
        eager_q_sample_v,
        True,
        splits=False,
    ),
    Case(
        "q_posterior",
        2,
        lambda *x: dgmkern.q_posterior(*x, steps_for(x[0]), SCHEDULE)[:1],
        eager_q_posterior,
        False,
    ),
]
