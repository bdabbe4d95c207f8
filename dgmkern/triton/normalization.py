"""GroupNorm, modulation and SiLU: y = silu(h), h = (xhat weight + bias) (1 + scale) + shift.

Formulas: csrc/math/normalization.h; kernels: _normalization_kernels.py and _normalization_backward.py. A program has a
tile of channels and pixels of one sample, with its longer side where elements lie one after the other. Sums over tiles
are kept for each channel and part of its pixels (a tile's), and added up in order, in fp64.
"""

import math

import torch
from torch import Tensor

from ..reference.gaussian import compute_dtype
from ..reference.layout import empty_as, layout_of
from ._launch import TILE, launch, power_of_2
from ._normalization_backward import dx_kernel, group_kernel, parameters_kernel, sums_kernel
from ._normalization_kernels import apply_kernel, merge_kernel, moments_kernel


class _Shape:
    """x [N, C, ...] in groups, as the kernels see it."""

    def __init__(self, x: Tensor, groups: int):
        if x.dim() < 2 or groups < 1 or x.shape[1] < 1 or x.shape[1] % groups:
            raise ValueError(f"groups: expected a divisor of the channels of x {tuple(x.shape)}, got {groups}")
        self.layout, self.device = layout_of(x), x.device
        self.samples, self.channels = x.shape[:2]
        self.pixels = math.prod(x.shape[2:])
        self.groups, self.group_channels = groups, self.channels // groups
        last = self.layout is not torch.contiguous_format or self.pixels == 1
        if last:
            channels = min(power_of_2(self.channels), TILE // 16)
            pixels = min(power_of_2(self.pixels), TILE // channels)
        else:
            pixels = min(power_of_2(self.pixels), TILE)
            channels = min(power_of_2(self.channels), TILE // pixels)
        self.parts = -(-self.pixels // pixels)
        self.programs = self.samples * -(-self.channels // channels) * self.parts
        # the fp64 numbers of many channels are to stay in registers
        self.tile = {"LAST": last, "CHANNELS": channels, "PIXELS": pixels, "num_warps": 8 if last else 4}

    def dense(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self.layout)

    def groups_a_program(self, each: int) -> tuple[int, dict]:
        """Programs, and tiles [GROUPS, BLOCK], of a kernel that reads `each` numbers of a group."""
        tile = TILE // 4  # of fp64 numbers
        block = min(tile, power_of_2(each), 1024)
        groups = min(tile // block, power_of_2(self.samples * self.groups))
        programs = -(-self.samples * self.groups // groups)
        return programs, {"PIXELS": self.tile["PIXELS"], "GROUPS": groups, "BLOCK": block}

    def sums(self, x: Tensor, *shape: int) -> Tensor:
        """Scratch for two sums of everything of a shape."""
        return x.new_empty((2, *shape), dtype=torch.float64)


def _parameters(x: Tensor, *given: Tensor | None) -> tuple:
    """weight, bias [C], scale, shift [N, C], and how far the samples of the last two are from each other."""
    for i, (name, p) in enumerate(zip(("weight", "bias", "scale", "shift"), given, strict=True)):
        if p is None:
            continue
        if p.shape != x.shape[i < 2 : 2] or p.device != x.device:
            raise ValueError(f"{name}: expected {'[C]' if i < 2 else '[N, C]'} on {x.device}, got {tuple(p.shape)}")
        if not p.is_floating_point() or (p.dtype is torch.float64 and x.dtype is not torch.float64):
            raise ValueError(f"{name}: expected a floating dtype no wider than the arithmetic, got {p.dtype}")
    dense = [p if p is None or p.stride(-1) == 1 else p.contiguous() for p in given]
    return *dense, *(0 if p is None else p.stride(0) for p in dense[2:])


def group_norm_silu(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """y like x, and mean and rstd [N, groups]."""
    s = _Shape(x, groups)
    y, x = empty_as(x), s.dense(x)
    mean, rstd = (x.new_empty((s.samples, groups), dtype=compute_dtype(x)) for _ in range(2))
    if x.numel() == 0:  # the mean of nothing
        return y, mean.fill_(math.nan), rstd.fill_(math.nan)
    moments, exact = s.sums(x, s.samples, s.channels, s.parts), s.sums(x, s.samples, groups)
    launch(moments_kernel, s.programs, s.device, x, moments, s.channels, s.pixels, moments[0].numel(), **s.tile)
    sizes = (moments[0].numel(), mean.numel(), s.group_channels, s.pixels)
    programs, how = s.groups_a_program(s.group_channels * s.parts)
    launch(merge_kernel, programs, s.device, moments, mean, rstd, exact, *sizes, **how, EPS=eps)
    args = (x, exact, *_parameters(x, weight, bias, scale, shift), y, mean.numel(), groups, s.group_channels)
    launch(apply_kernel, s.programs, s.device, *args, s.channels, s.pixels, **s.tile)
    return y, mean, rstd


def group_norm_silu_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by x, weight, bias, scale, shift; empty ones by what is not given."""
    s = _Shape(x, groups)
    if grad.shape != x.shape or grad.dtype is not x.dtype:
        raise ValueError(f"grad: expected {x.dtype} {tuple(x.shape)}, got {grad.dtype} {tuple(grad.shape)}")
    for moment in (mean, rstd):
        if moment.shape != (s.samples, groups) or moment.dtype is not compute_dtype(x):
            raise ValueError(f"mean, rstd: expected {compute_dtype(x)} [{s.samples}, {groups}] twice")
    dx, x = empty_as(x), s.dense(x)
    given = (weight, bias, scale, shift)
    results = [x.new_empty(0) if p is None else p.new_empty(p.shape) for p in given]
    if x.numel() == 0:
        return dx, *(gradient.zero_() for gradient in results)
    dweight, dbias, dscale, dshift = (None if p is None else d for p, d in zip(given, results, strict=True))
    parameters = _parameters(x, *given)
    inputs = (s.dense(grad), x, mean.contiguous(), rstd.contiguous(), *parameters)
    sums, totals = s.sums(x, s.samples, s.channels, s.parts), s.sums(x, s.samples, s.channels)
    lines = s.sums(x, s.samples, groups)
    shape = (groups, s.group_channels, s.channels, s.pixels)
    launch(sums_kernel, s.programs, s.device, *inputs, sums, sums[0].numel(), *shape, **s.tile)
    args = (sums, inputs[3], *parameters, totals, lines, dscale, dshift, sums[0].numel(), *shape, s.samples)
    programs, how = s.groups_a_program(s.group_channels)
    launch(group_kernel, programs, s.device, *args, **how)
    launch(dx_kernel, s.programs, s.device, *inputs, lines, dx, s.samples * groups, *shape, **s.tile)
    if weight is not None or bias is not None:
        channels = min(power_of_2(s.channels), 64)
        how = {"CHANNELS": channels, "SAMPLES": min(power_of_2(s.samples), 16)}
        args = (totals, parameters[2], parameters[4], dweight, dbias, s.samples, s.channels)
        launch(parameters_kernel, -(-s.channels // channels), s.device, *args, **how)
    return dx, *results
