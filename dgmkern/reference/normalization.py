"""GroupNorm, modulation and SiLU in plain torch; in fp64 throughout, rounded at the end."""

import torch
from torch import Tensor

from .gaussian import compute_dtype
from .layout import laid_out_as


def _group_moments(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(variance + eps) of each group of each sample. [N, C, ...] -> [N, groups] twice"""
    size = x.shape[1] // groups
    for pixels in x.shape[2:]:
        size *= pixels
    grouped = x.reshape(x.shape[0], groups, size)
    mean = grouped.mean(2)
    return mean, torch.rsqrt((grouped - mean.unsqueeze(2)).square().mean(2) + eps)


def _over_pixels(values: Tensor, x: Tensor) -> Tensor:
    """[N or 1, C] -> broadcastable over x [N, C, ...]"""
    return values.reshape(*values.shape, *[1] * (x.dim() - 2))


def _of_channels(of_group: Tensor, x: Tensor) -> Tensor:
    """[N, groups] -> [N, C, 1, ...]: of its group, for each channel"""
    n, groups = of_group.shape
    size = x.shape[1] // groups
    return _over_pixels(of_group.unsqueeze(2).expand(n, groups, size).reshape(n, groups * size), x)


def _affine(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(weight, bias, 1 + scale, shift, weight (1 + scale)) in x's dtype, [1 or N, C, 1, ...]"""
    one = x.new_ones(1, x.shape[1])
    w = one if weight is None else weight.to(x.dtype).unsqueeze(0)
    b = torch.zeros_like(one) if bias is None else bias.to(x.dtype).unsqueeze(0)
    factor = one if scale is None else 1 + scale.to(x.dtype)
    t = torch.zeros_like(one) if shift is None else shift.to(x.dtype)
    return tuple(_over_pixels(p, x) for p in (w, b, factor, t, w * factor))


def group_norm_silu(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """y = silu(h), h = (xhat weight + bias) (1 + scale) + shift, xhat = (x - mean) rstd; and mean, rstd [N, groups]."""
    wide, c = x.double(), compute_dtype(x)
    mean, rstd = _group_moments(wide, groups, eps)
    w, b, factor, t, _ = _affine(wide, weight, bias, scale, shift)
    h = ((wide - _of_channels(mean, x)) * _of_channels(rstd, x) * w + b) * factor + t
    return laid_out_as(x, torch.nn.functional.silu(h).to(x.dtype)), mean.to(c), rstd.to(c)


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
    """Gradients by x, weight, bias, scale, shift; empty ones by what is not given. mean and rstd are made again from x,
    so that the derivative of this by x is whole."""
    wide = x.double()
    mean, rstd = _group_moments(wide, groups, eps)
    w, b, factor, t, w_factor = _affine(wide, weight, bias, scale, shift)
    r = _of_channels(rstd, x)
    xhat = (wide - _of_channels(mean, x)) * r
    normed = xhat * w + b
    h = normed * factor + t
    s = torch.sigmoid(h)
    dh = grad.to(wide.dtype) * s * (1 + h * (1 - s))
    dxhat = dh * w_factor

    n, size = x.shape[0], x.shape[1] // groups
    pixels = tuple(range(2, x.dim()))

    def over_pixels_sum(values: Tensor) -> Tensor:  # [N, C, ...] -> [N, C]
        return values.sum(pixels) if pixels else values

    def group_mean(values: Tensor) -> Tensor:  # [N, C, ...] -> [N, C, 1, ...]
        sums = over_pixels_sum(values).reshape(n, groups, size).sum(2)
        return _of_channels(sums * (n * groups / max(1, x.numel())), x)

    dx = r * (dxhat - group_mean(dxhat) - xhat * group_mean(dxhat * xhat))

    def given(argument: Tensor | None, gradient: Tensor) -> Tensor:
        return x.new_empty(0) if argument is None else gradient.to(argument.dtype)

    dnormed = over_pixels_sum(dh * factor)
    return (
        laid_out_as(x, dx.to(x.dtype)),
        given(weight, over_pixels_sum(dh * factor * xhat).sum(0)),
        given(bias, dnormed.sum(0)),
        given(scale, over_pixels_sum(dh * normed)),
        given(shift, over_pixels_sum(dh)),
    )
