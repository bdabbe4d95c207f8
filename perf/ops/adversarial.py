"""Cases of the adversarial family: GAN losses, interpolates, gradient penalties and a whole WGAN-GP critic step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.functional import softplus

import dgmkern
from dgmkern.reference.noise import uniform
from perf.case import Case, Setting, Target, Variant
from perf.checks import assert_close_to_fp64, chunks, replayed_seed
from perf.peers import forward_backward, torch_variants

IMAGES = (256, 3, 64, 64)


def eager_d_loss(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(-real).mean() + softplus(fake).mean()


def eager_g_loss(fake: Tensor) -> Tensor:
    return softplus(-fake).mean()


def check_gan(inputs: SimpleNamespace, output: tuple, *, generator: bool) -> None:
    """The loss, and its gradient by each score, in fp64."""
    loss, gradients = output
    real, fake = inputs.real.detach().double(), inputs.fake.detach().double()
    want = eager_g_loss(fake) if generator else eager_d_loss(real, fake)
    assert_close_to_fp64(loss.detach(), want, what="loss", ulps=8.0)
    by_fake = -torch.sigmoid(-fake) if generator else torch.sigmoid(fake)
    wanted = (by_fake,) if generator else (-torch.sigmoid(-real), by_fake)
    for got, slope in zip(gradients, wanted, strict=True):
        want = slope / slope.numel() * inputs.upstream.double()
        assert_close_to_fp64(got, want, what="gradient", ulps=8.0, scale=1e-9)


def gan_case(name: str, batch: int, setting: Setting, *, generator: bool) -> Case:
    """Non-saturating loss of one player on [N, 1] scores, forward and backward."""
    leaves = "fake" if generator else "real fake"

    def setup() -> SimpleNamespace:
        real, fake = (torch.randn(batch, 1, device=setting.device).requires_grad_() for _ in range(2))
        return SimpleNamespace(real=real, fake=fake, upstream=torch.rand((), device=setting.device))

    wrap = forward_backward(leaves, "upstream")
    variants = torch_variants(eager_g_loss if generator else eager_d_loss, leaves, random=False, wrap=wrap)
    run = (
        (lambda i: dgmkern.gan_generator_loss(i.fake, "nonsaturating"))
        if generator
        else (lambda i: dgmkern.gan_loss(i.real, i.fake, "nonsaturating")[0])
    )
    variants["dgmkern"] = Variant(wrap(run), lambda i, out: check_gan(i, out, generator=generator))
    scores = batch * (1 if generator else 2)
    # forward reads the scores; backward reads them and writes a gradient
    return Case(name, setup, variants, 12 * scores, scores, targets=(Target("eager", at_most=1.0),))


def eager_interpolate(x: Tensor, y: Tensor) -> Tensor:
    alpha = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device)
    return alpha * x + (1 - alpha) * y


def check_interpolate(inputs: SimpleNamespace, got: Tensor) -> None:
    """alpha x + (1 - alpha) y in fp64, alpha being the uniforms of the seed that the call drew."""
    seed = replayed_seed(got.device)
    for part in chunks(got.shape[0], got[0].numel()):
        x, y = inputs.x[part].double(), inputs.y[part].double()
        alpha = uniform(x.shape[0], seed, part.start).double().reshape(-1, *[1] * (x.dim() - 1))
        want, scale = alpha * x + (1 - alpha) * y, (alpha * x).abs() + ((1 - alpha) * y).abs()
        assert_close_to_fp64(got[part], want, what="interpolate", scale=scale + 1e-3)


def interpolate_case(name: str, shape: tuple[int, ...], setting: Setting) -> Case:
    def setup() -> SimpleNamespace:
        return SimpleNamespace(x=torch.randn(shape, device=setting.device), y=torch.randn(shape, device=setting.device))

    variants = torch_variants(eager_interpolate, "x y", random=True)
    variants["dgmkern"] = Variant(lambda i: dgmkern.interpolate(i.x, i.y), check_interpolate)
    elements = torch.Size(shape).numel()
    return Case(name, setup, variants, 12 * elements, elements)


def eager_norm_penalty(grad: Tensor) -> Tensor:
    return (grad.flatten(1).norm(2, dim=1) - 1) ** 2


def check_norm_penalty(inputs: SimpleNamespace, output: tuple) -> None:
    """(||grad|| - 1)^2 and 2 (||grad|| - 1) grad / ||grad||, in fp64."""
    penalty, gradients = output
    grad = inputs.grad.detach().double()
    norm = grad.flatten(1).norm(2, dim=1)
    assert_close_to_fp64(penalty.detach(), (norm - 1) ** 2, what="penalty", ulps=8.0)
    slope = inputs.upstream.double() * 2 * (norm - 1) / norm
    want = slope.reshape(-1, *[1] * (grad.dim() - 1)) * grad
    assert_close_to_fp64(gradients[0], want, what="gradient", ulps=8.0, scale=1e-6)


def norm_penalty_case(name: str, shape: tuple[int, ...], setting: Setting) -> Case:
    """Forward reads the gradient; backward reads it and writes one like it."""

    def setup() -> SimpleNamespace:
        grad = (torch.randn(shape, device=setting.device) * 0.01).requires_grad_()
        return SimpleNamespace(grad=grad, upstream=torch.rand(shape[0], device=setting.device))

    wrap = forward_backward("grad", "upstream")
    variants = torch_variants(eager_norm_penalty, "grad", random=False, wrap=wrap)
    variants["dgmkern"] = Variant(wrap(lambda i: dgmkern.gradient_norm_penalty(i.grad)), check_norm_penalty)
    elements = torch.Size(shape).numel()
    return Case(name, setup, variants, 12 * elements + 8 * shape[0], elements)


def eager_critic_loss(critic: torch.nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """Gulrajani et al. 2017, algorithm 1, as it is usually written."""
    a = alpha.unsqueeze(1)
    x = (a * real + (1 - a) * fake).requires_grad_()
    scores = critic(x)
    (grad,) = torch.autograd.grad(scores, x, torch.ones_like(scores), create_graph=True)
    return critic(fake).mean() - critic(real).mean() + 10 * eager_norm_penalty(grad).mean()


def our_critic_loss(critic: torch.nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    loss, _ = dgmkern.gan_loss(critic(real), critic(fake), "wasserstein")
    return loss + 10 * dgmkern.gradient_penalty(critic, real, fake, alpha=alpha).mean()


def critic_step_case(name: str, batch: int, setting: Setting) -> Case:
    """Loss and parameter gradients of a critic 784-256-256-1: eight products of matrices beside the ops."""

    def setup() -> SimpleNamespace:
        layers = [torch.nn.Linear(784, 256), torch.nn.LeakyReLU(0.2), torch.nn.Linear(256, 256)]
        critic = torch.nn.Sequential(*layers, torch.nn.LeakyReLU(0.2), torch.nn.Linear(256, 1)).to(setting.device)
        real, fake = torch.rand(2, batch, 784, device=setting.device)
        return SimpleNamespace(critic=critic, real=real, fake=fake, alpha=torch.rand(batch, device=setting.device))

    def run_with(loss):
        def run(i: SimpleNamespace) -> tuple:
            value = loss(i.critic, i.real, i.fake, i.alpha)
            return value, torch.autograd.grad(value, i.critic.parameters(), materialize_grads=True)

        return run

    def check(i: SimpleNamespace, output: tuple) -> None:
        value, gradients = output
        wide = SimpleNamespace(**{k: v.double() for k, v in vars(i).items() if k != "critic"})
        wide.critic = copy.deepcopy(i.critic).double()
        want, wanted = run_with(eager_critic_loss)(wide)
        assert_close_to_fp64(value.detach(), want.detach(), what="loss", ulps=32.0)
        for got, exact in zip(gradients, wanted, strict=True):
            assert_close_to_fp64(got, exact, what="gradient", ulps=24.0, scale=exact.abs().max() + 1e-9)

    variants = {
        "eager": Variant(run_with(eager_critic_loss)),
        "dgmkern": Variant(run_with(our_critic_loss), check),
    }
    parameters = 784 * 256 + 256 * 256 + 2 * 256 + 256 + 1
    moved = 4 * (2 * batch * 784 + 2 * parameters)  # read the batches and the parameters, write the gradients
    return Case(name, setup, variants, moved, batch * 784)


def cases(setting: Setting) -> list[Case]:
    images = "x".join(map(str, IMAGES))
    return [
        *(
            gan_case(f"gan_loss/{player}/backward/{batch}/fp32", batch, setting, generator=player == "generator")
            for batch in (64, 65536)
            for player in ("discriminator", "generator")
        ),
        interpolate_case(f"interpolate/drawn/{images}/fp32", IMAGES, setting),
        norm_penalty_case(f"gradient_norm_penalty/backward/{images}/fp32", IMAGES, setting),
        critic_step_case("gradient_penalty/critic_step/64/fp32", 64, setting),
    ]


def sweeps(setting: Setting) -> dict[str, Callable[[int], Case]]:
    return {
        "interpolate/drawn": lambda n: interpolate_case(f"interpolate/drawn/{n}", (n // 250, 250), setting),
        "gradient_norm_penalty/backward": lambda n: norm_penalty_case(
            f"gradient_norm_penalty/backward/{n}", (n // 250, 250), setting
        ),
    }
