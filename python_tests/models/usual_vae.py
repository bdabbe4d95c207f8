"""The VAE's loss as it is usually written, in torch.distributions, and models to compare on; no test is here.

Run as a script with another `DGMKERN_BACKEND`, it saves the weights of `trained_twenty_steps`.
"""

import dataclasses
import math
import sys
from typing import NamedTuple

import numpy as np
import scipy.stats
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from dgmkern import normal
from dgmkern.data import load, to_signed
from dgmkern.models.vae import VAE, VAEConfig

SHAPE = (2, 5, 6)
MLP = VAEConfig(encoder=(16, 12), decoder=(12, 16), latent=3)
CONV = dataclasses.replace(MLP, network="conv", encoder=(16, 32), decoder=(32, 16))
LIKELIHOODS = ["bernoulli", "gaussian", "discretized_gaussian"]
CURES = {
    "elbo": {},
    "beta": {"beta": 3.0},
    "linear": {"kl_schedule": "linear", "kl_steps": 40},
    "cyclical": {"kl_schedule": "cyclical", "kl_steps": 14},
    "free_bits": {"free_bits": 0.3},
    "fixed_variance": {"posterior_logvar": -1.5},
    "skip": {"skip": True},
    "iwae": {"samples": 5},
    "iwae_linear": {"samples": 2, "kl_schedule": "linear", "kl_steps": 40},
    "semi_amortized": {"refinement": "semi_amortized", "refinement_steps": 2},
    "semi_amortized_fixed": {"refinement": "semi_amortized", "posterior_logvar": -1.5, "refinement_size": 0.05},
}


