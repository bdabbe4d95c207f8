"""Group normalization, modulation by an embedding and SiLU in one pass."""

import torch
from torch import Tensor
from torch.autograd.function import Function

from .. import _library, reference
from .._library import below_autograd, call
from ..reference.gaussian import compute_dtype
from ..reference.layout import empty_as
from ._arguments import check_floating

_PARAMETERS = "Tensor? weight, Tensor? bias, Tensor? scale, Tensor? shift"


def _moments_like(x: Tensor, groups: int) -> Tensor:
    return x.new_empty((x.shape[0], groups), dtype=compute_dtype(x))


def _backward_fake(grad, x, mean, rstd, weight, bias, scale, shift, groups, eps):
    def gradient(argument: Tensor | None, *shape: int) -> Tensor:
        return x.new_empty(0) if argument is None else argument.new_empty(shape)

    n, c = x.shape[:2]
    return empty_as(x), gradient(weight, c), gradient(bias, c), gradient(scale, n, c), gradient(shift, n, c)


_op = _library.define(
    f"group_norm_silu(Tensor x, int groups, {_PARAMETERS}, float eps) -> (Tensor, Tensor, Tensor)",
    reference.normalization.group_norm_silu,
    lambda x, groups, *_: (empty_as(x), _moments_like(x, groups), _moments_like(x, groups)),
)
_backward_op = _library.define(
    f"group_norm_silu_backward(Tensor grad, Tensor x, Tensor mean, Tensor rstd, {_PARAMETERS}, int groups, float eps)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference.normalization.group_norm_silu_backward,
    _backward_fake,
)


class _Backward(Function):
    """Its derivatives are those of the reference, which makes mean and rstd from x: none is left for them."""

    @staticmethod
    def forward(ctx, grad, x, mean, rstd, weight, bias, scale, shift, groups, eps):
        ctx.save_for_backward(grad, x, mean, rstd, weight, bias, scale, shift)
        ctx.groups, ctx.eps = groups, eps
        return below_autograd(_backward_op, grad, x, mean, rstd, weight, bias, scale, shift, groups, eps)

    @staticmethod
    def backward(ctx, *cotangents):
        args = [*ctx.saved_tensors, ctx.groups, ctx.eps]
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[:8]) if needed and i not in (2, 3)]
        grads = [None] * len(args)
        if not wanted:
            return tuple(grads)
        found = _library.vjp(reference.normalization.group_norm_silu_backward, args, wanted, cotangents)
        for i, grad in zip(wanted, found, strict=True):
            grads[i] = grad
        return tuple(grads)


class _GroupNormSiLU(Function):
    @staticmethod
    def forward(ctx, x, groups, weight, bias, scale, shift, eps):
        y, mean, rstd = below_autograd(_op, x, groups, weight, bias, scale, shift, eps)
        ctx.save_for_backward(x, mean, rstd, weight, bias, scale, shift)
        ctx.groups, ctx.eps = groups, eps
        ctx.set_materialize_grads(False)  # mean and rstd are seldom used
        return y, mean, rstd

    @staticmethod
    def backward(ctx, grad, dmean, drstd):
        x, mean, rstd, weight, bias, scale, shift = ctx.saved_tensors
        dx = dweight = dbias = dscale = dshift = None
        if grad is not None:
            dx, dweight, dbias, dscale, dshift = call(
                _backward_op, _Backward, grad, x, mean, rstd, weight, bias, scale, shift, ctx.groups, ctx.eps
            )
        if (dmean is not None or drstd is not None) and ctx.needs_input_grad[0]:
            by_moments = _moments_backward(dmean, drstd, x, mean, rstd)
            dx = by_moments if dx is None else dx + by_moments
        given = zip((dweight, dbias, dscale, dshift), ctx.needs_input_grad[2:6], strict=True)
        return dx, None, *(d if needed else None for d, needed in given), None


