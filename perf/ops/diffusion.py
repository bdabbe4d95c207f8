"""Cases of the diffusion family: q_sample."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

import dgmkern
from perf.case import Case, Setting, Target, Variant
from perf.checks import assert_close_to_fp64, assert_normal_of_seed, chunks, replayed_seed, specified_noise
from perf.peers import torch_variants

BATCH = (256, 3, 64, 64)
ONE_IMAGE = (1, 3, 32, 32)
SCHEDULE = dgmkern.DiffusionSchedule.linear(1000)


def eager_drawn(x0: Tensor, t: Tensor, sqrt_abar: Tensor, sqrt_one_minus_abar: Tensor) -> Tensor:
    """The usual code: draw, gather, broadcast, two products and a sum."""
    noise = torch.randn_like(x0)
    return eager_given(x0, t, sqrt_abar, sqrt_one_minus_abar, noise)


def eager_target(x0: Tensor, t: Tensor, sqrt_abar: Tensor, sqrt_one_minus_abar: Tensor) -> tuple[Tensor, Tensor]:
    noise = torch.randn_like(x0)
    return eager_given(x0, t, sqrt_abar, sqrt_one_minus_abar, noise), noise


def eager_given(x0: Tensor, t: Tensor, sqrt_abar: Tensor, sqrt_one_minus_abar: Tensor, noise: Tensor) -> Tensor:
    shape = (-1, *(1,) * (x0.dim() - 1))
    return sqrt_abar[t].view(shape) * x0 + sqrt_one_minus_abar[t].view(shape) * noise


def check_x_t(x_t: Tensor, inputs: SimpleNamespace, noise: Tensor | None) -> None:
    """x_t against the closed form in fp64; without `noise`, with the noise of the seed that the call drew."""
    each = inputs.x0[0].numel()
    seed = replayed_seed(x_t.device) if noise is None else None
    sqrt_abar = SCHEDULE.sqrt_alphas_cumprod.to(x_t.device)
    sqrt_one_minus_abar = SCHEDULE.sqrt_one_minus_alphas_cumprod.to(x_t.device)
    for part in chunks(len(inputs.x0), each):
        x0 = inputs.x0[part].double()
        eps = noise[part].double() if seed is None else specified_noise(x0.numel(), seed, part.start * each).view_as(x0)
        shape = (-1, *(1,) * (x0.dim() - 1))
        signal = sqrt_abar[inputs.t[part]].view(shape) * x0
        noisy = sqrt_one_minus_abar[inputs.t[part]].view(shape) * eps
        # the scale is that of the two terms: where they cancel, the sum keeps their absolute error
        assert_close_to_fp64(x_t[part], signal + noisy, what="x_t", ulps=8.0, scale=signal.abs() + noisy.abs() + 1e-3)


def check_drawn(inputs: SimpleNamespace, output: Tensor) -> None:
    check_x_t(output, inputs, None)


def check_given(inputs: SimpleNamespace, output: Tensor) -> None:
    check_x_t(output, inputs, inputs.noise)


def check_target(inputs: SimpleNamespace, output: tuple[Tensor, Tensor]) -> None:
    x_t, eps = output
    check_x_t(x_t, inputs, None)
    assert_normal_of_seed(eps, replayed_seed(eps.device))


def make_inputs(shape: tuple[int, ...], dtype: torch.dtype, *, noise: bool, device: str = "cpu") -> SimpleNamespace:
    """x0 uniform in [-1, 1], t uniform, the tables eager code gathers from (fp32, cast to the sample's dtype)."""
    inputs = SimpleNamespace(
        x0=(torch.rand(shape, device=device) * 2 - 1).to(dtype),
        t=torch.randint(0, SCHEDULE.steps, shape[:1], device=device),
        sqrt_abar=SCHEDULE.sqrt_alphas_cumprod.to(device, dtype),
        sqrt_one_minus_abar=SCHEDULE.sqrt_one_minus_alphas_cumprod.to(device, dtype),
    )
    if noise:
        inputs.noise = torch.randn(shape, device=device).to(dtype)
        inputs.out = torch.empty_like(inputs.x0)
    return inputs


def drawn_case(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, setting: Setting, *, targets: tuple[Target, ...] = ()
) -> Case:
    """x_t with the noise drawn: read x0, write x_t."""
    elements = torch.Size(shape).numel()
    seed = torch.tensor([5], dtype=torch.int64, device=setting.device)
    variants = torch_variants(eager_drawn, "x0 t sqrt_abar sqrt_one_minus_abar", random=True)
    variants["dgmkern"] = Variant(lambda i: dgmkern.q_sample(i.x0, i.t, SCHEDULE), check_drawn)
    if any(target.against == "dgmkern.normal" for target in targets):
        variants["dgmkern.normal"] = Variant(
            lambda i: dgmkern.normal(shape, seed, dtype=dtype, device=setting.device),
            lambda i, output: assert_normal_of_seed(output, seed),
        )
    return Case(
        name,
        lambda: make_inputs(shape, dtype, noise=False, device=setting.device),
        variants,
        bytes_moved=2 * elements * dtype.itemsize,
        elements=elements,
        normals=elements,
        targets=targets,
    )


def given_case(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, setting: Setting, *, targets: tuple[Target, ...] = ()
) -> Case:
    """x_t of given noise: read x0 and noise, write x_t; beside it, torch ops that move the same bytes."""
    elements = torch.Size(shape).numel()
    variants = torch_variants(eager_given, "x0 t sqrt_abar sqrt_one_minus_abar noise", random=False)
    variants["dgmkern"] = Variant(lambda i: dgmkern.q_sample(i.x0, i.t, SCHEDULE, noise=i.noise), check_given)
    variants["torch.add(out=)"] = Variant(lambda i: torch.add(i.x0, i.noise, out=i.out))
    variants["torch.lerp(out=)"] = Variant(lambda i: torch.lerp(i.x0, i.noise, 0.3, out=i.out))
    return Case(
        name,
        lambda: make_inputs(shape, dtype, noise=True, device=setting.device),
        variants,
        bytes_moved=3 * elements * dtype.itemsize,
        elements=elements,
        targets=targets,
    )


def target_case(name: str, shape: tuple[int, ...], dtype: torch.dtype, setting: Setting) -> Case:
    """x_t and eps, the noise drawn: read x0, write both."""
    elements = torch.Size(shape).numel()
    variants = torch_variants(eager_target, "x0 t sqrt_abar sqrt_one_minus_abar", random=True)
    variants["dgmkern"] = Variant(lambda i: dgmkern.q_sample(i.x0, i.t, SCHEDULE, target="eps"), check_target)
    return Case(
        name,
        lambda: make_inputs(shape, dtype, noise=False, device=setting.device),
        variants,
        bytes_moved=3 * elements * dtype.itemsize,
        elements=elements,
        normals=elements,
    )


def cases(setting: Setting) -> list[Case]:
    fp32, bf16 = torch.float32, torch.bfloat16
    drawn = (Target("eager", at_least=6.0), Target("dgmkern.normal", at_most=1.15))
    given = (Target("eager", at_least=3.0), Target("torch.add(out=)", at_most=1.3))
    return [
        drawn_case("q_sample/drawn/256x3x64x64/fp32", BATCH, fp32, setting, targets=drawn),
        given_case("q_sample/given/256x3x64x64/fp32", BATCH, fp32, setting, targets=given),
        target_case("q_sample/eps/256x3x64x64/fp32", BATCH, fp32, setting),
        drawn_case("q_sample/drawn/256x3x64x64/bf16", BATCH, bf16, setting),
        given_case("q_sample/given/256x3x64x64/bf16", BATCH, bf16, setting),
        drawn_case("q_sample/drawn/1x3x32x32/fp32", ONE_IMAGE, fp32, setting),
        given_case("q_sample/given/1x3x32x32/fp32", ONE_IMAGE, fp32, setting),
    ]


def sweeps(setting: Setting) -> dict[str, Callable[[int], Case]]:
    return {
        "q_sample/drawn": lambda n: drawn_case(f"q_sample/drawn/{n}", (n // 1000, 1000), torch.float32, setting),
        "q_sample/drawn/bf16": lambda n: drawn_case(
            f"q_sample/drawn/bf16/{n}", (n // 1000, 1000), torch.bfloat16, setting
        ),
        "q_sample/given": lambda n: given_case(f"q_sample/given/{n}", (n // 1000, 1000), torch.float32, setting),
    }
