"""Forward kernels of GroupNorm, modulation and SiLU: moments of parts of channels, of groups, and the result."""

import triton.language as tl

from ._math import multiply_add
from ._math_logistic import silu
from ._normalization_tile import modulated, sum_along, tile_of_channels
from ._tile import kernel, load, store


@kernel
def moments_kernel(
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
    sample, part, channel, at, of_channel, mask = tile_of_channels(channels, pixels, LAST, CHANNELS, PIXELS)
    if LAST:
        first = (sample * pixels + part * PIXELS) * channels + channel
    else:
        first = (sample * channels + channel) * pixels + part * PIXELS
    count = tl.minimum(pixels - part * PIXELS, PIXELS)
    pivot = load(x + first, of_channel)  # an offset of all numbers costs no digits
    d = tl.where(mask, load(x + at, mask) - pivot, 0.0)
    near = sum_along(d, AXIS) / count.to(d.dtype)
    d = tl.where(mask, d - near, 0.0)
    # of numbers so far apart that their squares overflow in fp32
    unit = tl.where(tl.max(tl.abs(d), AXIS, keep_dims=True) > 1e18, 8.271806125530277e-25, 1.0).to(d.dtype)  # 2^-80
    scaled = d * unit
    squares = sum_along(scaled * scaled, AXIS).to(tl.float64)
    squares /= unit.to(tl.float64) * unit.to(tl.float64)
    off = sum_along(d, AXIS).to(tl.float64) / count
    inside = squares - off * off * count
    to = moments + (sample * channels + channel) * tl.cdiv(pixels, PIXELS) + part
    tl.store(to, pivot.to(tl.float64) + near.to(tl.float64) + off, of_channel)
    tl.store(to + parts_in_all, tl.where(inside < 0.0, 0.0, inside), of_channel)


@kernel
def merge_kernel(
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
    elements = tl.full([], group_channels, tl.float64) * pixels  # group_channels may be a constant, 1
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


@kernel
def apply_kernel(
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
    sample, _, channel, at, of_channel, mask = tile_of_channels(channels, pixels, LAST, CHANNELS, PIXELS)
    w, b = modulated(weight, bias, scale, shift, scale_stride, shift_stride, sample, channel, of_channel)
    group = sample * groups + channel // group_channels
    mean = tl.load(exact + group, of_channel, other=0.0)
    a = tl.load(exact + groups_in_all + group, of_channel, other=0.0) * w
    value = load(x + at, mask)
    rounded = mean.to(value.dtype)
    b += (rounded.to(tl.float64) - mean) * a  # what rounding takes from the mean
    h = multiply_add(value - rounded, a.to(value.dtype), b.to(value.dtype))
    store(y + at, silu(h), mask)
