"""What the tests of the DDPM share: a tiny one, and the formulas of the papers."""

import math

import torch

import dgmkern
from dgmkern.models.ddpm import DDPMConfig

TINY = DDPMConfig(channels=16, head_dim=32, timesteps=20)


def perturbed(model: torch.nn.Module) -> torch.nn.Module:
    """Weights away from the zero initialization of the last layers, so that everything takes part."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def predicted_x0(prediction: str, out, x_t, abar):
    """x_0 by what the network predicts."""
    if prediction == "eps":
        return (x_t - (1 - abar).sqrt() * out) / abar.sqrt()
    return out if prediction == "x0" else abar.sqrt() * x_t - (1 - abar).sqrt() * out


def posterior(s: dgmkern.DiffusionSchedule, x0, x_t, t):
    """Mean of q(x_{t-1} | x_t, x_0), its log variance (of t = 1 at t = 0) and log beta_t: equations 6 and 7."""
    betas = s.betas
    abar = torch.cumprod(1 - betas, 0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    variance = betas * (1 - before) / (1 - abar)
    variance[0] = variance[1]
    b, a, p = (table[t].reshape(-1, 1, 1, 1) for table in (betas, abar, before))
    mean = b * p.sqrt() / (1 - a) * x0 + (1 - p) * (1 - b).sqrt() / (1 - a) * x_t
    return mean, variance[t].reshape(-1, 1, 1, 1).log(), b.log()


def decoder_nll(x0, mean, std):
    """-log of the normal's mass in x_0's bin, open at the ends (equation 13), from the tail that does not cancel."""
    low, high = (x0 - 1 / 255 - mean) / std, (x0 + 1 / 255 - mean) / std
    flip = low + high > 0
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    ends = x0 < -0.999, x0 > 0.999
    no_low, no_high = torch.where(flip, ends[1], ends[0]), torch.where(flip, ends[0], ends[1])
    below, above = (torch.special.erfc(-z / math.sqrt(2)) / 2 for z in (low, high))
    return -(torch.where(no_high, 1.0, above) - torch.where(no_low, 0.0, below)).log()


def drawn_steps(steps: int, n: int, seed: int) -> torch.Tensor:
    """The t that `DDPM.loss` draws uniformly: floor(T u), u the weights of `interpolate` 2^40 along the stream."""
    u = dgmkern.interpolate(torch.ones(n, 1), torch.zeros(n, 1), seed=seed, offset=1 << 40)
    return (u[:, 0].double() * steps).floor().long()
