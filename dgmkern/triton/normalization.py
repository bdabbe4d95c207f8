"""GroupNorm, modulation and SiLU: y = silu(h), h = (xhat weight + bias) (1 + scale) + shift.

Formulas: csrc/math/normalization.h. A program has a tile of channels and pixels of one sample, with its longer side
where elements lie one after the other. Sums over tiles are kept for each channel and part of its pixels (a tile's), and
added up in order, in fp64.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference.gaussian import compute_dtype
from ..reference.layout import empty_as, layout_of
from ._launch import INTERPRETED, TILE, launch, power_of_2
from ._math import multiply_add
from ._math_logistic import silu, silu_gradient
from ._tile import load, store

_INTERPRETED = tl.constexpr(INTERPRETED)


@triton.jit
def _tile(channels, pixels, LAST: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr):
    """This program's sample, the number of its part of the pixels, its channels and pixels; where those lie; masks of
    the channels and of the elements."""
    program = tl.program_id(0).to(tl.int64)
    parts = tl.cdiv(pixels, PIXELS)
    blocks = tl.cdiv(channels, CHANNELS)
    part = program % parts
    sample = program // parts // blocks
    channel = (program // parts % blocks) * CHANNELS + tl.arange(0, CHANNELS)
    pixel = part * PIXELS + tl.arange(0, PIXELS)
    if LAST:
        channel = channel[None, :]
        pixel = pixel[:, None]
        at = (sample * pixels + pixel) * channels + channel
    else:
        channel = channel[:, None]
        pixel = pixel[None, :]
        at = (sample * channels + channel) * pixels + pixel
    return sample, part, channel, at, channel < channels, (channel < channels) & (pixel < pixels)


@triton.jit
def _parameter(pointer, at, mask, DEFAULT: tl.constexpr):
    """A parameter of channels in fp64, DEFAULT where it is not given."""
    if pointer is None:
        return tl.where(mask, tl.zeros_like(at).to(tl.float64) + DEFAULT, DEFAULT)
    else:
        return tl.load(pointer + at, mask, other=0.0).to(tl.float64)


@triton.jit
def _modulated(weight, bias, scale, shift, scale_stride, shift_stride, sample, channel, mask):
    """weight (1 + scale) and bias (1 + scale) + shift of channels, fp64."""
    factor = 1.0 + _parameter(scale, sample * scale_stride + channel, mask, 0.0)
    w = _parameter(weight, channel, mask, 1.0) * factor
    b = _parameter(bias, channel, mask, 0.0) * factor
    return w, b + _parameter(shift, sample * shift_stride + channel, mask, 0.0)


@triton.jit
def _sum(x, AXIS: tl.constexpr):
    """Sums along a side of a tile, which stays. The interpreter adds one number after the other, in large tiles: it
    does so in fp64."""
    if _INTERPRETED:
        return tl.sum(x.to(tl.float64), AXIS, keep_dims=True).to(x.dtype)
    else:
        return tl.sum(x, AXIS, keep_dims=True)


@triton.jit
def _moments_kernel(
    x,
    moments,
    channels,
    pixels,
    parts_in_all,
    LAST: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Mean of a part of a channel, and the sum of squares about it: moments fp64 [2, N, C, parts]."""
    AXIS: tl.constexpr = 0 if LAST else 1
    sample, part, channel, at, of_channel, mask = _tile(channels, pixels, LAST, CHANNELS, PIXELS)
    if LAST:
        first = (sample * pixels + part * PIXELS) * channels + channel
    else:
        first = (sample * channels + channel) * pixels + part * PIXELS
    count = tl.minimum(pixels - part * PIXELS, PIXELS)
    pivot = load(x + first, of_channel)  # an offset of all numbers costs no digits
    d = tl.where(mask, load(x + at, mask) - pivot, 0.0)
    near = _sum(d, AXIS) / count.to(d.dtype)
    d = tl.where(mask, d - near, 0.0)
    # of numbers so far apart that their squares overflow in fp32
    unit = tl.where(tl.max(tl.abs(d), AXIS, keep_dims=True) > 1e18, 8.271806125530277e-25, 1.0).to(d.dtype)  # 2^-80
    scaled = d * unit
    squares = _sum(scaled * scaled, AXIS).to(tl.float64)
    squares /= unit.to(tl.float64) * unit.to(tl.float64)
    off = _sum(d, AXIS).to(tl.float64) / count
    inside = squares - off * off * count
    to = moments + (sample * channels + channel) * tl.cdiv(pixels, PIXELS) + part
    tl.store(to, pivot.to(tl.float64) + near.to(tl.float64) + off, of_channel)
    tl.store(to + parts_in_all, tl.where(inside < 0.0, 0.0, inside), of_channel)


