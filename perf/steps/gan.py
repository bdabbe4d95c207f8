"""Steps of MLP GANs on 784 pixels: both players of a non-saturating GAN, the critic of a WGAN-GP."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgmkern.models.gan import GAN, GANConfig
from dgmkern.reference.noise import uniform
from perf.case import Target
from perf.steps.case import Step, StepCase
from perf.steps.training import check_gradients, flops_of, normals, our_step, usual_step

SHAPE = (1, 28, 28)
BATCH = 128
LR, BETAS = 2e-4, (0.5, 0.999)
GAME = GANConfig(latent=64, hidden=512, layers=2)
CRITIC = GANConfig("wasserstein", gradient_penalty=10.0, latent=64, hidden=512, layers=2)


def images() -> Tensor:
    return 2 * torch.rand(BATCH, *SHAPE) - 1


# ---- The non-saturating game ----------------------------------------------------------------------------------------


def usual_game() -> Step:
    """One step of each player; the generator's samples are drawn once, as in most tutorials."""
    model, real = GAN(GAME, SHAPE), images()
    generator, discriminator = model.generator, model.discriminator
    loss = nn.BCEWithLogitsLoss()
    optimizers = [torch.optim.Adam(player.parameters(), lr=LR, betas=BETAS) for player in (generator, discriminator)]
    ones, zeros = torch.ones(BATCH, 1), torch.zeros(BATCH, 1)

    def step() -> None:
        fake = generator(torch.randn(BATCH, GAME.latent))
        optimizers[1].zero_grad()
        value = loss(discriminator(real), ones) + loss(discriminator(fake.detach()), zeros)
        value.backward()
        optimizers[1].step()
        optimizers[0].zero_grad()
        value_of_generator = loss(discriminator(fake), ones)
        value_of_generator.backward()
        optimizers[0].step()
        value.item(), value_of_generator.item()

    return step


def our_game() -> Step:
    model, real = GAN(GAME, SHAPE), images()
    how = {"lr": LR, "betas": BETAS}
    steps = [
        our_step(phase.module, lambda seed, phase=phase: phase.loss(real, seed=seed), **how)
        for phase in model.phases(0)
    ]
    return lambda: [step() for step in steps]


def check_game() -> None:
    model, real = GAN(GAME, SHAPE), images()

    def of_discriminator(wide: nn.Module) -> Tensor:
        fake = model.generator(normals(BATCH, GAME.latent, seed=7).float()).detach().double()
        return F.softplus(-wide(real.double())).mean() + F.softplus(wide(fake)).mean()

    def of_generator(wide: nn.Module) -> Tensor:
        fake = wide(normals(BATCH, GAME.latent, seed=7))
        return F.softplus(-model.discriminator.double()(fake)).mean()

    check_gradients(model.discriminator, lambda _: model.discriminator_loss(real, seed=7), of_discriminator)
    check_gradients(model.generator, lambda _: model.generator_loss(real, seed=7), of_generator)


# ---- The critic of a WGAN-GP ----------------------------------------------------------------------------------------


def penalty(critic: nn.Module, x: Tensor) -> Tensor:
    """(||gradient of the scores|| - 1)^2 by double backward."""
    scores = critic(x.requires_grad_())
    (gradient,) = torch.autograd.grad(scores, x, torch.ones_like(scores), create_graph=True)
    return ((gradient.flatten(1).norm(2, dim=1) - 1) ** 2).mean()


def usual_critic() -> Step:
    """Gulrajani et al. 2017, algorithm 1, as it is usually written."""
    model, real = GAN(CRITIC, SHAPE), images()
    critic = model.discriminator

    def loss() -> Tensor:
        fake = model.generator(torch.randn(BATCH, CRITIC.latent)).detach()
        alpha = torch.rand(BATCH, 1, 1, 1)
        between = alpha * real + (1 - alpha) * fake
        return critic(fake).mean() - critic(real).mean() + 10 * penalty(critic, between)

    return usual_step(loss, torch.optim.Adam(critic.parameters(), lr=LR, betas=BETAS))


def our_critic() -> Step:
    model, real = GAN(CRITIC, SHAPE), images()
    return our_step(model.discriminator, lambda seed: model.discriminator_loss(real, seed=seed), lr=LR, betas=BETAS)


def check_critic() -> None:
    model, real = GAN(CRITIC, SHAPE), images()

    def plain(wide: nn.Module) -> Tensor:
        fake = model.generator(normals(BATCH, CRITIC.latent, seed=7).float()).detach().double()
        alpha = uniform(BATCH, torch.tensor([7]), 1 << 40).double().view(-1, 1, 1, 1)
        between = alpha * real.double() + (1 - alpha) * fake
        return wide(fake).mean() - wide(real.double()).mean() + 10 * penalty(wide, between)

    check_gradients(model.discriminator, lambda _: model.discriminator_loss(real, seed=7), plain)


def cases() -> list[StepCase]:
    found = []  # torch.compile makes both slower: 1.6 and 1.3 times as fast as eager
    for name, usual, ours, check in (
        ("game", usual_game, our_game, check_game),
        ("wgan-gp critic", usual_critic, our_critic, check_critic),
    ):
        variants = {"eager": usual, "dgmkern": ours}
        flops = partial(flops_of, ours)
        found.append(StepCase(f"gan/{name}/{BATCH}", variants, check, flops, targets=(Target("eager", at_least=2.0),)))
    return found
