"""Cases of the importance family: k samples of each datum with log p(z) - log q(z), forward and backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

import dgmkern
from perf.case import Case, Setting, Variant
from perf.checks import assert_close_to_fp64, chunks, replayed_seed, specified_noise
from perf.peers import forward_backward, torch_variants

IWAE = (128, 50, 50)  # N, k, D: a batch of Burda et al. 2016
WIDE = (4096, 8, 64)
LOG_2_PI = math.log(2 * math.pi)


def eager_log_ratio(mu: Tensor, logvar: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The usual code: sample, then the log densities of the prior and of the encoder written out."""
    mu, logvar = mu.unsqueeze(1), logvar.unsqueeze(1)
    std = torch.exp(0.5 * logvar)
    z = mu + std * torch.randn(mu.shape[0], k, mu.shape[2], device=mu.device)
    log_p = -0.5 * (z**2 + LOG_2_PI).sum(-1)
    log_q = -0.5 * (logvar + (z - mu) ** 2 / torch.exp(logvar) + LOG_2_PI).sum(-1)
    return z, log_p - log_q


def check_log_ratio(inputs: SimpleNamespace, output: tuple) -> None:
    """z, the log ratio and, where there are some, the gradients against the closed forms in fp64."""
    (z, ratio), gradients = output if isinstance(output[0], tuple) else (output, None)
    n, k, d = z.shape
    seed = replayed_seed(z.device)
    for part in chunks(n, k * d):
        mu, logvar = inputs.mu[part].detach().double().unsqueeze(1), inputs.logvar[part].detach().double().unsqueeze(1)
        eps = specified_noise((part.stop - part.start) * k * d, seed, part.start * k * d)[: len(mu) * k * d]
        eps = eps.view(len(mu), k, d)
        sigma = torch.exp(logvar / 2)
        want = mu + sigma * eps
        scale_of_z = mu.abs() + (sigma * eps).abs() + 1e-3
        assert_close_to_fp64(z[part].detach(), want, what="z", ulps=8.0, scale=scale_of_z)
        terms = (eps**2 + logvar - want**2) / 2
        scale = torch.linalg.vector_norm(eps**2 + logvar.abs() + want**2, dim=-1)  # of rounding errors that add up
        assert_close_to_fp64(ratio[part].detach(), terms.sum(-1), what="log ratio", ulps=2.0, scale=scale)
        if gradients is not None:
            grad_z, grad_ratio = inputs.grad_z[part].double(), inputs.grad_ratio[part].double().unsqueeze(-1)
            by_mu = grad_z - grad_ratio * want
            by_logvar = (by_mu * sigma * eps + grad_ratio) / 2
            # each sample's gradient may cancel: the sizes of its parts, of which the rounding errors add up
            parts = grad_z.abs() + grad_ratio * scale_of_z
            sizes = (parts, (parts * (sigma * eps).abs() + grad_ratio) / 2)
            for got, each, size, what in zip(gradients, (by_mu, by_logvar), sizes, ("dmu", "dlogvar"), strict=True):
                scale = torch.linalg.vector_norm(size, dim=1) + 1e-3
                assert_close_to_fp64(got[part], each.sum(1), what=what, ulps=8.0, scale=scale)


def log_ratio_case(name: str, sizes: tuple[int, int, int], setting: Setting, *, backward: bool) -> Case:
    """Forward reads mu and logvar and writes z and k numbers a datum; backward reads the gradients of those, mu and
    logvar and writes two gradients. The noise has to be drawn once."""
    n, k, d = sizes

    def setup() -> SimpleNamespace:
        mu, logvar = torch.randn(n, d, device=setting.device), torch.randn(n, d, device=setting.device) * 0.5
        inputs = SimpleNamespace(mu=mu, logvar=logvar)
        if backward:
            mu.requires_grad_()
            logvar.requires_grad_()
            inputs.grad_z = torch.randn(n, k, d, device=setting.device)
            inputs.grad_ratio = torch.rand(n, k, device=setting.device)
        return inputs

    wrap = forward_backward("mu logvar", "grad_z grad_ratio") if backward else lambda run: run
    variants = torch_variants(lambda mu, logvar: eager_log_ratio(mu, logvar, k), "mu logvar", random=True, wrap=wrap)
    variants["dgmkern"] = Variant(wrap(lambda i: dgmkern.gaussian_log_ratio(i.mu, i.logvar, k)), check_log_ratio)
    words = n * k * (d + 1) * (2 if backward else 1) + n * d * (6 if backward else 2)
    return Case(name, setup, variants, bytes_moved=4 * words, elements=n * k * d, normals=n * k * d)


def sweeps(setting: Setting) -> dict[str, Callable[[int], Case]]:
    def case(n: int) -> Case:
        return log_ratio_case(f"gaussian_log_ratio/backward/{n}", (n // 250, 5, 50), setting, backward=True)

    return {"gaussian_log_ratio/backward": case}


def cases(setting: Setting) -> list[Case]:
    return [
        log_ratio_case(
            f"gaussian_log_ratio/{'backward' if backward else 'forward'}/{'x'.join(map(str, sizes))}/fp32",
            sizes,
            setting,
            backward=backward,
        )
        for sizes in (IWAE, WIDE)
        for backward in (False, True)
    ]
