"""Cases of the reverse family: steps of DDPM, DDIM and DPM-Solver++."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace

import torch
from torch import Tensor

import dgmkern
from perf.case import Case, Setting, Target, Variant
from perf.checks import assert_close_to_fp64, chunks, replayed_seed, specified_noise
from perf.peers import torch_variants

BATCH = (256, 3, 64, 64)
ONE_IMAGE = (1, 3, 32, 32)
SCHEDULE = dgmkern.DiffusionSchedule.linear(1000)
STEP, NEXT, LAST = 500, 480, 520
TABLES = "sqrt_recip sqrt_recipm1 coef1 coef2 log_small log_beta"


def per_sample(table: Tensor, t: Tensor, x: Tensor) -> Tensor:
    return table[t].view(-1, *(1,) * (x.dim() - 1))


def eager_mean(out, x, t, sqrt_recip, sqrt_recipm1, coef1, coef2) -> Tensor:
    x0 = per_sample(sqrt_recip, t, x) * x - per_sample(sqrt_recipm1, t, x) * out
    x0 = x0.clamp(-1, 1)
    return per_sample(coef1, t, x) * x0 + per_sample(coef2, t, x) * x


def eager_p_sample(out, x, t, sqrt_recip, sqrt_recipm1, coef1, coef2, log_small, log_beta) -> Tensor:
    """The usual code: x_0, clamped; the posterior's mean; noise but for t = 0."""
    noise = torch.randn_like(x)
    mean = eager_mean(out, x, t, sqrt_recip, sqrt_recipm1, coef1, coef2)
    nonzero = (t != 0).to(x.dtype).view(-1, *(1,) * (x.dim() - 1))
    return mean + nonzero * torch.exp(0.5 * per_sample(log_small, t, x)) * noise


def eager_learned_range(both, x, t, sqrt_recip, sqrt_recipm1, coef1, coef2, log_small, log_beta) -> Tensor:
    noise = torch.randn_like(x)
    out, v = both.chunk(2, 1)
    frac = (v + 1) / 2
    logvar = frac * per_sample(log_beta, t, x) + (1 - frac) * per_sample(log_small, t, x)
    mean = eager_mean(out, x, t, sqrt_recip, sqrt_recipm1, coef1, coef2)
    nonzero = (t != 0).to(x.dtype).view(-1, *(1,) * (x.dim() - 1))
    return mean + nonzero * torch.exp(0.5 * logvar) * noise


def eager_ddim(out, x, level: tuple[float, float], to: tuple[float, float]) -> Tensor:
    x0 = (x - level[1] * out) / level[0]
    return to[0] * x0 + to[1] * out


def level(t: int) -> tuple[float, float]:
    return SCHEDULE.sqrt_alphas_cumprod[t].item(), SCHEDULE.sqrt_one_minus_alphas_cumprod[t].item()


def make_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str, *, doubled: bool = False) -> SimpleNamespace:
    """x_t and what a model gives for it at step 500, and the tables that eager code gathers from."""
    s, (n, c, *rest) = SCHEDULE, shape
    one = 1 - s.alphas_cumprod
    tables = {
        "sqrt_recip": s.alphas_cumprod.rsqrt(),
        "sqrt_recipm1": (one / s.alphas_cumprod).sqrt(),
        "coef1": s.posterior_mean_coef1,
        "coef2": s.posterior_mean_coef2,
        "log_small": s.posterior_log_variance_clipped,
        "log_beta": s.betas.log(),
    }
    inputs = SimpleNamespace(
        x=torch.randn(shape, device=device).to(dtype),
        out=torch.randn(n, 2 * c if doubled else c, *rest, device=device).to(dtype),
        t=torch.full((n,), STEP, device=device),
        level=level(STEP),
        to=level(NEXT),
        **{name: table.to(device, dtype) for name, table in tables.items()},
    )
    inputs.last = torch.randn_like(inputs.x)
    inputs.result = torch.empty_like(inputs.x)
    return inputs


