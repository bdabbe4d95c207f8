"""Cases of the bound family: training losses of diffusion models, forward and forward + backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

import dgmkern
from perf.case import Case, Setting, Target, Variant
from perf.checks import assert_close_to_fp64, chunks, specified_noise
from perf.peers import forward_backward, torch_variants

BATCH = (256, 3, 64, 64)
SCHEDULE = dgmkern.DiffusionSchedule.linear(1000)
SEED = 5
TABLES = "sqrt_recip sqrt_recipm1 coef1 coef2 log_small log_beta"


def per_sample(table: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """A number a sample, expanded, as the usual code has it."""
    return table[t].float().view(-1, *(1,) * (x.dim() - 1)).expand(x.shape)


def mean_flat(x: Tensor) -> Tensor:
    return x.mean(dim=list(range(1, x.dim())))


def approximate_cdf(x: Tensor) -> Tensor:
    """The usual approximation of the normal distribution function."""
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


def eager_decoder_nll(x0: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    centered, inverse = x0 - mean, torch.exp(-log_scale)
    upper = approximate_cdf(inverse * (centered + 1.0 / 255.0))
    lower = approximate_cdf(inverse * (centered - 1.0 / 255.0))
    log_upper, log_above = torch.log(upper.clamp(min=1e-12)), torch.log((1.0 - lower).clamp(min=1e-12))
    inside = torch.log((upper - lower).clamp(min=1e-12))
    return -torch.where(x0 < -0.999, log_upper, torch.where(x0 > 0.999, log_above, inside))


def eager_vb(both, x0, x_t, t, sqrt_recip, sqrt_recipm1, coef1, coef2, log_small, log_beta) -> Tensor:
    """The bound as the field's code writes it: both terms for every sample, then the one that counts."""
    out, v = both.chunk(2, 1)
    mean_q = per_sample(coef1, t, x_t) * x0 + per_sample(coef2, t, x_t) * x_t
    logvar_q = per_sample(log_small, t, x_t)
    frac = (v + 1) / 2
    logvar = frac * per_sample(log_beta, t, x_t) + (1 - frac) * per_sample(log_small, t, x_t)
    predicted = per_sample(sqrt_recip, t, x_t) * x_t - per_sample(sqrt_recipm1, t, x_t) * out
    mean = per_sample(coef1, t, x_t) * predicted + per_sample(coef2, t, x_t) * x_t
    kl = -1.0 + logvar - logvar_q + torch.exp(logvar_q - logvar) + (mean_q - mean) ** 2 * torch.exp(-logvar)
    kl = mean_flat(0.5 * kl) / math.log(2.0)
    nll = mean_flat(eager_decoder_nll(x0, mean, 0.5 * logvar)) / math.log(2.0)
    return torch.where(t == 0, nll, kl)


def eager_hybrid(both, x0, t, sqrt_abar, sqrt_one_minus_abar, *tables) -> tuple[Tensor, Tensor]:
    """Noise, x_t, squared error, and the bound with the prediction detached."""
    noise = torch.randn_like(x0)
    x_t = per_sample(sqrt_abar, t, x0) * x0 + per_sample(sqrt_one_minus_abar, t, x0) * noise
    out, v = both.chunk(2, 1)
    vb = eager_vb(torch.cat([out.detach(), v], 1), x0, x_t, t, *tables)
    return mean_flat((noise - out) ** 2), vb


def eager_mse(out, x0, t, sqrt_abar, sqrt_one_minus_abar) -> Tensor:
    """What a loss costs where it makes its target: draw, subtract, square, mean."""
    noise = torch.randn_like(x0)
    return mean_flat((noise - out) ** 2)


def make_inputs(shape: tuple[int, ...], device: str, *, doubled: bool) -> SimpleNamespace:
    """Data, noised data, a model's output near the truth, t over the whole schedule, gradients of both losses."""
    s, (n, c, *rest) = SCHEDULE, shape
    x0 = torch.rand(shape, device=device) * 2 - 1
    t = torch.randint(0, s.steps, (n,), device=device)
    t[0] = 0
    out = dgmkern.normal(shape, SEED, device=device) + 0.1 * torch.randn(shape, device=device)
    if doubled:
        out = torch.cat([out, torch.rand(n, c, *rest, device=device) * 2 - 1], 1)
    tables = {
        "sqrt_abar": s.sqrt_alphas_cumprod,
        "sqrt_one_minus_abar": s.sqrt_one_minus_alphas_cumprod,
        "sqrt_recip": s.alphas_cumprod.rsqrt(),
        "sqrt_recipm1": ((1 - s.alphas_cumprod) / s.alphas_cumprod).sqrt(),
        "coef1": s.posterior_mean_coef1,
        "coef2": s.posterior_mean_coef2,
        "log_small": s.posterior_log_variance_clipped,
        "log_beta": s.betas.log(),
    }
    return SimpleNamespace(
        x0=x0,
        t=t,
        x_t=dgmkern.q_sample(x0, t, s, seed=SEED),
        out=out.requires_grad_(),
        seed=torch.tensor([SEED], device=device),
        grad_mse=torch.rand(n, device=device),
        grad_vb=torch.rand(n, device=device),
        **{name: table.to(device, torch.float32) for name, table in tables.items()},
    )


