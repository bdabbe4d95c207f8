"""Training losses of diffusion models, as the usual code writes them."""

import math

import torch

import dgmkern

from .case import Case
from .diffusion import SCHEDULE
from .reverse import column, doubled, eager_x0, levels, of_two_dimensions, steps_for


def mean(x):
    return x.mean(tuple(range(1, x.dim()))) if x.dim() > 1 else x


def wide(x):
    """Per-sample results are in fp32 at least."""
    return x if x.dtype == torch.float64 else x.float()


def eager_target(x0, noise, prediction):
    a, b = levels(steps_for(x0), x0)
    return {"eps": noise, "x0": x0, "v": a * noise - b * x0}[prediction]


def eager_mse(out, x0, *, noise, prediction, weighted=False):
    mse = wide(mean((out - eager_target(x0, noise, prediction)) ** 2))
    return mse * SCHEDULE.min_snr_weights(prediction)[steps_for(x0)].to(mse.dtype) if weighted else mse


def eager_vb(out, x0, x, logvar, prediction="eps"):
    """No case has t = 0: its likelihood is compared with mpmath in test_likelihood.py and test_bound.py."""
    predicted = eager_x0(out, x, prediction)
    q = column(SCHEDULE.posterior_log_variance_clipped, x)
    diff = column(SCHEDULE.posterior_mean_coef1, x) * (x0 - predicted)
    kl = 0.5 * (-1 + logvar - q + torch.exp(q - logvar) + diff**2 * torch.exp(-logvar))
    return wide(mean(kl)) / math.log(2)


def of_range(v, x):
    small, large = column(SCHEDULE.posterior_log_variance_clipped, x), column(SCHEDULE.betas.log(), x)
    return (v + 1) / 2 * large + (1 - v) / 2 * small


def eager_hybrid(model_out, x0, *, noise):
    out, v = model_out.chunk(2, 1)
    a, b = levels(steps_for(x0), x0)
    vb = eager_vb(out, x0, a * x0 + b * noise, of_range(v, x0), "v")
    return eager_mse(out, x0, noise=noise, prediction="v"), vb


def eager_prior(x0):
    """The closed form; with torch.distributions in test_bound.py."""
    abar = SCHEDULE.alphas_cumprod[-1].item()
    return (wide(mean(abar * x0**2 - abar - math.log1p(-abar)) / 2) / math.log(2),)


def mse_case(prediction, weighted):
    def weight(x0):
        return SCHEDULE.min_snr_weights(prediction).to(getattr(x0, "device", None))[steps_for(x0)] if weighted else None

    return Case(
        f"diffusion_mse_{prediction}",
        2,
        lambda o, x, offset=0, **k: (
            dgmkern.diffusion_mse(
                o, x, steps_for(x), SCHEDULE, prediction=prediction, weight=weight(x), offset=offset, **k
            ),
        ),
        lambda *x, noise: (eager_mse(*x, noise=noise, prediction=prediction, weighted=weighted),),
        True,
        splits=False,
        generates=False,
        by_reference=(1,),
    )


CASES = [
    mse_case("eps", False),
    mse_case("v", True),
    Case(
        "vb_terms",
        3,
        lambda o, x0, x: (dgmkern.vb_terms(o, x0, x, steps_for(x), SCHEDULE, variance="fixed_large"),),
        lambda o, x0, x: (eager_vb(o, x0, x, column(SCHEDULE.fixed_large_log_variance, x)),),
        False,
        by_reference=(1, 2),
    ),
    Case(
        "vb_terms_learned_range",
        4,
        lambda o, x0, x: (
            dgmkern.vb_terms(o, x0, x, steps_for(x), SCHEDULE, prediction="v", variance="learned_range"),
        ),
        lambda o, x0, x: (eager_vb(o.chunk(2, 1)[0], x0, x, of_range(o.chunk(2, 1)[1], x), "v"),),
        False,
        by_reference=(1, 2),
        domain=lambda x: [torch.cat(x[:2], 1), *x[2:]],
        fits=of_two_dimensions,
    ),
    Case(
        "hybrid_terms",
        3,
        lambda o, x, **k: dgmkern.hybrid_terms(o, x, steps_for(x), SCHEDULE, prediction="v", frozen_mean=False, **k),
        eager_hybrid,
        True,
        domain=doubled,
        fits=of_two_dimensions,
        noise_as=1,
        splits=False,
        generates=False,
        by_reference=(1,),
        limits=(0, 1),
    ),
    Case("prior_bound", 1, lambda x: (dgmkern.prior_bound(x, SCHEDULE),), eager_prior, False),
]