def images(n: int, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    """Of 256 levels, 0 and 255 among them."""
    generator = torch.Generator().manual_seed(3)
    levels = torch.randint(0, 256, (n, *shape), generator=generator)
    levels[:, :, 0], levels[:, :, 1] = 0, 255
    return to_signed(levels.to(torch.uint8))


def make(config: VAEConfig, shape: tuple[int, int, int] = SHAPE) -> VAE:
    torch.manual_seed(1)
    model = VAE(config, shape)
    for p in model.parameters():
        p.data.add_(0.05 * torch.randn_like(p))
    return model


def log_likelihood(model: VAE, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    out = model.decoder(z)
    if model.config.likelihood == "bernoulli":
        return Bernoulli(logits=out, validate_args=False).log_prob((x + 1) / 2).sum((1, 2, 3))
    if model.config.likelihood == "gaussian":
        return Normal(out, torch.exp(model.logvar / 2)).log_prob(x).sum((1, 2, 3))
    mean, log_scale = out[:, : x.shape[1]], out[:, x.shape[1] :]
    centred, sign = x - mean, torch.where(x > mean, -1.0, 1.0)  # mirrored into the lower tail, where digits are kept
    bounds = [(centred + side / 255) / torch.exp(log_scale) for side in (1, -1)]
    bounds = [bounds[0].masked_fill(x > 0.999, 1e3), bounds[1].masked_fill(x < -0.999, -1e3)]
    one, other = (torch.special.log_ndtr(sign * bound) for bound in bounds)
    larger, smaller = torch.maximum(one, other), torch.minimum(one, other)
    return (larger + torch.log(-torch.expm1(smaller - larger))).sum((1, 2, 3))


def posterior(model: VAE, x: torch.Tensor) -> list[torch.Tensor]:
    out, d = model.encoder(x), model.config.latent
    fixed = model.config.posterior_logvar
    return [out[:, :d], out[:, d:] if fixed is None else torch.full_like(out, fixed)]


def drawn(q: list[torch.Tensor], seed: int, stretch: int = 0) -> torch.Tensor:
    return q[0] + torch.exp(q[1] / 2) * normal(q[0].shape, seed, offset=stretch << 40, dtype=q[0].dtype)


def kl_per_unit(q: list[torch.Tensor]) -> torch.Tensor:
    return kl_divergence(Normal(q[0], torch.exp(q[1] / 2)), Normal(torch.zeros_like(q[0]), 1.0))


def usual_loss(model: VAE, x: torch.Tensor, seed: int, step: int) -> torch.Tensor:
    c, q = model.config, posterior(model, x)
    beta = c.beta
    if c.kl_schedule == "linear":
        beta *= min(step / c.kl_steps, 1)
    elif c.kl_schedule == "cyclical":
        beta *= min(step % c.kl_steps / (c.kl_steps / 2), 1)
    if c.samples > 1:
        p, std = Normal(0.0, 1.0), torch.exp(q[1] / 2)
        eps = normal((len(x), c.samples, c.latent), seed, dtype=x.dtype)
        log_weights = []
        for i in range(c.samples):
            z = q[0] + std * eps[:, i]
            log_ratio = (p.log_prob(z) - Normal(q[0], std).log_prob(z)).sum(1)
            log_weights.append(log_likelihood(model, x, z) + beta * log_ratio)
        return -(torch.stack(log_weights).logsumexp(0) - math.log(c.samples)).mean()
    if c.refinement == "semi_amortized":
        for i in range(c.refinement_steps):
            bound = log_likelihood(model, x, drawn(q, seed, 2 * i + 1)) - beta * kl_per_unit(q).sum(1)
            moving = q[:1] if c.posterior_logvar is not None else q
            slopes = torch.autograd.grad(bound.sum(), moving, create_graph=True)
            q = [p + c.refinement_size * g for p, g in zip(moving, slopes, strict=True)] + q[len(moving) :]
    kl = kl_per_unit(q)
    if c.free_bits:
        kl = torch.maximum(kl.mean(0), torch.tensor(c.free_bits, dtype=x.dtype)).sum()
    else:
        kl = kl.sum(1).mean()
    return beta * kl - log_likelihood(model, x, drawn(q, seed)).mean()


STEPS = 20


def train(model: VAE, loss, x: torch.Tensor, steps: int, lr: float = 1e-3) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(steps):
        batch = x[torch.arange(step * 64, step * 64 + 64) % len(x)]
        optimizer.zero_grad()
        loss(model, batch, seed=step, step=step).backward()
        optimizer.step()


class LinearGaussian(NamedTuple):
    """PPCA in closed form, fp64: x = W z + N(0, 0.2)."""

    model: VAE  # with that decoder, and an arbitrary linear encoder
    x: torch.Tensor
    log_p: torch.Tensor  # log p(x), [N]
    mean: torch.Tensor  # of p(z|x), [N, D]
    covariance: torch.Tensor  # of p(z|x), [D, D]; diagonal for orthogonal loadings W


def linear_gaussian(*, orthogonal: bool, **settings) -> LinearGaussian:
    rng = np.random.default_rng(1)
    loadings, sigma2 = rng.standard_normal((12, 2)), 0.2
    if orthogonal:
        loadings = np.linalg.qr(loadings)[0] * np.array([1.2, 0.6])
    x = rng.standard_normal((40, 2)) @ loadings.T + math.sqrt(sigma2) * rng.standard_normal((40, 12))
    torch.manual_seed(1)
    config = VAEConfig(encoder=(), decoder=(), latent=2, likelihood="gaussian", **settings)
    model = VAE(config, (1, 3, 4)).double()
    with torch.no_grad():
        model.decoder.layers[0].weight.copy_(torch.from_numpy(loadings))
        model.decoder.layers[0].bias.zero_()
        model.logvar.fill_(math.log(sigma2))
    covariance = np.linalg.inv(loadings.T @ loadings / sigma2 + np.eye(2))
    mean = x @ loadings / sigma2 @ covariance
    log_p = scipy.stats.multivariate_normal(np.zeros(12), loadings @ loadings.T + sigma2 * np.eye(12)).logpdf(x)
    x, log_p, mean, covariance = (torch.from_numpy(a) for a in (x, log_p, mean, covariance))
    return LinearGaussian(model, x.reshape(-1, 1, 3, 4), log_p, mean, covariance)


def trained_twenty_steps(loss, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Weights of every kind of VAE after 20 steps on digits."""
    x, weights = to_signed(load("digits").images).to(dtype), {}
    for likelihood in LIKELIHOODS:
        for network, cure in ((MLP, "elbo"), (MLP, "iwae"), (MLP, "free_bits"), (CONV, "cyclical")):
            model = make(dataclasses.replace(network, likelihood=likelihood, **CURES[cure]), (1, 8, 8)).to(dtype)
            train(model, loss, x, STEPS)
            weights |= {f"{likelihood}-{cure}.{key}": value for key, value in model.state_dict().items()}
    return weights


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.save(trained_twenty_steps(VAE.loss, torch.float64), sys.argv[1])