def check_p_sample(inputs: SimpleNamespace, result: Tensor) -> None:
    """The closed form in fp64, on the noise of the seed that the call drew."""
    seed, each, s = replayed_seed(result.device), inputs.x[0].numel(), SCHEDULE
    a, b = level(STEP)
    for part in chunks(len(inputs.x), each):
        x, out = inputs.x[part].double(), inputs.out[part].double()
        eps = specified_noise(x.numel(), seed, part.start * each).view_as(x)
        logvar = s.posterior_log_variance_clipped[STEP]
        if out.shape != x.shape:
            out, v = out.chunk(2, 1)
            logvar = (1 + v) / 2 * s.betas[STEP].log() + (1 - v) / 2 * logvar
        x0 = ((x - b * out) / a).clamp(-1, 1)
        terms = (s.posterior_mean_coef1[STEP] * x0, s.posterior_mean_coef2[STEP] * x, torch.exp(logvar / 2) * eps)
        scale = sum(term.abs() for term in terms) + 1e-3
        assert_close_to_fp64(result[part], sum(terms), what="x_{t-1}", ulps=16.0, scale=scale)


def check_ddim(inputs: SimpleNamespace, result: Tensor) -> None:
    (a, b), (a2, b2) = inputs.level, inputs.to
    x, out = inputs.x.double(), inputs.out.double()
    want = a2 * (x - b * out) / a + b2 * out
    scale = (a2 / a * x).abs() + ((b2 - a2 * b / a) * out).abs() + 1e-3
    assert_close_to_fp64(result, want, what="x'", ulps=8.0, scale=scale)


def check_dpm_solver(inputs: SimpleNamespace, result: tuple[Tensor, Tensor]) -> None:
    (a, b), (a2, b2), (a1, b1) = inputs.level, inputs.to, level(LAST)
    x, out, last = inputs.x.double(), inputs.out.double(), inputs.last.double()
    x0 = (x - b * out) / a
    log = [torch.tensor(u / w, dtype=torch.float64).log() for u, w in ((a, b), (a2, b2), (a1, b1))]
    ratio = (log[1] - log[0]) / (2 * (log[0] - log[2]))
    factor = -a2 * torch.expm1(log[0] - log[1])
    want = b2 / b * x + factor * ((1 + ratio) * x0 - ratio * last)
    size = (x.abs() + b * out.abs()) / a + last.abs() + 1e-3
    assert_close_to_fp64(result[0], want, what="x'", ulps=16.0, scale=size)
    assert_close_to_fp64(result[1], x0, what="x0", ulps=16.0, scale=size)


def diffusers_step(**how) -> Callable[[SimpleNamespace], Tensor] | None:
    """diffusers.DDPMScheduler.step with an int step; None where diffusers is not installed."""
    if find_spec("diffusers") is None:
        return None
    from diffusers import DDPMScheduler

    peer = DDPMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", **how)
    return lambda i: peer.step(i.out, STEP, i.x, return_dict=False)[0]


def p_sample_case(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, setting: Setting, *, learned: bool = False, targets=()
) -> Case:
    """x_{t-1}, the noise drawn, x_0 clipped: read x_t and the model's output, write x_{t-1}."""
    elements = torch.Size(shape).numel()
    formula = eager_learned_range if learned else eager_p_sample
    variants = torch_variants(formula, f"out x t {TABLES}", random=True)
    peer = diffusers_step(variance_type="learned_range" if learned else "fixed_small")
    if peer is not None:
        variants["diffusers"] = Variant(peer)
    else:
        targets = tuple(target for target in targets if target.against != "diffusers")
    variance = "learned_range" if learned else "fixed_small"
    variants["dgmkern"] = Variant(
        lambda i: dgmkern.p_sample(i.out, i.x, STEP, SCHEDULE, variance=variance, clip=1.0), check_p_sample
    )
    return Case(
        name,
        lambda: make_inputs(shape, dtype, setting.device, doubled=learned),
        variants,
        bytes_moved=(4 if learned else 3) * elements * dtype.itemsize,
        elements=elements,
        normals=elements,
        targets=targets,
    )