@triton.jit
def _merge_kernel(
    moments,
    mean,
    rstd,
    exact,
    parts_in_all,
    groups_in_all,
    group_channels,
    pixels,
    EPS: tl.constexpr,
    PIXELS: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Mean and 1 / sqrt(variance + eps) of some groups from the parts of their channels (Chan, Golub & LeVeque 1983);
    also as exact fp64 [2, N, groups]."""
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)[:, None]
    is_one = group < groups_in_all
    parts = tl.cdiv(pixels, PIXELS)
    count = group_channels * parts
    first = moments + group * count
    elements = group_channels.to(tl.float64) * pixels
    total = tl.zeros([GROUPS, BLOCK], tl.float64)
    for start in range(0, count, BLOCK):
        i = start + tl.arange(0, BLOCK)[None, :]
        weight = tl.minimum(pixels - i % parts * PIXELS, PIXELS).to(tl.float64)
        total += weight * tl.load(first + i, is_one & (i < count), other=0.0)
    centre = tl.sum(total, 1, keep_dims=True) / elements
    squares = tl.zeros([GROUPS, BLOCK], tl.float64)
    for start in range(0, count, BLOCK):
        i = start + tl.arange(0, BLOCK)[None, :]
        weight = tl.minimum(pixels - i % parts * PIXELS, PIXELS).to(tl.float64)
        off = tl.load(first + i, is_one & (i < count), other=0.0) - centre
        more = tl.load(first + parts_in_all + i, is_one & (i < count), other=0.0) + weight * off * off
        squares += tl.where(i < count, more, 0.0)
    root = 1.0 / tl.sqrt(tl.sum(squares, 1, keep_dims=True) / elements + EPS)
    tl.store(mean + group, centre.to(mean.dtype.element_ty), is_one)
    tl.store(rstd + group, root.to(rstd.dtype.element_ty), is_one)
    tl.store(exact + group, centre, is_one)
    tl.store(exact + groups_in_all + group, root, is_one)


@triton.jit
def _apply_kernel(
    x,
    exact,
    weight,
    bias,
    scale,
    shift,
    scale_stride,
    shift_stride,
    y,
    groups_in_all,
    groups,
    group_channels,
    channels,
    pixels,
    LAST: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    sample, _, channel, at, of_channel, mask = _tile(channels, pixels, LAST, CHANNELS, PIXELS)
    w, b = _modulated(weight, bias, scale, shift, scale_stride, shift_stride, sample, channel, of_channel)
    group = sample * groups + channel // group_channels
    mean = tl.load(exact + group, of_channel, other=0.0)
    a = tl.load(exact + groups_in_all + group, of_channel, other=0.0) * w
    value = load(x + at, mask)
    rounded = mean.to(value.dtype)
    b += (rounded.to(tl.float64) - mean) * a  # what rounding takes from the mean
    h = multiply_add(value - rounded, a.to(value.dtype), b.to(value.dtype))
    store(y + at, silu(h), mask)


@triton.jit
def _dh(grad, x, mean, rstd, w, b, group, at, of_channel, mask):
    """(x - mean, the gradient by h) of a tile, and rstd of its channels in fp64."""
    value = load(x + at, mask)
    root = tl.load(rstd + group, of_channel, other=0.0).to(tl.float64)
    d = value - tl.load(mean + group, of_channel, other=0.0)
    h = multiply_add(d, (root * w).to(value.dtype), b.to(value.dtype))
    return d, tl.where(mask, load(grad + at, mask) * silu_gradient(h), 0.0), root


@triton.jit
def _sums_kernel(
    grad,
    x,
    mean,
    rstd,
    weight,
    bias,
    scale,
    shift,
    scale_stride,
    shift_stride,
    sums,
    parts_in_all,
    groups,
    group_channels,
    channels,
    pixels,
    LAST: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Sums over parts of channels of dh and dh (x - mean): sums fp64 [2, N, C, parts]."""
    AXIS: tl.constexpr = 0 if LAST else 1
    sample, part, channel, at, of_channel, mask = _tile(channels, pixels, LAST, CHANNELS, PIXELS)
    w, b = _modulated(weight, bias, scale, shift, scale_stride, shift_stride, sample, channel, of_channel)
    group = sample * groups + channel // group_channels
    d, dh, _ = _dh(grad, x, mean, rstd, w, b, group, at, of_channel, mask)
    to = sums + (sample * channels + channel) * tl.cdiv(pixels, PIXELS) + part
    tl.store(to, _sum(dh, AXIS).to(tl.float64), of_channel)
    of_x = _sum(tl.where(mask, dh * d, 0.0), AXIS)
    tl.store(to + parts_in_all, of_x.to(tl.float64), of_channel)


@triton.jit
def _put(pointer, x, mask):
    """fp64 numbers rounded to the pointer's dtype, to narrow ones through fp32."""
    if pointer.dtype.element_ty == tl.float64:
        tl.store(pointer, x, mask)
    else:
        store(pointer, x.to(tl.float32), mask)


@triton.jit
def _group_kernel(
    sums,
    rstd,
    weight,
    bias,
    scale,
    shift,
    scale_stride,
    shift_stride,
    totals,
    lines,
    dscale,
    dshift,
    parts_in_all,
    groups,
    group_channels,
    channels,
    pixels,
    samples,
    PIXELS: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Of some groups: totals fp64 [2, N, C], the sums over a channel of dh and dh xhat; dscale and dshift; and the
    line, fp64 [2, N, groups]: dx = rstd w dh + slope (x - mean) + offset."""
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)[:, None]
    is_one = group < samples * groups
    sample = group // groups
    root = tl.load(rstd + group, is_one, other=0.0).to(tl.float64)
    parts = tl.cdiv(pixels, PIXELS)
    dxhat = tl.zeros([GROUPS, 1], tl.float64)
    dxhat_xhat = tl.zeros([GROUPS, 1], tl.float64)
    for start in range(0, group_channels, BLOCK):
        of_group = start + tl.arange(0, BLOCK)[None, :]
        mask = is_one & (of_group < group_channels)
        channel = group % groups * group_channels + of_group
        row = sample * channels + channel
        dh = tl.zeros([GROUPS, BLOCK], tl.float64)
        dh_x = tl.zeros([GROUPS, BLOCK], tl.float64)
        for part in range(0, parts):
            dh += tl.load(sums + row * parts + part, mask, other=0.0)
            dh_x += tl.load(sums + parts_in_all + row * parts + part, mask, other=0.0)
        dh_x *= root
        tl.store(totals + row, dh, mask)
        tl.store(totals + samples.to(tl.int64) * channels + row, dh_x, mask)
        w, _ = _modulated(weight, bias, scale, shift, scale_stride, shift_stride, sample, channel, mask)
        dxhat += tl.sum(tl.where(mask, w * dh, 0.0), 1, keep_dims=True)
        dxhat_xhat += tl.sum(tl.where(mask, w * dh_x, 0.0), 1, keep_dims=True)
        if dscale is not None:
            by_scale = _parameter(weight, channel, mask, 1.0) * dh_x
            _put(dscale + row, by_scale + _parameter(bias, channel, mask, 0.0) * dh, mask)
        if dshift is not None:
            _put(dshift + row, dh, mask)
    elements = group_channels.to(tl.float64) * pixels
    tl.store(lines + group, -root * root * dxhat_xhat / elements, is_one)
    tl.store(lines + samples * groups + group, -root * dxhat / elements, is_one)


@triton.jit
def _dx_kernel(
    grad,
    x,
    mean,
    rstd,
    weight,
    bias,
    scale,
    shift,
    scale_stride,
    shift_stride,
    lines,
    dx,
    groups_in_all,
    groups,
    group_channels,
    channels,
    pixels,
    LAST: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    sample, _, channel, at, of_channel, mask = _tile(channels, pixels, LAST, CHANNELS, PIXELS)
    w, b = _modulated(weight, bias, scale, shift, scale_stride, shift_stride, sample, channel, of_channel)
    group = sample * groups + channel // group_channels
    d, dh, root = _dh(grad, x, mean, rstd, w, b, group, at, of_channel, mask)
    slope = tl.load(lines + group, of_channel, other=0.0).to(d.dtype)
    offset = tl.load(lines + groups_in_all + group, of_channel, other=0.0).to(d.dtype)
    store(dx + at, multiply_add(dh, (root * w).to(d.dtype), multiply_add(d, slope, offset)), mask)


@triton.jit
def _parameters_kernel(
    totals, scale, scale_stride, dweight, dbias, samples, channels, CHANNELS: tl.constexpr, SAMPLES: tl.constexpr
):
    """dweight and dbias of some channels: sums over the samples of (1 + scale) times the totals."""
    channel = (tl.program_id(0).to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    by_weight = tl.zeros([1, CHANNELS], tl.float64)
    by_bias = tl.zeros([1, CHANNELS], tl.float64)
    for start in range(0, samples, SAMPLES):
        sample = (start + tl.arange(0, SAMPLES)).to(tl.int64)[:, None]
        mask = (sample < samples) & (channel < channels)
        factor = 1.0 + _parameter(scale, sample * scale_stride + channel, mask, 0.0)
        at = sample * channels + channel
        dh = tl.load(totals + at, mask, other=0.0)
        dh_x = tl.load(totals + samples * channels + at, mask, other=0.0)
        by_bias += tl.sum(tl.where(mask, factor * dh, 0.0), 0, keep_dims=True)
        by_weight += tl.sum(tl.where(mask, factor * dh_x, 0.0), 0, keep_dims=True)
    if dweight is not None:
        _put(dweight + channel, by_weight, channel < channels)
    if dbias is not None:
        _put(dbias + channel, by_bias, channel < channels)


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
    launch(_moments_kernel, s.programs, s.device, x, moments, s.channels, s.pixels, moments[0].numel(), **s.tile)
    sizes = (moments[0].numel(), mean.numel(), s.group_channels, s.pixels)
    programs, how = s.groups_a_program(s.group_channels * s.parts)
    launch(_merge_kernel, programs, s.device, moments, mean, rstd, exact, *sizes, **how, EPS=eps)
    args = (x, exact, *_parameters(x, weight, bias, scale, shift), y, mean.numel(), groups, s.group_channels)
    launch(_apply_kernel, s.programs, s.device, *args, s.channels, s.pixels, **s.tile)
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
    launch(_sums_kernel, s.programs, s.device, *inputs, sums, sums[0].numel(), *shape, **s.tile)
    args = (sums, inputs[3], *parameters, totals, lines, dscale, dshift, sums[0].numel(), *shape, s.samples)
    programs, how = s.groups_a_program(s.group_channels)
    launch(_group_kernel, programs, s.device, *args, **how)
    launch(_dx_kernel, s.programs, s.device, *inputs, lines, dx, s.samples * groups, *shape, **s.tile)
    if weight is not None or bias is not None:
        channels = min(power_of_2(s.channels), 64)
        how = {"CHANNELS": channels, "SAMPLES": min(power_of_2(s.samples), 16)}
        args = (totals, parameters[2], parameters[4], dweight, dbias, s.samples, s.channels)
        launch(_parameters_kernel, -(-s.channels // channels), s.device, *args, **how)
    return dx, *results
