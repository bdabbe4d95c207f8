"""Cases of the gaussian family: reparameterized sample, KL, and both in one pass, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

import dgmkern
from perf.case import Case, Setting, Target, Variant
from perf.checks import assert_close_to_fp64, chunks, replayed_seed, specified_noise
from perf.peers import forward_backward, torch_variants

LARGE = (4096, 256)
SMALL = (128, 20)


def eager_rsample(mu: Tensor, logvar: Tensor) -> Tensor:
    std = torch.exp(0.5 * logvar)
    return mu + std * torch.randn_like(std)


def eager_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * torch.sum(1 + logvar - mu**2 - torch.exp(logvar), -1)


def eager_kl_between(mu: Tensor, logvar: Tensor, mu_p: Tensor, logvar_p: Tensor) -> Tensor:
    """The usual formula of hierarchical VAE code."""
    terms = logvar_p - logvar + (torch.exp(logvar) + (mu - mu_p) ** 2) * torch.exp(-logvar_p) - 1
    return 0.5 * torch.sum(terms, -1)


def eager_rsample_kl(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """The usual formula of VAE code."""
    return eager_rsample(mu, logvar), eager_kl(mu, logvar)


def check_rsample(z: Tensor, inputs: SimpleNamespace) -> None:
    """z = mu + sigma eps in fp64, eps being the noise of the seed that the call drew."""
    seed, width = replayed_seed(z.device), z.shape[1]
    for part in chunks(*z.shape):
        mu, logvar = inputs.mu[part].detach().double(), inputs.logvar[part].detach().double()
        spread = torch.exp(logvar / 2) * specified_noise(mu.numel(), seed, part.start * width).view_as(mu)
        assert_close_to_fp64(z[part].detach(), mu + spread, what="z", ulps=8.0, scale=mu.abs() + spread.abs() + 1e-3)


def check_kl(kl: Tensor, inputs: SimpleNamespace) -> None:
    """KL to N(0, 1) per sample in fp64; every term is >= 0, so the sum has a small relative error."""
    mu, logvar = inputs.mu.detach().double(), inputs.logvar.detach().double()
    want = 0.5 * (mu**2 + torch.expm1(logvar) - logvar).sum(-1)
    assert_close_to_fp64(kl.detach(), want, what="kl", ulps=16.0, scale=1e-3)


def check_kl_between(inputs: SimpleNamespace, output: tuple[Tensor, tuple[Tensor, ...]]) -> None:
    """KL per sample and its four gradients in fp64."""
    kl, gradients = output
    mu, logvar, mu_p, logvar_p = (x.detach().double() for x in (inputs.mu, inputs.logvar, inputs.mu_p, inputs.logvar_p))
    by_mu, by_logvar = (mu - mu_p) * torch.exp(-logvar_p), torch.expm1(logvar - logvar_p) / 2
    square = (mu - mu_p) * by_mu / 2
    assert_close_to_fp64(
        kl.detach(), (square + by_logvar - (logvar - logvar_p) / 2).sum(-1), what="kl", ulps=16.0, scale=1e-3
    )
    g = inputs.grad_kl.double().unsqueeze(-1)
    wanted = (g * by_mu, g * by_logvar, -g * by_mu, -g * (square + by_logvar))
    for got, want, what in zip(gradients, wanted, ("dmu", "dlogvar", "dmu_p", "dlogvar_p"), strict=True):
        assert_close_to_fp64(got, want, what=what, ulps=16.0, scale=g * (square + by_logvar.abs()) + 1e-3)


def check_gradients(gradients: tuple[Tensor, Tensor], inputs: SimpleNamespace) -> None:
    """The closed forms: dmu = g_z + g_kl mu, dlogvar = (g_z eps sigma + g_kl (sigma^2 - 1)) / 2."""
    seed, width = replayed_seed(inputs.mu.device), inputs.mu.shape[1]
    for part in chunks(*inputs.mu.shape):
        mu, logvar = inputs.mu[part].detach().double(), inputs.logvar[part].detach().double()
        grad_z, grad_kl = inputs.grad_z[part].double(), inputs.grad_kl[part].double().unsqueeze(-1)
        eps = specified_noise(mu.numel(), seed, part.start * width).view_as(mu)
        by_mu = (grad_z, grad_kl * mu)
        by_logvar = (grad_z * eps * torch.exp(logvar / 2) / 2, grad_kl * torch.expm1(logvar) / 2)
        for got, terms, what in zip(gradients, (by_mu, by_logvar), ("dmu", "dlogvar"), strict=True):
            scale = terms[0].abs() + terms[1].abs() + 1e-3
            assert_close_to_fp64(got[part], terms[0] + terms[1], what=what, ulps=16.0, scale=scale)


def check_rsample_kl(inputs: SimpleNamespace, output: tuple[Tensor, Tensor]) -> None:
    z, kl = output
    check_rsample(z, inputs)
    check_kl(kl, inputs)


def check_rsample_kl_backward(inputs: SimpleNamespace, output: tuple) -> None:
    outputs, gradients = output
    check_rsample_kl(inputs, outputs)
    check_gradients(gradients, inputs)


def make_inputs(shape: tuple[int, int], *, gradients: bool, device: str) -> SimpleNamespace:
    """mu and logvar as an encoder gives them; with `gradients` they are leaves, and upstream gradients stand by."""
    inputs = SimpleNamespace(mu=torch.randn(shape, device=device), logvar=torch.randn(shape, device=device) * 0.5)
    if gradients:
        inputs.mu.requires_grad_()
        inputs.logvar.requires_grad_()
        inputs.grad_z = torch.randn(shape, device=device)
        inputs.grad_kl = torch.rand(shape[0], device=device)
    return inputs


def rsample_kl_case(
    name: str, shape: tuple[int, int], setting: Setting, *, backward: bool, targets: tuple[Target, ...] = ()
) -> Case:
    """z and KL of [N, D]. Forward reads mu and logvar and writes z and kl; backward reads mu, logvar and the upstream
    gradients and writes two gradients. The noise has to be drawn once."""
    n, d = shape
    elements = n * d
    wrap = forward_backward("mu logvar", "grad_z grad_kl") if backward else lambda run: run
    variants = torch_variants(eager_rsample_kl, "mu logvar", random=True, wrap=wrap)
    variants["dgmkern"] = Variant(
        wrap(lambda i: dgmkern.gaussian_rsample_kl(i.mu, i.logvar)),
        check_rsample_kl_backward if backward else check_rsample_kl,
    )
    moved = 3 * elements + n + (5 * elements + n if backward else 0)  # fp32 words
    return Case(
        name,
        lambda: make_inputs(shape, gradients=backward, device=setting.device),
        variants,
        bytes_moved=4 * moved,
        elements=elements,
        normals=elements,
        targets=targets,
    )


def kl_between_case(name: str, shape: tuple[int, int], setting: Setting) -> Case:
    """KL per sample between two [N, D] and its gradients: reads four tensors, then four and writes four."""

    def setup() -> SimpleNamespace:
        inputs = make_inputs(shape, gradients=True, device=setting.device)
        inputs.mu_p = (inputs.mu.detach() + torch.randn_like(inputs.mu) * 0.5).requires_grad_()
        inputs.logvar_p = (inputs.logvar.detach() + torch.randn_like(inputs.logvar) * 0.5).requires_grad_()
        return inputs

    wrap = forward_backward("mu logvar mu_p logvar_p", "grad_kl")
    variants = torch_variants(eager_kl_between, "mu logvar mu_p logvar_p", random=False, wrap=wrap)
    variants["dgmkern"] = Variant(
        wrap(lambda i: dgmkern.gaussian_kl(i.mu, i.logvar, i.mu_p, i.logvar_p, reduction="sample")), check_kl_between
    )
    n, d = shape
    return Case(name, setup, variants, 4 * (12 * n * d + 2 * n), n * d)


def cases(setting: Setting) -> list[Case]:
    large, small = "x".join(map(str, LARGE)), "x".join(map(str, SMALL))
    elements = LARGE[0] * LARGE[1]

    def setup() -> SimpleNamespace:
        return make_inputs(LARGE, gradients=False, device=setting.device)

    rsample = torch_variants(eager_rsample, "mu logvar", random=True)
    rsample["dgmkern"] = Variant(lambda i: dgmkern.gaussian_rsample(i.mu, i.logvar), lambda i, z: check_rsample(z, i))
    kl = torch_variants(eager_kl, "mu logvar", random=False)
    kl["dgmkern"] = Variant(
        lambda i: dgmkern.gaussian_kl(i.mu, i.logvar, reduction="sample"), lambda i, kl: check_kl(kl, i)
    )
    return [
        rsample_kl_case(f"gaussian_rsample_kl/forward/{large}/fp32", LARGE, setting, backward=False),
        rsample_kl_case(
            f"gaussian_rsample_kl/backward/{large}/fp32",
            LARGE,
            setting,
            backward=True,
            targets=(Target("eager", at_least=5.0),),
        ),
        rsample_kl_case(
            f"gaussian_rsample_kl/backward/{small}/fp32",
            SMALL,
            setting,
            backward=True,
            targets=(Target("eager", at_most=0.6),),
        ),
        Case(f"gaussian_rsample/{large}/fp32", setup, rsample, 12 * elements, elements, normals=elements),
        Case(f"gaussian_kl/{large}/fp32", setup, kl, 8 * elements + 4 * LARGE[0], elements),
        kl_between_case(f"gaussian_kl_between/backward/{large}/fp32", LARGE, setting),
    ]


def sweeps(setting: Setting) -> dict[str, Callable[[int], Case]]:
    def case(n: int) -> Case:
        return rsample_kl_case(f"gaussian_rsample_kl/backward/{n}", (n // 250, 250), setting, backward=True)

    return {"gaussian_rsample_kl/backward": case}
