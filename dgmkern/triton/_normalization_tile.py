"""Tiles of channels and pixels of one sample on the device: elements, parameters of channels, sums along a side."""

import triton
import triton.language as tl

from ._tile import INTERPRETED, store


@triton.jit
def tile_of_channels(channels, pixels, LAST: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr):
    """This program's sample, the number of its part of the pixels, its channels and pixels; where those lie; masks of
    the channels and of the elements."""
    parts = tl.cdiv(pixels, PIXELS)
    blocks = tl.cdiv(channels, CHANNELS)
    block = tl.program_id(0) // parts
    part = (tl.program_id(0) % parts).to(tl.int64)
    sample = (block // blocks).to(tl.int64)
    channel = (block % blocks).to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS)
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
def parameter(pointer, at, mask, DEFAULT: tl.constexpr):
    """A parameter of channels in fp64, DEFAULT where it is not given."""
    if pointer is None:
        return tl.where(mask, tl.zeros_like(at).to(tl.float64) + DEFAULT, DEFAULT)
    else:
        return tl.load(pointer + at, mask, other=0.0).to(tl.float64)


@triton.jit
def modulated(weight, bias, scale, shift, scale_stride, shift_stride, sample, channel, mask):
    """weight (1 + scale) and bias (1 + scale) + shift of channels, fp64."""
    factor = 1.0 + parameter(scale, sample * scale_stride + channel, mask, 0.0)
    w = parameter(weight, channel, mask, 1.0) * factor
    b = parameter(bias, channel, mask, 0.0) * factor
    return w, b + parameter(shift, sample * shift_stride + channel, mask, 0.0)


@triton.jit
def sum_along(x, AXIS: tl.constexpr):
    """Sums along a side of a tile, which stays. The interpreter adds one number after the other, in large tiles: it
    does so in fp64."""
    if INTERPRETED:
        return tl.sum(x.to(tl.float64), AXIS, keep_dims=True).to(x.dtype)
    else:
        return tl.sum(x, AXIS, keep_dims=True)


@triton.jit
def put(pointer, x, mask):
    """fp64 numbers rounded to the pointer's dtype, to narrow ones through fp32."""
    if pointer.dtype.element_ty == tl.float64:
        tl.store(pointer, x, mask)
    else:
        store(pointer, x.to(tl.float32), mask)
