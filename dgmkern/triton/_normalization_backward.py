"""Backward kernels of GroupNorm, modulation and SiLU: sums over channels and groups, then the gradients."""

import triton
import triton.language as tl

from ._math import multiply_add
from ._math_logistic import silu_gradient
from ._normalization_tile import modulated, parameter, put, sum_along, tile_of_channels
from ._tile import kernel, load, store


@triton.jit
def _dh(grad, x, mean, rstd, w, b, group, at, of_channel, mask):
    """(x - mean, the gradient by h) of a tile, and rstd of its channels in fp64."""
    value = load(x + at, mask)
    root = tl.load(rstd + group, of_channel, other=0.0).to(tl.float64)
    d = value - tl.load(mean + group, of_channel, other=0.0)
    h = multiply_add(d, (root * w).to(value.dtype), b.to(value.dtype))
    return d, tl.where(mask, load(grad + at, mask) * silu_gradient(h), 0.0), root


@kernel
def sums_kernel(
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
    sample, part, channel, at, of_channel, mask = tile_of_channels(channels, pixels, LAST, CHANNELS, PIXELS)
    w, b = modulated(weight, bias, scale, shift, scale_stride, shift_stride, sample, channel, of_channel)
    group = sample * groups + channel // group_channels
    d, dh, _ = _dh(grad, x, mean, rstd, w, b, group, at, of_channel, mask)
    to = sums + (sample * channels + channel) * tl.cdiv(pixels, PIXELS) + part
    tl.store(to, sum_along(dh, AXIS).to(tl.float64), of_channel)
    of_x = sum_along(tl.where(mask, dh * d, 0.0), AXIS)
    tl.store(to + parts_in_all, of_x.to(tl.float64), of_channel)


@kernel
def group_kernel(
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
        w, _ = modulated(weight, bias, scale, shift, scale_stride, shift_stride, sample, channel, mask)
        dxhat += tl.sum(tl.where(mask, w * dh, 0.0), 1, keep_dims=True)
        dxhat_xhat += tl.sum(tl.where(mask, w * dh_x, 0.0), 1, keep_dims=True)
        if dscale is not None:
            by_scale = parameter(weight, channel, mask, 1.0) * dh_x
            put(dscale + row, by_scale + parameter(bias, channel, mask, 0.0) * dh, mask)
        if dshift is not None:
            put(dshift + row, dh, mask)
    elements = tl.full([], group_channels, tl.float64) * pixels  # group_channels may be a constant, 1
    tl.store(lines + group, -root * root * dxhat_xhat / elements, is_one)
    tl.store(lines + samples * groups + group, -root * dxhat / elements, is_one)


@kernel
def dx_kernel(
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
    sample, _, channel, at, of_channel, mask = tile_of_channels(channels, pixels, LAST, CHANNELS, PIXELS)
    w, b = modulated(weight, bias, scale, shift, scale_stride, shift_stride, sample, channel, of_channel)
    group = sample * groups + channel // group_channels
    d, dh, root = _dh(grad, x, mean, rstd, w, b, group, at, of_channel, mask)
    slope = tl.load(lines + group, of_channel, other=0.0).to(d.dtype)
    offset = tl.load(lines + groups_in_all + group, of_channel, other=0.0).to(d.dtype)
    store(dx + at, multiply_add(dh, (root * w).to(d.dtype), multiply_add(d, slope, offset)), mask)


@kernel
def parameters_kernel(
    totals, scale, scale_stride, dweight, dbias, samples, channels, CHANNELS: tl.constexpr, SAMPLES: tl.constexpr
):
    """dweight and dbias of some channels: sums over the samples of (1 + scale) times the totals."""
    channel = (tl.program_id(0).to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    by_weight = tl.zeros([1, CHANNELS], tl.float64)
    by_bias = tl.zeros([1, CHANNELS], tl.float64)
    for start in range(0, samples, SAMPLES):
        sample = (start + tl.arange(0, SAMPLES)).to(tl.int64)[:, None]
        mask = (sample < samples) & (channel < channels)
        factor = 1.0 + parameter(scale, sample * scale_stride + channel, mask, 0.0)
        at = sample * channels + channel
        dh = tl.load(totals + at, mask, other=0.0)
        dh_x = tl.load(totals + samples * channels + at, mask, other=0.0)
        by_bias += tl.sum(tl.where(mask, factor * dh, 0.0), 0, keep_dims=True)
        by_weight += tl.sum(tl.where(mask, factor * dh_x, 0.0), 0, keep_dims=True)
    if dweight is not None:
        put(dweight + channel, by_weight, channel < channels)
    if dbias is not None:
        put(dbias + channel, by_bias, channel < channels)