def exact_terms(inputs: SimpleNamespace, part: slice) -> tuple[Tensor, Tensor, Tensor]:
    """(both, mse, vb) of a part of the batch in fp64, from the specification of the ops; `both` is a leaf."""
    from dgmkern.reference.bound import hybrid_terms

    each = inputs.x0[0].numel()
    seed = torch.tensor([SEED])
    both = inputs.out.detach()[part].double().requires_grad_()
    x0 = inputs.x0[part].double()
    noise = specified_noise(x0.numel(), seed, part.start * each).view_as(x0)
    table = SCHEDULE.p_table("cpu")
    mse, vb = hybrid_terms(both, x0, inputs.t[part], table, None, noise, None, 0, "eps", "learned_range", True)
    return both, mse, vb


def check_hybrid(inputs: SimpleNamespace, output: tuple) -> None:
    (mse, vb), (gradient,) = output
    for part in chunks(len(inputs.x0), inputs.x0[0].numel(), 1 << 20):
        both, exact_mse, exact_vb = exact_terms(inputs, part)
        assert_close_to_fp64(mse[part].detach(), exact_mse.detach(), what="mse", ulps=32.0)
        assert_close_to_fp64(vb[part].detach(), exact_vb.detach(), what="vb", ulps=64.0, scale=1e-4)
        loss = (exact_mse * inputs.grad_mse[part] + exact_vb * inputs.grad_vb[part]).sum()
        (want,) = torch.autograd.grad(loss, both)
        assert_close_to_fp64(gradient[part], want, what="gradient", ulps=64.0, scale=want.abs().max())


def check_vb(inputs: SimpleNamespace, vb: Tensor) -> None:
    """At t > 0 x_0 less its prediction loses digits to x_t; the bound is on that."""
    for part in chunks(len(inputs.x0), inputs.x0[0].numel(), 1 << 20):
        _, _, exact = exact_terms(inputs, part)
        assert_close_to_fp64(vb[part].detach(), exact.detach(), what="vb", ulps=4096.0, scale=1e-3)


def check_mse(inputs: SimpleNamespace, output: tuple) -> None:
    mse, (gradient,) = output
    n, each = len(inputs.x0), inputs.x0[0].numel()
    for part in chunks(n, each):
        out = inputs.out.detach()[part].double()
        residual = out - specified_noise(out.numel(), torch.tensor([SEED]), part.start * each).view_as(out)
        want = (residual**2).mean((1, 2, 3))
        assert_close_to_fp64(mse[part].detach(), want, what="mse", ulps=16.0)
        want = residual * (2 / each * inputs.grad_mse[part].double()).view(-1, 1, 1, 1)
        assert_close_to_fp64(gradient[part], want, what="gradient", ulps=16.0, scale=want.abs().max())


def vb_case(name: str, shape: tuple[int, ...], setting: Setting, targets=()) -> Case:
    """Read both halves of the model's output, x_0 and x_t."""
    elements = torch.Size(shape).numel()

    def plain(run: Callable) -> Callable:
        def without_grad(inputs):
            with torch.no_grad():
                return run(inputs)

        return without_grad

    variants = torch_variants(eager_vb, f"out x0 x_t t {TABLES}", random=False, wrap=plain)
    variants["dgmkern"] = Variant(
        plain(lambda i: dgmkern.vb_terms(i.out, i.x0, i.x_t, i.t, SCHEDULE, variance="learned_range")), check_vb
    )
    return Case(
        name,
        lambda: make_inputs(shape, setting.device, doubled=True),
        variants,
        bytes_moved=16 * elements,
        elements=elements,
        targets=targets,
    )


def hybrid_case(name: str, shape: tuple[int, ...], setting: Setting, targets=()) -> Case:
    """Forward reads the model's output and x_0; backward reads them again and writes the output's gradient; the noise
    is drawn each time, since nothing is stored (one draw is the limit)."""
    elements = torch.Size(shape).numel()
    wrap = forward_backward("out", "grad_mse grad_vb")
    variants = torch_variants(eager_hybrid, f"out x0 t sqrt_abar sqrt_one_minus_abar {TABLES}", random=True, wrap=wrap)
    variants["dgmkern"] = Variant(
        wrap(lambda i: dgmkern.hybrid_terms(i.out, i.x0, i.t, SCHEDULE, seed=i.seed)), check_hybrid
    )
    return Case(
        name,
        lambda: make_inputs(shape, setting.device, doubled=True),
        variants,
        bytes_moved=4 * (3 + 5) * elements,
        elements=elements,
        normals=elements,
        targets=targets,
    )


def mse_case(name: str, shape: tuple[int, ...], setting: Setting) -> Case:
    elements = torch.Size(shape).numel()
    wrap = forward_backward("out", "grad_mse")
    variants = torch_variants(eager_mse, "out x0 t sqrt_abar sqrt_one_minus_abar", random=True, wrap=wrap)
    variants["dgmkern"] = Variant(
        wrap(lambda i: dgmkern.diffusion_mse(i.out, i.x0, i.t, SCHEDULE, seed=i.seed)), check_mse
    )
    return Case(
        name,
        lambda: make_inputs(shape, setting.device, doubled=False),
        variants,
        bytes_moved=4 * 3 * elements,
        elements=elements,
        normals=elements,
    )


def cases(setting: Setting) -> list[Case]:
    return [
        vb_case("vb_terms/256x3x64x64/fp32", BATCH, setting, (Target("eager", at_least=30.0),)),
        hybrid_case("hybrid_terms/backward/256x3x64x64/fp32", BATCH, setting, (Target("eager", at_least=20.0),)),
        mse_case("diffusion_mse/backward/256x3x64x64/fp32", BATCH, setting),
    ]


def sweeps(setting: Setting) -> dict[str, Callable[[int], Case]]:
    return {"vb_terms": lambda n: vb_case(f"vb_terms/{n}", (n // 1000, 1, 1000), setting)}
