"""A training step of an MLP VAE 784-400-20-400-784 (Kingma & Welling 2014) with Adam."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgmkern.models.vae import VAE, VAEConfig
from dgmkern.train.products import fast_products
from perf.case import Target
from perf.steps.case import Step, StepCase
from perf.steps.training import check_gradients, compiled, flops_of, normals, our_step, usual_step

SHAPE = (1, 28, 28)
CONFIG = VAEConfig(encoder=(400,), decoder=(400,), latent=20, activation="relu")


class UsualVAE(nn.Module):
    """As VAEs are usually written: two heads, probabilities, a sample by randn_like."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.mu, self.logvar = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
        self.hidden, self.output = nn.Linear(20, 400), nn.Linear(400, 784)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.encoder(x))
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return self.output(F.relu(self.hidden(z))), mu, logvar

    def loss(self, x: Tensor) -> Tensor:
        logits, mu, logvar = self(x)
        return (F.binary_cross_entropy(torch.sigmoid(logits), x, reduction="sum") + kl(mu, logvar)) / len(x)

    def loss_by_logits(self, x: Tensor) -> Tensor:
        logits, mu, logvar = self(x)
        return (F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl(mu, logvar)) / len(x)


def kl(mu: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


def usual(batch: int) -> Step:
    model, x = UsualVAE(), torch.rand(batch, 784)
    return usual_step(lambda: model.loss(x), torch.optim.Adam(model.parameters(), lr=1e-3))


def all_of_stock(batch: int) -> Step:
    """torch.compile of a loss of logits, fused Adam, products by oneDNN, ATen's random numbers."""
    model, x = UsualVAE(), torch.rand(batch, 784)
    loss = torch.compile(model.loss_by_logits, dynamic=False, options={"fallback_random": True})
    step = usual_step(lambda: loss(x), torch.optim.Adam(model.parameters(), lr=1e-3, fused=True))
    return fast_products()(step)


def model_and_batch(batch: int) -> tuple[VAE, Tensor]:
    return VAE(CONFIG, SHAPE), 2 * torch.rand(batch, *SHAPE) - 1


def ours(batch: int, *, through: Callable[[Callable], Callable] = lambda loss: loss) -> Step:
    model, x = model_and_batch(batch)
    return our_step(model, through(lambda seed: model.loss(x, seed=seed)), lr=1e-3)


def check(batch: int) -> None:
    """The same formula in fp64 with the same noise."""
    model, x = model_and_batch(batch)

    def plain(wide: VAE) -> Tensor:
        images = x.double()
        mu, logvar = wide.encoder(images).chunk(2, dim=1)
        logits = wide.decoder(mu + normals(batch, CONFIG.latent, seed=7) * torch.exp(0.5 * logvar))
        nll = F.binary_cross_entropy_with_logits(logits, (images + 1) / 2, reduction="sum")
        return (nll + kl(mu, logvar)) / batch

    check_gradients(model, lambda model: model.loss(x, seed=7), plain)


def cases() -> list[StepCase]:
    found = []
    for batch, at_least in ((128, 2.3), (1024, 2.1)):
        variants = {
            "eager": lambda batch=batch: usual(batch),
            "torch.compile, all of stock": lambda batch=batch: all_of_stock(batch),
            "dgmkern": lambda batch=batch: ours(batch),
            "dgmkern, torch.compile": lambda batch=batch: ours(batch, through=compiled),
        }
        targets = (Target("eager", at_least=at_least), Target("torch.compile, all of stock", at_least=1.0))
        found.append(
            StepCase(
                f"vae/mlp/{batch}",
                variants,
                check=lambda batch=batch: check(batch),
                flops=lambda batch=batch: flops_of(lambda: ours(batch)),
                targets=targets,
            )
        )
    return found
