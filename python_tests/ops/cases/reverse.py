"""Reverse diffusion steps, as the usual code writes them: x_0 first, then the step."""

import torch

import dgmkern

from .case import Case
from .diffusion import SCHEDULE


def steps_for(x):
    """One step per sample, with room for a step before it."""
    return (torch.arange(len(x), device=getattr(x, "device", None)) * 37 + 5) % (SCHEDULE.steps - 7)


def column(table, x):
    return table[steps_for(x)].to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))


def next_steps(x):
    """Where the DDIM and DPM-Solver cases go: some ten steps down, or to x_0."""
    return (steps_for(x) - 11).clamp(min=-1)


def last_steps(x):
    return steps_for(x) + 7


def levels(t, x):
    """sqrt(abar_t), sqrt(1 - abar_t), with 1 and 0 at t = -1."""
    one = torch.ones(1, dtype=torch.float64)
    shape = (-1, *[1] * (x.dim() - 1))
    signal, sigma = (
        torch.cat([one, SCHEDULE.sqrt_alphas_cumprod]),
        torch.cat([0 * one, SCHEDULE.sqrt_one_minus_alphas_cumprod]),
    )
    return signal[t + 1].to(x.dtype).reshape(shape), sigma[t + 1].to(x.dtype).reshape(shape)


def eager_x0(out, x, prediction):
    a, b = levels(steps_for(x), x)
    return {"eps": lambda: (x - b * out) / a, "x0": lambda: out, "v": lambda: a * x - b * out}[prediction]()


def eager_p_sample(out, x, *, noise, prediction="eps", clip=None, logvar=None):
    x0 = eager_x0(out, x, prediction)
    if clip == "dynamic":
        flat = x0.abs().double().reshape(len(x0), x0[:1].numel())
        bound = torch.quantile(flat, 0.9, dim=1) if flat.numel() else torch.ones(len(x0))
        bound = bound.clamp(min=1).to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))
        x0 = torch.minimum(torch.maximum(x0, -bound), bound) / bound
    elif clip is not None:
        x0 = x0.clamp(-clip, clip)
    mean = column(SCHEDULE.posterior_mean_coef1, x) * x0 + column(SCHEDULE.posterior_mean_coef2, x) * x
    logvar = column(SCHEDULE.posterior_log_variance_clipped, x) if logvar is None else logvar
    return mean + (steps_for(x).reshape(-1, *[1] * (x.dim() - 1)) != 0) * torch.exp(logvar / 2) * noise, x0


def eager_learned_range(model_out, x, *, noise):
    out, v = model_out.chunk(2, 1)
    small, large = column(SCHEDULE.posterior_log_variance_clipped, x), column(SCHEDULE.betas.log(), x)
    frac = (v + 1) / 2
    return (eager_p_sample(out, x, noise=noise, clip=1.0, logvar=frac * large + (1 - frac) * small)[0],)


def eager_ddim(out, x, *, noise, eta=0.0):
    a, b = levels(steps_for(x), x)
    a2, b2 = levels(next_steps(x), x)
    x0 = eager_x0(out, x, "eps")
    sigma = eta * b2 / b * torch.sqrt((1 - a**2 / a2**2).clamp(min=0))
    return (a2 * x0 + torch.sqrt((b2**2 - sigma**2).clamp(min=0)) * out + sigma * noise,)


def eager_dpm_solver(out, x, last):
    a, b = levels(steps_for(x), x)
    a2, b2 = levels(next_steps(x), x)
    a1, b1 = levels(last_steps(x), x)
    x0 = eager_x0(out, x, "v")
    h, h_last = torch.log(a2 / b2) - torch.log(a / b), torch.log(a / b) - torch.log(a1 / b1)
    ratio = torch.where(b2 > 0, h / (2 * h_last), 0.0)
    d = torch.where(ratio == 0, x0, (1 + ratio) * x0 - ratio * last)
    return b2 / b * x - a2 * torch.expm1(-h) * d, x0


def doubled(x):
    """Three normals as (model_out [N, 2 C, ...], x_t)."""
    return [torch.cat(x[:2], 1), x[2]]


def p_sample(out, x, **how):
    return dgmkern.p_sample(out, x, steps_for(x), SCHEDULE, **how)


def of_two_dimensions(shape):
    return len(shape) >= 2


CASES = [
    Case(
        "p_sample",
        2,
        lambda *x, **k: (p_sample(*x, **k),),
        lambda *x, noise: eager_p_sample(*x, noise=noise)[:1],
        True,
        splits=False,
    ),
    Case(
        "p_sample_x0_v_clip",
        2,
        lambda *x, **k: p_sample(*x, prediction="v", clip=1.0, return_x0=True, **k),
        lambda *x, noise: eager_p_sample(*x, noise=noise, prediction="v", clip=1.0),
        True,
        splits=False,
    ),
    Case(
        "p_sample_dynamic",
        2,
        lambda *x, **k: (p_sample(*x, prediction="x0", clip="dynamic", quantile=0.9, **k),),
        lambda *x, noise: eager_p_sample(*x, noise=noise, prediction="x0", clip="dynamic")[:1],
        True,
        limits=(0,),
        ties=True,
        splits=False,
    ),
    Case(
        "p_sample_learned_range",
        3,
        lambda *x, **k: (p_sample(*x, variance="learned_range", clip=1.0, **k),),
        eager_learned_range,
        True,
        domain=doubled,
        fits=of_two_dimensions,
        noise_as=1,
        splits=False,
    ),
    Case(
        "ddim_step",
        2,
        lambda o, x: (dgmkern.ddim_step(o, x, steps_for(x), next_steps(x), SCHEDULE),),
        lambda o, x: eager_ddim(o, x, noise=0.0),
        False,
        limits=(0,),
    ),
    Case(
        "ddim_step_eta",
        2,
        lambda o, x, **k: (dgmkern.ddim_step(o, x, steps_for(x), next_steps(x), SCHEDULE, eta=0.7, **k),),
        lambda o, x, noise: eager_ddim(o, x, noise=noise, eta=0.7),
        True,
        limits=(0,),
        splits=False,
    ),
    Case(
        "dpm_solver_step",
        3,
        lambda o, x, last: dgmkern.dpm_solver_step(
            o, x, steps_for(x), next_steps(x), SCHEDULE, x0_last=last, t_last=last_steps(x), prediction="v"
        ),
        eager_dpm_solver,
        False,
    ),
]
