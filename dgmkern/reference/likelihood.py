"""Negative log-likelihoods in nats, in plain torch: of each element, in the dtype given, with their derivatives; and
summed per sample, with their gradients, in fp32 (fp64 for fp64)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .gaussian import compute_dtype, over_samples, per_sample
from .layout import laid_out_as

_DELTA = 1 / 255  # half of a bin of [-1, 1] in 256 levels
_DELTA_ROUNDING = {  # what rounding takes from it
    torch.float32: _DELTA - torch.tensor(_DELTA, dtype=torch.float32).item(),
    torch.float64: float.fromhex("0x1.0101p-64"),
}
_HALF_LOG_2PI = math.log(2 * math.pi) / 2


def bernoulli(logits: Tensor, x: Tensor) -> Tensor:
    """softplus(l) - x l, as (1 - x) max(l, 0) - x min(l, 0) + log(1 + e^-|l|), in which nothing cancels."""
    return torch.where(logits > 0, 1 - x, -x) * logits + torch.log1p(torch.exp(-logits.abs()))


def bernoulli_grad(logits: Tensor, x: Tensor) -> Tensor:
    """Its derivative by the logits, sigmoid(l) - x; the one by x is -l."""
    return torch.where(logits > 0, (1 - x) - torch.sigmoid(-logits), torch.sigmoid(logits) - x)


def gaussian(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """(log 2 pi + logvar + (x - mean)^2 e^-logvar) / 2."""
    return _HALF_LOG_2PI + (logvar + (x - mean) ** 2 * torch.exp(-logvar)) / 2


def gaussian_grad(x: Tensor, mean: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """Its derivatives by mean (the one by x is the negative) and logvar."""
    diff = x - mean
    scaled = diff * torch.exp(-logvar)
    return -scaled, (1 - diff * scaled) / 2


def mills_ratio(a: Tensor) -> Tensor:
    """Q(a) / phi(a) of N(0, 1) for a >= 0: by erfcx, and from a = 4 on by Laplace's continued fraction
    1 / (a + 1 / (a + 2 / (a + ...))), whose derivative does not cancel as that of erfcx does."""
    near, far = a.clamp(max=4), a.clamp(min=4)
    fraction = far
    for k in range(32 if a.dtype == torch.float64 else 14, 0, -1):
        fraction = far + k / fraction
    return torch.where(a < 4, math.sqrt(math.pi / 2) * torch.special.erfcx(near / math.sqrt(2)), 1 / fraction)


class _Bin(NamedTuple):
    """The bin of x seen from the mean, with its forms as csrc/math/discretized_gaussian.h has them. Where an element
    does not take a form, it shows that form a harmless number instead of its own: no gradient of it is then NaN."""

    sign: Tensor  # of x - mean; of x in the outermost bins
    per_scale: Tensor  # 1 / s
    narrow: Tensor  # p = 2 h phi(u) S
    tail: Tensor  # p = phi(a) r, else p = 1 - phi(a) r
    u: Tensor  # |x - mean| / s (narrow)
    h: Tensor  # delta / s (narrow)
    a: Tensor  # u - h (tail, middle)
    b: Tensor  # u + h (tail, middle)
    w: Tensor  # u h (tail, middle); phi(b) / phi(a) = e^-2w, 0 in the outermost bins
    r: Tensor  # M(|a|) -+ e^-2w M(b) (tail, middle)

    @property
    def phi(self) -> Tensor:
        """phi(a) (middle)."""
        a = torch.where(self.tail, -1.0, self.a)
        return torch.exp(-a * a / 2 - _HALF_LOG_2PI)


def _bin(x: Tensor, mean: Tensor, log_scale: Tensor) -> _Bin:
    lowest, far = (-600, 1e200) if x.dtype == torch.float64 else (-80, 1e25)
    outermost = (x > 0.999) | (x < -0.999)
    # with its rounding error: where the scale is far smaller than delta, an end of the bin needs all digits
    diff = x - mean
    part = diff - x
    error = ((x - (diff - part)) - (mean + part)).nan_to_num(nan=0.0)  # NaN where the mean is infinite
    sign = torch.where(torch.where(outermost, x, diff) < 0, -1.0, 1.0).to(x.dtype)
    per_scale = torch.exp(-log_scale.clamp(min=lowest))
    distance = sign * diff
    u, h = (distance * per_scale).clamp(-far, far), _DELTA * per_scale
    near_end = (distance - _DELTA) + (sign * error - _DELTA_ROUNDING[x.dtype])
    a, b, w = (near_end * per_scale).clamp(-far, far), u + h, u * h
    narrow = ~outermost & (h < 0.25) & (w < 0.5)
    a, tail = torch.where(narrow, 1.0, a), narrow | (a >= 0)
    b, w = torch.where(narrow | outermost, 1.0, b), torch.where(outermost, math.inf, torch.where(narrow, 1.0, w))
    far_end = torch.exp(-2 * w) * mills_ratio(b)
    r = mills_ratio(a.abs()) + torch.where(tail, -far_end, far_end)
    return _Bin(sign, per_scale, narrow, tail, torch.where(narrow, u, 0.0), torch.where(narrow, h, 0.0), a, b, w, r)


def _narrow(w: Tensor, h: Tensor) -> Tensor:
    """S = int_0^1 cosh(w t) e^(-h^2 t^2 / 2) dt = sum He_2k(w / h) h^2k / (2k + 1)! for w < 1/2, h < 1/4."""
    before, now, total = torch.ones_like(w), w, torch.ones_like(w)
    for k in range(1, 9 if w.dtype == torch.float64 else 5):
        even = w * now - (2 * k - 1) * h * h * before
        before, now = even, w * even - 2 * k * h * h * now
        total = total + even / math.factorial(2 * k + 1)
    return total


def _sinh_over(w: Tensor) -> Tensor:
    """sinh(w) / w for w < 1/2."""
    return sum(w ** (2 * k) / math.factorial(2 * k + 1) for k in range(1, 8)) + 1


def discretized_gaussian(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """-log p, p = Phi((x + delta - mean) / s) - Phi((x - delta - mean) / s), delta = 1 / 255, the first term 1 for
    x > 0.999, the second 0 for x < -0.999. No form of it cancels or underflows."""
    bin = _bin(x, mean, log_scale)
    middle = ~bin.tail
    narrow = bin.u * bin.u / 2 + (log_scale - math.log(2 * _DELTA)) - torch.log(_narrow(bin.u * bin.h, bin.h))
    tail = bin.a * torch.where(middle, 1.0, bin.a) / 2 - torch.log(bin.r)
    inside = -torch.log1p(-torch.where(middle, bin.phi * bin.r, 0.0))
    return torch.where(middle, inside, _HALF_LOG_2PI + torch.where(bin.narrow, narrow, tail))


def discretized_gaussian_grad(x: Tensor, mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Its derivatives by mean (the one by x is the negative) and log_scale, finite wherever it is."""
    bin = _bin(x, mean, log_scale)
    w, largest = bin.u * bin.h, torch.finfo(x.dtype).max
    # (phi(a) - phi(b)) / p and (b phi(b) - a phi(a)) / p
    narrow = torch.exp(-bin.h * bin.h / 2) / _narrow(w, bin.h)
    other = torch.where(bin.tail, 1 / bin.r, bin.phi / (1 - torch.where(bin.tail, 0.0, bin.phi * bin.r)))
    by_mean = torch.where(bin.narrow, narrow * bin.u * _sinh_over(w), -other * torch.expm1(-2 * bin.w))
    by_scale = torch.where(
        bin.narrow,
        narrow * (torch.cosh(w) - bin.u * bin.u * _sinh_over(w)),
        other * (bin.b * torch.exp(-2 * bin.w) - bin.a),
    )
    return (-bin.sign * by_mean * bin.per_scale).clamp(-largest, largest), by_scale.clamp(-largest, largest)


