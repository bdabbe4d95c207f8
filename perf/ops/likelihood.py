"""Cases of the likelihoods: Bernoulli, Gaussian, discretized Gaussian, forward and forward + backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn import functional as F

import dgmkern
from perf.case import Case, Setting, Target, Variant
from perf.checks import assert_close_to_fp64
from perf.peers import forward_backward, torch_variants

PIXELS = (1024, 784)
MANY_PIXELS = (4096, 784)
IMAGES = (64, 3, 64, 64)
DELTA = 1 / 255


def eager_bernoulli(logits: Tensor, x: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def eager_gaussian(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    return 0.5 * (math.log(2 * math.pi) + logvar + (x - mean) ** 2 * torch.exp(-logvar)).flatten(1).sum(1)


def eager_discretized(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """What diffusion code writes: tanh for the distribution function, probabilities clamped at 1e-12."""

    def cdf(z: Tensor) -> Tensor:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    centered, per_scale = x - mean, torch.exp(-log_scale)
    upper, lower = cdf(per_scale * (centered + DELTA)), cdf(per_scale * (centered - DELTA))
    inside = torch.where(x > 0.999, 1 - lower, upper - lower)
    p = torch.where(x < -0.999, upper, inside)
    return -torch.log(p.clamp(min=1e-12)).flatten(1).sum(1)


def exact_discretized(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """By the exact tail probabilities in fp64, good for the inputs here."""

    def tail(z: Tensor) -> Tensor:
        return torch.erfc(z / math.sqrt(2)) / 2

    sign = torch.where(torch.where(x.abs() > 0.999, x, x - mean) < 0, -1.0, 1.0)
    near, far = ((sign * (x - mean) + side) * torch.exp(-log_scale) for side in (-DELTA, DELTA))
    beyond = torch.where(x.abs() > 0.999, 0.0, tail(far))
    outside = torch.log(tail(near.clamp(min=0)) - beyond)
    inside = torch.log1p(-tail(-near.clamp(max=0)) - beyond)
    return -torch.where(near > 0, outside, inside).flatten(1).sum(1)


def bernoulli_inputs(shape: tuple[int, ...], device: str) -> SimpleNamespace:
    return SimpleNamespace(logits=torch.randn(shape, device=device) * 3, x=torch.rand(shape, device=device).round())


def image_inputs(device: str) -> SimpleNamespace:
    """8-bit pixels with a prediction near them."""
    x = torch.randint(0, 256, IMAGES, device=device) / 127.5 - 1
    mean = x + torch.randn(IMAGES, device=device) * 0.1
    scale = torch.randn(IMAGES, device=device) * 0.3 - 2
    return SimpleNamespace(x=x, mean=mean, scale=scale, logvar=2 * scale)


def case(
    name: str,
    setting: Setting,
    make: Callable[[str], SimpleNamespace],
    eager: Callable[..., Tensor],
    exact: Callable[..., Tensor],
    ours: Callable[..., Tensor],
    arguments: str,
    by: str,
    elements: int,
    *,
    backward: bool,
    targets: tuple[Target, ...] = (),
) -> Case:
    """Forward reads the arguments; backward reads them again and writes a gradient for each in `by`."""
    names, wanted = arguments.split(), by.split()

    def setup() -> SimpleNamespace:
        inputs = make(setting.device)
        if backward:
            for each in wanted:
                getattr(inputs, each).requires_grad_()
            inputs.grad = torch.rand(len(getattr(inputs, names[0])), device=setting.device)
        return inputs

    def check(inputs: SimpleNamespace, output) -> None:
        args = [getattr(inputs, each).detach().double() for each in names]
        leaves = [a.requires_grad_() for each, a in zip(names, args, strict=True) if each in wanted]
        nll = exact(*args)
        assert_close_to_fp64((output[0] if backward else output).detach(), nll.detach(), what="nll", ulps=16.0)
        if backward:
            grads = torch.autograd.grad(nll, leaves, inputs.grad.double())
            for got, want, each in zip(output[1], grads, wanted, strict=True):
                scale = want.abs().mean().item()
                assert_close_to_fp64(got, want, what=f"gradient by {each}", ulps=64.0, scale=scale)

    wrap = forward_backward(by, "grad") if backward else lambda run: run
    variants = torch_variants(eager, arguments, random=False, wrap=wrap)
    variants["dgmkern"] = Variant(wrap(lambda i: ours(*[getattr(i, each) for each in names])), check)
    moved = len(names) * elements + ((len(names) + len(wanted)) * elements if backward else 0)
    return Case(name, setup, variants, bytes_moved=4 * moved, elements=elements, targets=targets)


def cases(setting: Setting) -> list[Case]:
    found = []
    for shape, targets in ((PIXELS, (Target("eager", at_least=2.5),)), (MANY_PIXELS, (Target("eager", at_least=2.5),))):
        for way in ("forward", "backward"):
            found.append(
                case(
                    f"bernoulli_nll/{way}/{'x'.join(map(str, shape))}/fp32",
                    setting,
                    lambda device, shape=shape: bernoulli_inputs(shape, device),
                    eager_bernoulli,
                    eager_bernoulli,
                    dgmkern.bernoulli_nll,
                    "logits x",
                    "logits",
                    math.prod(shape),
                    backward=way == "backward",
                    targets=targets if way == "backward" else (),
                )
            )
    pairs = (
        ("gaussian_nll", eager_gaussian, eager_gaussian, "x mean logvar", "mean logvar"),
        ("discretized_gaussian_nll", eager_discretized, exact_discretized, "x mean scale", "mean scale"),
    )
    for name, eager, exact, arguments, by in pairs:
        for way in ("forward", "backward"):
            found.append(
                case(
                    f"{name}/{way}/{'x'.join(map(str, IMAGES))}/fp32",
                    setting,
                    image_inputs,
                    eager,
                    exact,
                    getattr(dgmkern, name),
                    arguments,
                    by,
                    math.prod(IMAGES),
                    backward=way == "backward",
                )
            )
    return found


def sweeps(setting: Setting) -> dict[str, Callable[[int], Case]]:
    def bernoulli(n: int) -> Case:
        return case(
            f"bernoulli_nll/backward/{n}",
            setting,
            lambda device: bernoulli_inputs((n // 1000, 1000), device),
            eager_bernoulli,
            eager_bernoulli,
            dgmkern.bernoulli_nll,
            "logits x",
            "logits",
            n,
            backward=True,
        )

    return {"bernoulli_nll/backward": bernoulli}
