"""Approximate posteriors of a VAE beyond its encoder: gradient steps for each datum, and Markov chains.

Every random number is a function of the seed; step number i uses the stretches of 2^40 numbers from (2 i + 1) 2^40 on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..metrics._features import check_count
from ..ops import gaussian_rsample, normal
from .frozen import frozen

if TYPE_CHECKING:
    from .vae import VAE, Posterior

_LEAPFROG_STEPS = 5  # of a trajectory in training


def log_joint(model: VAE, x: Tensor) -> Callable[[Tensor], Tensor]:
    """z [N, D] -> log p(x, z) + D/2 log 2 pi, [N]: what a chain needs of the posterior p(z|x)."""
    return lambda z: model.log_likelihood(x, z) - z.square().sum(1) / 2


# ---- Variational inference for each datum ---------------------------------------------------------------------------


def svi(model: VAE, x: Tensor, *, seed: int, steps: int, lr: float = 0.05, q: Posterior | None = None) -> Posterior:
    """Stochastic variational inference: Adam on mu and logvar of each datum (Hoffman et al. 2013), from `q` on.

    Maximizes the ELBO with one fresh sample a step, the learning rate falling linearly to 0; the model stays as it is.
    `q` is the encoder's by default. A fixed log-variance of the config stays fixed. TypeError or ValueError unless
    `steps` is an integer >= 0.
    """
    check_count("steps", steps, 0)
    with torch.no_grad():
        q = model.posterior(x) if q is None else q
    q = type(q)(*(p.detach().clone().contiguous() for p in q))
    free = [q.mu] if model.config.posterior_logvar is not None else [q.mu, q.logvar]
    optimizer = torch.optim.Adam(free, lr=lr)  # elementwise: a datum does not depend on its neighbours
    for i in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - i / steps)
        for p, gradient in zip(free, _elbo_gradients(model, x, q, free, seed=seed, step=i), strict=True):
            p.grad = -gradient
        optimizer.step()
    return type(q)(*(p.detach() for p in q))


def amortization_gap(model: VAE, x: Tensor, *, seed: int, steps: int, lr: float = 0.05, samples: int = 100) -> Tensor:
    """ELBO after `svi` less the ELBO of the encoder, [N], nats (Cremer et al. 2018): what sharing the encoder costs.

    Both with the same `samples` samples of noise that `svi` did not see. TypeError or ValueError unless `samples` is an
    integer >= 1 and `steps` one >= 0.
    """
    check_count("samples", samples)
    refined = svi(model, x, seed=seed, steps=steps, lr=lr)
    gap = 0
    with torch.no_grad():
        amortized = model.posterior(x)
        for i in range(samples):
            offset = (2 * i) << 40
            of_refined, of_amortized = (model.elbo(x, seed=seed, q=q, offset=offset) for q in (refined, amortized))
            gap = gap + (of_refined.bound - of_amortized.bound)
    return gap / samples


def semi_amortized_loss(
    model: VAE,
    x: Tensor,
    *,
    seed: int | Tensor,
    steps: int,
    size: float,
    beta: float | Tensor = 1.0,
    first: int = 0,
) -> Tensor:
    """Minus the ELBO after `steps` gradient steps on the encoder's mu and logvar (Kim et al. 2018), batch mean, nats.

    Differentiable through the steps: the encoder learns to start where they end well. A step is `size` times the
    gradient of each datum's ELBO with fresh noise. `first` is the number of x's first datum in that noise.
    """
    q = model.posterior(x)
    numbered = {"seed": seed, "offset": first * model.config.latent}
    for i in range(steps):
        free = [q.mu] if model.config.posterior_logvar is not None else [q.mu, q.logvar]
        gradients = _elbo_gradients(model, x, q, free, step=i, beta=beta, create_graph=True, **numbered)
        moved = [p + size * gradient for p, gradient in zip(free, gradients, strict=True)]
        q = type(q)(*moved, *q[len(moved) :])
    terms = model.elbo(x, q=q, **numbered)
    return (beta * terms.kl - terms.log_likelihood).mean()


def _elbo_gradients(
    model: VAE,
    x: Tensor,
    q: Posterior,
    free: list[Tensor],
    *,
    seed: int,
    step: int,
    beta: float = 1.0,
    offset: int = 0,
    **options: bool,
) -> tuple[Tensor, ...]:
    """Gradients of each datum's log p(x|z) - beta KL by the `free` parameters of `q`."""
    with torch.enable_grad():
        for p in free:
            if p.is_leaf:
                p.requires_grad_()
        terms = model.elbo(x, seed=seed, q=q, offset=((2 * step + 1) << 40) + offset)
        return torch.autograd.grad((terms.log_likelihood - beta * terms.kl).sum(), free, **options)


# ---- Markov chains --------------------------------------------------------------------------------------------------


class Chain(NamedTuple):
    """Last states `z` [N, D] of N chains, and `accepted` [N], the part of their proposals that was."""

    z: Tensor
    accepted: Tensor


