"""Importance weights: k reparameterized samples of each datum with log p(z) - log q(z|x), in one pass."""

import torch
from torch import Tensor

from .. import _library, reference
from .._library import call
from ..reference.gaussian import compute_dtype
from ..reference.importance import samples_shape
from ._arguments import check_alike, check_batch, noise_source

_SAMPLED = "Tensor mu, Tensor logvar, SymInt k, Tensor? noise, Tensor? seed, SymInt offset"


def _log_ratio_fake(mu, logvar, k, noise, seed, offset):
    return mu.new_empty(samples_shape(mu, k)), mu.new_empty((mu.shape[0], k), dtype=compute_dtype(mu))


_log_ratio = _library.define(
    f"gaussian_log_ratio({_SAMPLED}) -> (Tensor, Tensor)",
    reference.importance.gaussian_log_ratio,
    _log_ratio_fake,
)
# a gradient is None where z or the log ratio is not used
_log_ratio_backward = _library.define(
    f"gaussian_log_ratio_backward(Tensor? grad_z, Tensor? grad_log_ratio, {_SAMPLED}) -> (Tensor, Tensor)",
    reference.importance.gaussian_log_ratio_backward,
    lambda grad_z, grad_log_ratio, mu, *_: (mu.new_empty(mu.shape), mu.new_empty(mu.shape)),
)
_LogRatio = _library.differentiable(
    _log_ratio,
    _log_ratio_backward,
    ("mu", "logvar"),
    drawn_as=lambda given: samples_shape(given["mu"], given["k"]),
)


def gaussian_log_ratio(
    mu: Tensor,
    logvar: Tensor,
    k: int,
    *,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """k samples z of each datum's q = N(mu, e^logvar), and log p(z) - log q(z) for p = N(0, I), in one pass.

    z = mu + exp(logvar / 2) eps; log ratio = sum_d (eps^2 + logvar - z^2) / 2 in nats (the 2 pi cancel): the part of an
    importance weight log p(x|z) + log p(z) - log q(z|x) without the decoder (Burda et al. 2016, eq. 8), so that
    the bound is `(log_ratio + log_p_x_given_z).logsumexp(1) - math.log(k)`. The squares are never subtracted from each
    other: it keeps its digits where q is near p. Noise drawn here is never stored: backward draws it again.
    Differentiable any number of times by mu, logvar and noise through both outputs: the total derivative, in which z
    of the log ratio depends on mu and logvar too.

    Args:
        mu, logvar: [N, ...], same shape, dtype and device; float64, float32, bfloat16 or float16; logvar =
            log sigma^2.
        k: samples of each datum, at least 1.
        noise: eps, like z; for exact parity with other code.
        seed: eps is `normal((N, k, ...), seed, offset=offset)`; int or int64 tensor of one element. The samples of one
            datum are numbered together, so that any split of the batch draws what one process draws.
        generator: draw the seed from it; by default from torch's generator of the device.
        offset: number of z's first element in the noise of `seed`: first datum * k * elements of a datum.

    Returns:
        z [N, k, ...], row-major, of mu's dtype (`z.flatten(0, 1)` is a decoder's batch, without a copy); log ratio
        [N, k], float32 (float64 for float64), of the z before it is rounded to its dtype.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, k < 1, or noise beside a seed.
    """
    check_batch("mu", mu)
    check_alike("logvar", logvar, "mu", mu)
    if isinstance(k, bool) or not isinstance(k, (int, torch.SymInt)):
        raise TypeError(f"k: expected an int, got {type(k).__name__}")
    if k < 1:
        raise ValueError(f"k: expected a number of samples >= 1, got {k}")
    z_like = mu if noise is None else mu.unsqueeze(1).expand(samples_shape(mu, k))
    noise, seed = noise_source("z", z_like, noise, generator, seed, offset)
    return call(_log_ratio, _LogRatio, mu, logvar, k, noise, seed, offset)
