"""Cases of the normalization family: GroupNorm, modulation and SiLU on the activations of a small UNet."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

import dgmkern
from perf.case import Case, Setting, Target, Variant
from perf.checks import assert_close_to_fp64
from perf.peers import forward_backward, torch_variants

SHAPE = (64, 64, 28, 28)
ONE = (1, 64, 32, 32)  # sampling
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, *, modulated: bool, gradients: bool, device: str
) -> SimpleNamespace:
    n, c = shape[:2]

    def activations() -> Tensor:
        return torch.randn(shape, device=device).to(dtype).contiguous(memory_format=LAYOUTS[layout])

    inputs = SimpleNamespace(x=activations(), weight=torch.randn(c, device=device), bias=torch.randn(c, device=device))
    inputs.weight, inputs.bias = inputs.weight.to(dtype), inputs.bias.to(dtype)
    if modulated:
        inputs.scale, inputs.shift = torch.randn(n, 2 * c, device=device).to(dtype).chunk(2, dim=1)
    if gradients:
        for leaf in vars(inputs).values():
            leaf.requires_grad_()
        inputs.grad = activations()
    return inputs


def check(inputs: SimpleNamespace, output: tuple, groups: int) -> None:
    """y, and every gradient where there are any, against autograd of the definition in fp64."""
    backward = isinstance(output, tuple)
    names = [name for name in ("x", "weight", "bias", "scale", "shift") if hasattr(inputs, name)]
    wide = {name: getattr(inputs, name).detach().double().requires_grad_() for name in names}
    x = wide["x"]
    grouped = x.reshape(x.shape[0], groups, -1)
    centred = grouped - grouped.mean(2, keepdim=True)
    h = (centred * (centred.square().mean(2, keepdim=True) + 1e-5).rsqrt()).reshape(x.shape)
    h = h * wide["weight"][:, None, None] + wide["bias"][:, None, None]
    if "scale" in wide:
        h = h * (1 + wide["scale"][:, :, None, None]) + wide["shift"][:, :, None, None]
    want = h * torch.sigmoid(h)
    got = output[0] if backward else output
    assert_close_to_fp64(got.detach(), want.detach(), what="y", ulps=8.0)
    if backward:
        wanted = torch.autograd.grad(want, [wide[name] for name in names], inputs.grad.double())
        for name, ours, exact in zip(names, output[1], wanted, strict=True):
            # rounding in sums of thousands of terms shows in those that nearly cancel
            assert_close_to_fp64(ours, exact, what=f"d{name}", ulps=16.0, scale=exact.abs().max().item())


def case(
    name: str,
    setting: Setting,
    groups: int,
    dtype: torch.dtype,
    layout: str,
    *,
    shape: tuple[int, ...] = SHAPE,
    modulated: bool = False,
    backward: bool = True,
    targets: tuple[Target, ...] = (),
) -> Case:
    """Forward reads x and writes y; backward reads x and the gradient and writes dx. Parameters count for nothing."""
    arguments = "x weight bias scale shift" if modulated else "x weight bias"

    def eager(x, weight, bias, scale=None, shift=None):
        h = F.group_norm(x, groups, weight, bias)
        if scale is not None:
            h = h * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
        return F.silu(h)

    def ours(i):
        more = {"scale": i.scale, "shift": i.shift} if modulated else {}
        return dgmkern.group_norm_silu(i.x, groups, i.weight, i.bias, **more)

    wrap = forward_backward(arguments, "grad") if backward else lambda run: run
    variants = torch_variants(eager, arguments, random=False, wrap=wrap)
    variants["dgmkern"] = Variant(wrap(ours), lambda i, out: check(i, out, groups))
    elements = torch.Size(shape).numel()
    return Case(
        name,
        lambda: make_inputs(shape, dtype, layout, modulated=modulated, gradients=backward, device=setting.device),
        variants,
        bytes_moved=(5 if backward else 2) * elements * dtype.itemsize,
        elements=elements,
        targets=targets,
    )


def cases(setting: Setting) -> list[Case]:
    size = "x".join(map(str, SHAPE))
    found = []
    for label, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        for layout in LAYOUTS:
            for groups in (4, 8, 32):
                targets = ()
                if label == "fp32":
                    targets = (Target("eager", at_least=2.0),)
                elif layout == "channels_last" and groups >= 8:  # fewer than 16 channels a group
                    targets = (Target("eager", at_least=8.0),)
                name = f"group_norm_silu/backward/{size}/{layout}/{groups}_groups/{label}"
                found.append(case(name, setting, groups, dtype, layout, targets=targets))
    for label, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        name = f"group_norm_silu/modulated/{size}/channels_last/8_groups/{label}"
        found.append(case(name, setting, 8, dtype, "channels_last", modulated=True))
    for layout in LAYOUTS:
        one = "x".join(map(str, ONE))
        name = f"group_norm_silu/forward/{one}/{layout}/4_groups/fp32"
        found.append(case(name, setting, 4, torch.float32, layout, shape=ONE, backward=False))
    return found


def sweeps(setting: Setting) -> dict[str, Callable[[int], Case]]:
    def channels_last(n: int) -> Case:
        name = f"group_norm_silu/backward/{n}"
        return case(name, setting, 4, torch.float32, "channels_last", shape=(n // 1000, 8, 25, 5))

    return {"group_norm_silu/backward": channels_last}