def hmc(
    log_prob: Callable[[Tensor], Tensor],
    z: Tensor,
    *,
    seed: int,
    steps: int,
    step_size: float,
    leapfrog_steps: int = 10,
    scale: Tensor | None = None,
    first: int = 0,
) -> Chain:
    """Hamiltonian Monte Carlo (Neal 2011), one chain a row: leaves exp(log_prob) invariant.

    A step is a trajectory of `leapfrog_steps` of `step_size`, taken or not (Metropolis); with one leapfrog step this is
    the Metropolis-adjusted Langevin algorithm. A proposal of NaN or zero density is never taken.

    Args:
        log_prob: [N, D] -> [N], differentiable; up to a constant. Rows do not mix.
        z: states to start from, [N, D]; not changed.
        scale: like z, standard deviations of the target as far as known: `step_size` is in units of them. Trajectories
            of length pi take a Gaussian to its mirror image: keep step_size * leapfrog_steps away from that.
        first: number of the first chain; a chain's random numbers are functions of `seed` and its number.

    Raises:
        TypeError, ValueError: steps or leapfrog_steps no integers >= 1, step_size not above 0, z not [N, D], or scale
            of another shape.
    """
    check_count("leapfrog_steps", leapfrog_steps)
    _check_chain(z, steps, step_size, scale)
    scale = torch.ones_like(z) if scale is None else scale
    z, accepted = z.detach(), z.new_zeros(len(z))
    value, slope = _value_and_slope(log_prob, z, scale)
    for i in range(steps):
        momentum = _normal_as(z, seed, 2 * i + 1, first)
        energy = momentum.square().sum(1) / 2 - value
        at, value_at, slope_at = z, value, slope
        for _ in range(leapfrog_steps):
            momentum = momentum + step_size / 2 * slope_at
            at = at + step_size * scale * momentum
            value_at, slope_at = _value_and_slope(log_prob, at, scale)
            momentum = momentum + step_size / 2 * slope_at
        drop = energy - (momentum.square().sum(1) / 2 - value_at)
        take = torch.special.log_ndtr(_normal_as(value, seed, 2 * i + 2, first)) < drop  # log of a uniform number
        z, slope = torch.where(take[:, None], at, z), torch.where(take[:, None], slope_at, slope)
        value, accepted = torch.where(take, value_at, value), accepted + take
    return Chain(z, accepted / steps)


def langevin(
    log_prob: Callable[[Tensor], Tensor],
    z: Tensor,
    *,
    seed: int,
    steps: int,
    step_size: float,
    scale: Tensor | None = None,
) -> Tensor:
    """Unadjusted Langevin dynamics, [N, D]: z + step_size^2 / 2 scale^2 grad log_prob + step_size scale eps, repeated.

    Cheaper than `hmc` with one leapfrog step, and biased: of N(0, 1) the variance is 1 / (1 - step_size^2 / 4). The
    arguments and errors are those of `hmc`.
    """
    _check_chain(z, steps, step_size, scale)
    scale = torch.ones_like(z) if scale is None else scale
    z = z.detach()
    for i in range(steps):
        _, slope = _value_and_slope(log_prob, z, scale)
        z = z + step_size * scale * (step_size / 2 * slope + _normal_as(z, seed, 2 * i + 1))
    return z


def hmc_loss(
    model: VAE, x: Tensor, *, seed: int | Tensor, steps: int, size: float, beta: float | Tensor = 1.0, first: int = 0
) -> Tensor:
    """Minus the ELBO, batch mean, nats, whose gradient teaches the encoder q and the decoder p(z|x) (Hoffman 2017).

    The encoder gets the gradient of the ELBO at z ~ q; the rest of the model that of log p(x|z) at z moved by `steps`
    trajectories of `hmc`, whose leapfrog steps are `size` standard deviations of q. `first` is the number of x's
    first datum, of which its random numbers are functions.
    """
    q = model.posterior(x)
    numbered = {"seed": seed, "offset": first * model.config.latent}
    with frozen(p for name, p in model.named_parameters() if not name.startswith("encoder.")):
        terms = model.elbo(x, q=q, **numbered)
        mu, logvar = (p.detach() for p in q)
        start, scale = gaussian_rsample(mu, logvar, **numbered), torch.exp(logvar / 2)
        options = {"step_size": size, "leapfrog_steps": _LEAPFROG_STEPS, "scale": scale, "first": first}
        z = hmc(log_joint(model, x), start, seed=seed, steps=steps, **options).z
    of_decoder = -model.log_likelihood(x, z).mean()
    return (beta * terms.kl - terms.log_likelihood).mean() + (of_decoder - of_decoder.detach())


def _check_chain(z: Tensor, steps: int, step_size: float, scale: Tensor | None) -> None:
    check_count("steps", steps)
    if not 0 < step_size < math.inf:
        raise ValueError(f"step_size: expected a finite number > 0, got {step_size}")
    if z.dim() != 2:
        raise ValueError(f"z: expected [N, D], a chain a row, got the shape {tuple(z.shape)}")
    if scale is not None and scale.shape != z.shape:
        raise ValueError(f"scale: expected the shape {tuple(z.shape)} of z, got {tuple(scale.shape)}")


def _value_and_slope(log_prob: Callable[[Tensor], Tensor], z: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """log_prob [N] and scale times its gradient [N, D]."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = log_prob(z)
        return value.detach(), scale * torch.autograd.grad(value.sum(), z)[0]


def _normal_as(x: Tensor, seed: int, stretch: int, first: int = 0) -> Tensor:
    offset = (stretch << 40) + first * x[:1].numel()
    return normal(x.shape, seed, offset=offset, dtype=x.dtype, device=x.device)