def ddim_case(name: str, shape: tuple[int, ...], setting: Setting, *, targets=()) -> Case:
    """x' without noise: read x_t and the model's output, write x'; beside it, an addition of as many bytes."""
    elements = torch.Size(shape).numel()
    variants = torch_variants(eager_ddim, "out x level to", random=False)
    variants["dgmkern"] = Variant(lambda i: dgmkern.ddim_step(i.out, i.x, STEP, NEXT, SCHEDULE), check_ddim)
    variants["torch.add(out=)"] = Variant(lambda i: torch.add(i.x, i.out, out=i.result))
    variants["torch.add"] = Variant(lambda i: torch.add(i.x, i.out))
    return Case(
        name,
        lambda: make_inputs(shape, torch.float32, setting.device),
        variants,
        bytes_moved=12 * elements,
        elements=elements,
        targets=targets,
    )


def dpm_solver_case(name: str, shape: tuple[int, ...], setting: Setting) -> Case:
    """x' and x_0 of the second-order step: read three tensors, write two."""
    elements = torch.Size(shape).numel()
    (a, b), (a2, b2), (a1, b1) = level(STEP), level(NEXT), level(LAST)
    log = [torch.tensor(u / w).log().item() for u, w in ((a, b), (a2, b2), (a1, b1))]
    ratio = (log[1] - log[0]) / (2 * (log[0] - log[2]))
    factor = a2 - a * b2 / b

    def eager(out, x, last):
        x0 = (x - b * out) / a
        d = x0 + ratio * (x0 - last)
        return b2 / b * x + factor * d, x0

    variants = torch_variants(eager, "out x last", random=False)
    variants["dgmkern"] = Variant(
        lambda i: dgmkern.dpm_solver_step(i.out, i.x, STEP, NEXT, SCHEDULE, x0_last=i.last, t_last=LAST),
        check_dpm_solver,
    )
    return Case(
        name,
        lambda: make_inputs(shape, torch.float32, setting.device),
        variants,
        bytes_moved=20 * elements,
        elements=elements,
    )


def cases(setting: Setting) -> list[Case]:
    fp32, bf16 = torch.float32, torch.bfloat16
    eight = (Target("eager", at_least=8.0), Target("diffusers", at_least=8.0))
    return [
        p_sample_case("p_sample/256x3x64x64/fp32", BATCH, fp32, setting, targets=eight),
        p_sample_case("p_sample/256x3x64x64/bf16", BATCH, bf16, setting),
        p_sample_case("p_sample/learned_range/256x3x64x64/fp32", BATCH, fp32, setting, learned=True),
        p_sample_case("p_sample/1x3x32x32/fp32", ONE_IMAGE, fp32, setting, targets=eight[1:]),
        ddim_case("ddim_step/256x3x64x64/fp32", BATCH, setting, targets=(Target("torch.add(out=)", at_most=1.3),)),
        ddim_case("ddim_step/1x3x32x32/fp32", ONE_IMAGE, setting),
        dpm_solver_case("dpm_solver_step/256x3x64x64/fp32", BATCH, setting),
    ]


def sweeps(setting: Setting) -> dict[str, Callable[[int], Case]]:
    def shape(n: int) -> tuple[int, ...]:
        return (n // 1000, 1, 1000)

    return {
        "p_sample": lambda n: p_sample_case(f"p_sample/{n}", shape(n), torch.float32, setting),
        "p_sample/bf16": lambda n: p_sample_case(f"p_sample/bf16/{n}", shape(n), torch.bfloat16, setting),
        "ddim_step": lambda n: ddim_case(f"ddim_step/{n}", shape(n), setting),
    }