def _moments_backward(dmean: Tensor | None, drstd: Tensor | None, x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """The gradient by x of a group's mean and rstd: (dmean - drstd rstd^3 (x - mean)) / elements of the group."""
    grouped = x.to(mean.dtype).reshape(*mean.shape, x.numel() // max(1, mean.numel()))
    dx = torch.zeros_like(grouped)
    if dmean is not None:
        dx = dx + dmean.unsqueeze(2)
    if drstd is not None:
        dx = dx - (drstd * rstd**3).unsqueeze(2) * (grouped - mean.unsqueeze(2))
    return (dx / max(1, grouped.shape[2])).reshape(x.shape).to(x.dtype)


_library.register_autograd(_backward_op, _Backward)
_library.register_autograd(_op, _GroupNormSiLU)


def _check_parameter(name: str, p: Tensor, x: Tensor, shape: tuple[int, ...]) -> None:
    check_floating(name, p)
    if p.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(p.shape)}")
    if p.dtype == torch.float64 and x.dtype != torch.float64:
        raise TypeError(
            f"{name}: expected a dtype no wider than float32, in which {x.dtype} is normalized, got {p.dtype}"
        )
    if p.device != x.device:
        raise ValueError(f"{name}: expected the device {x.device} of x, got {p.device}")


def group_norm_silu(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """SiLU of a modulated group normalization, in one pass: the layer before each convolution of a diffusion UNet.

    y = silu(h), silu(h) = h / (1 + e^-h); h = (xhat * weight + bias) * (1 + scale) + shift;
    xhat = (x - mean) / sqrt(variance + eps) over each of `groups` groups of neighbouring channels of each sample (Wu &
    He 2018, equations 1 to 6; variance without Bessel's correction). The modulation is adaptive group normalization
    (Dhariwal & Nichol 2021, equation 3, with y_s = 1 + scale).

    Mean and variance are summed about a mean close by, in fp32 and fp64: an offset of x costs no digits but those that
    x itself has lost. h is computed as a (x - mean) + b with a and b of the channel, so an infinite scale gives NaN
    where weight and bias pull apart. Backward makes h again from x: only x and mean and rstd of the groups are kept.
    Differentiable any number of times by every tensor; forward mode raises NotImplementedError.

    Args:
        x: [N, C, ...], any number of further dimensions; float64, float32, bfloat16 or float16. Contiguous and
            channels_last(_3d) tensors are read in place; y lies as x does.
        groups: a divisor of C.
        weight, bias: [C] or None (1 and 0).
        scale, shift: [N, C] or None (0), of any strides, such as the halves of a linear layer's output.
        eps: added to the variance.

        The four parameters may have any of the dtypes, float64 only beside a float64 x; they are not rounded to x's
        dtype, and their gradients have theirs.

    Returns:
        y, like x.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device; groups that do not divide C.
    """
    check_floating("x", x)
    if x.dim() < 2:
        raise ValueError(f"x: expected a tensor [N, C, ...], got shape {tuple(x.shape)}")
    if isinstance(groups, bool) or not isinstance(groups, int):
        raise TypeError(f"groups: expected an int, got {type(groups).__name__}")
    n, c = x.shape[:2]
    if groups < 1 or c < 1 or c % groups:
        raise ValueError(f"groups: expected a divisor of the {c} channels of x, got {groups}")
    for name, parameter, shape in (
        ("weight", weight, (c,)),
        ("bias", bias, (c,)),
        ("scale", scale, (n, c)),
        ("shift", shift, (n, c)),
    ):
        if parameter is not None:
            _check_parameter(name, parameter, x, shape)
    if isinstance(eps, bool) or not isinstance(eps, (int, float)):
        raise TypeError(f"eps: expected a float, got {type(eps).__name__}")
    if not eps >= 0:
        raise ValueError(f"eps: expected a number >= 0, got {eps}")
    return call(_op, _GroupNormSiLU, x, groups, weight, bias, scale, shift, float(eps))[0]