def _nll(each: Callable[..., Tensor], *args: Tensor) -> Tensor:
    c = compute_dtype(args[0])
    return per_sample(each(*[x.to(c) for x in args]))


def _backward(grad: Tensor, derivatives: Callable, *args: Tensor) -> tuple[Tensor, ...]:
    c, like = compute_dtype(args[0]), args[0]
    g = over_samples(grad, like)
    return tuple(laid_out_as(like, (g * d).to(like.dtype)) for d in derivatives(*[x.to(c) for x in args]))


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    """`bernoulli`, summed per sample. [N]"""
    return _nll(bernoulli, logits, x)


def bernoulli_nll_backward(grad: Tensor, logits: Tensor, x: Tensor) -> Tensor:
    """grad (sigmoid(logits) - x)."""
    return _backward(grad, lambda *args: (bernoulli_grad(*args),), logits, x)[0]


def gaussian_nll(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """`gaussian`, summed per sample. [N]"""
    return _nll(gaussian, x, mean, logvar)


def gaussian_nll_backward(grad: Tensor, x: Tensor, mean: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients by mean and logvar."""
    return _backward(grad, gaussian_grad, x, mean, logvar)


def discretized_gaussian_nll(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """`discretized_gaussian`, summed per sample. [N]"""
    return _nll(discretized_gaussian, x, mean, log_scale)


def discretized_gaussian_nll_backward(
    grad: Tensor, x: Tensor, mean: Tensor, log_scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients by mean and log_scale."""
    return _backward(grad, discretized_gaussian_grad, x, mean, log_scale)
