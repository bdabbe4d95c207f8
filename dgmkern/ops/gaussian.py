"""Diagonal Gaussians: reparameterized sampling, KL divergence, and both in one pass."""

import torch
from torch import Tensor
from torch.autograd.function import Function

from .. import _library, reference
from .._library import below_autograd, call
from ..reference.gaussian import compute_dtype
from ..reference.layout import empty_as
from ._arguments import check_alike, check_batch, check_floating, noise_source

_REDUCTIONS = ("none", "sample", "sum", "mean")
_DRAWN = "Tensor? noise, Tensor? seed, SymInt offset"


def _per_sample_fake(mu, *_):
    return mu.new_empty(mu.shape[:1], dtype=compute_dtype(mu))


_rsample = _library.define(
    f"gaussian_rsample(Tensor mu, Tensor logvar, {_DRAWN}) -> Tensor",
    reference.gaussian.gaussian_rsample,
    lambda mu, logvar, noise, seed, offset: empty_as(mu),
)
_rsample_backward = _library.define(
    f"gaussian_rsample_backward(Tensor grad, Tensor logvar, {_DRAWN}) -> Tensor",
    reference.gaussian.gaussian_rsample_backward,
    lambda grad, logvar, noise, seed, offset: empty_as(logvar),
)
_kl = _library.define(
    "gaussian_kl(Tensor mu, Tensor logvar) -> Tensor",
    reference.gaussian.gaussian_kl,
    lambda mu, logvar: empty_as(mu),
)
_kl_sample = _library.define(
    "gaussian_kl_sample(Tensor mu, Tensor logvar) -> Tensor",
    reference.gaussian.gaussian_kl_sample,
    _per_sample_fake,
)
_kl_backward = _library.define(
    "gaussian_kl_backward(Tensor grad, Tensor mu, Tensor logvar) -> (Tensor, Tensor)",
    reference.gaussian.gaussian_kl_backward,
    lambda grad, mu, logvar: (empty_as(mu), empty_as(mu)),
)
_between = _library.define(
    "gaussian_kl_between(Tensor mu, Tensor logvar, Tensor mu_p, Tensor logvar_p) -> Tensor",
    reference.gaussian.gaussian_kl_between,
    lambda mu, logvar, mu_p, logvar_p: empty_as(mu),
)
_between_sample = _library.define(
    "gaussian_kl_between_sample(Tensor mu, Tensor logvar, Tensor mu_p, Tensor logvar_p) -> Tensor",
    reference.gaussian.gaussian_kl_between_sample,
    _per_sample_fake,
)
_between_backward = _library.define(
    "gaussian_kl_between_backward(Tensor grad, Tensor mu, Tensor logvar, Tensor mu_p, Tensor logvar_p)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    reference.gaussian.gaussian_kl_between_backward,
    lambda grad, mu, *_: tuple(empty_as(mu) for _ in range(4)),
)
_rsample_kl = _library.define(
    f"gaussian_rsample_kl(Tensor mu, Tensor logvar, {_DRAWN}) -> (Tensor, Tensor)",
    reference.gaussian.gaussian_rsample_kl,
    lambda mu, logvar, noise, seed, offset: (empty_as(mu), _per_sample_fake(mu)),
)
# a gradient is None where z or kl is not used: then neither zeros nor noise are made for it
_rsample_kl_backward = _library.define(
    f"gaussian_rsample_kl_backward(Tensor? grad_z, Tensor? grad_kl, Tensor mu, Tensor logvar, {_DRAWN})"
    " -> (Tensor, Tensor)",
    reference.gaussian.gaussian_rsample_kl_backward,
    lambda grad_z, grad_kl, mu, *_: (empty_as(mu), empty_as(mu)),
)

_RsampleBackward = _library.differentiable(_rsample_backward, drawn_as="logvar")


class _Rsample(Function):
    """By hand: the gradient by mu is the gradient by z itself, and mu need not be kept."""

    @staticmethod
    def forward(ctx, mu, logvar, noise, seed, offset):
        ctx.save_for_backward(logvar, noise, seed)
        ctx.offset = offset
        return below_autograd(_rsample, mu, logvar, noise, seed, offset)

    @staticmethod
    def backward(ctx, grad):
        logvar, noise, seed = ctx.saved_tensors
        dlogvar = dnoise = None
        if ctx.needs_input_grad[1]:
            dlogvar = call(_rsample_backward, _RsampleBackward, grad, logvar, noise, seed, ctx.offset)
        if ctx.needs_input_grad[2]:
            c = compute_dtype(grad)
            dnoise = (grad.to(c) * torch.exp(logvar.to(c) / 2)).to(grad.dtype)
        return grad, dlogvar, dnoise, None, None


_library.register_autograd(_rsample, _Rsample)
_KL = _library.differentiable(_kl, _kl_backward, ("mu", "logvar"))
_KLSample = _library.differentiable(_kl_sample, _kl_backward, ("mu", "logvar"))
_Between = _library.differentiable(_between, _between_backward, ("mu", "logvar", "mu_p", "logvar_p"))
_BetweenSample = _library.differentiable(_between_sample, _between_backward, ("mu", "logvar", "mu_p", "logvar_p"))
_RsampleKL = _library.differentiable(_rsample_kl, _rsample_kl_backward, ("mu", "logvar"), drawn_as="mu")


def gaussian_rsample(
    mu: Tensor,
    logvar: Tensor,
    *,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """Reparameterized sample z = mu + exp(logvar / 2) eps (Kingma & Welling 2014, section 2.4) in one pass.

    Differentiable any number of times by mu, logvar and noise. Noise drawn here is never stored: backward draws the
    same numbers again.

    Args:
        mu, logvar: same shape, dtype and device; float64, float32, bfloat16 or float16; logvar is log sigma^2.
        noise: eps, like mu; for exact parity with other code.
        seed: eps is `normal(mu.shape, seed, offset=offset)`; int or int64 tensor of one element.
        generator: draw the seed from it; by default from torch's generator of the device.
        offset: number of mu's first element in the noise of `seed`.

    Returns:
        z, like mu.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, or noise beside a seed.
    """
    check_floating("mu", mu)
    check_alike("logvar", logvar, "mu", mu)
    noise, seed = noise_source("mu", mu, noise, generator, seed, offset)
    return call(_rsample, _Rsample, mu, logvar, noise, seed, offset)


def gaussian_kl(
    mu: Tensor,
    logvar: Tensor,
    mu_p: Tensor | None = None,
    logvar_p: Tensor | None = None,
    *,
    reduction: str = "none",
) -> Tensor:
    """KL divergence in nats of N(mu, e^logvar) from N(mu_p, e^logvar_p), by default from N(0, 1).

    KL = ((mu - mu_p)^2 / e^logvar_p + e^d - 1 - d) / 2 with d = logvar - logvar_p (Kingma & Welling 2014, appendix B).
    e^d - 1 - d is evaluated as one function, on d as it is before rounding: relative error below 1e-6 in fp32, where KL
    itself is 1e-8 and where the variances are far apart.
    Differentiable any number of times by all four.

    Args:
        mu, logvar: [N, ...], same shape, dtype and device; float64, float32, bfloat16 or float16.
        mu_p, logvar_p: both or neither, like mu.
        reduction: "none": per element; "sample": summed over all dimensions but the first, [N]; "sum": over all
            elements; "mean": over all elements, divided by their number.

    Returns:
        KL like mu for "none", else float32 (float64 for float64).

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device; an unknown reduction.
    """
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction: expected one of {', '.join(_REDUCTIONS)}, got {reduction!r}")
    check_batch("mu", mu)
    check_alike("logvar", logvar, "mu", mu)
    each = reduction == "none"
    if mu_p is None and logvar_p is None:
        kl = call(*((_kl, _KL) if each else (_kl_sample, _KLSample)), mu, logvar)
    else:
        for name, x in (("mu_p", mu_p), ("logvar_p", logvar_p)):
            if x is None:
                raise ValueError(f"{name}: expected a tensor beside the other parameter of the prior, got None")
            check_alike(name, x, "mu", mu)
        kl = call(*((_between, _Between) if each else (_between_sample, _BetweenSample)), mu, logvar, mu_p, logvar_p)
    if reduction == "sum":
        return kl.sum()
    return kl.sum() / mu.numel() if reduction == "mean" else kl


def gaussian_rsample_kl(
    mu: Tensor,
    logvar: Tensor,
    *,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """A reparameterized sample and its KL divergence from N(0, 1), in one pass: the middle of a VAE.

    z = mu + exp(logvar / 2) eps; kl_n = sum_d (mu^2 + e^logvar - 1 - logvar) / 2 in nats. Equal to `gaussian_rsample`
    and `gaussian_kl(..., reduction="sample")`, whose arguments it takes. Differentiable any number of times.

    Args:
        mu, logvar: [N, ...], same shape, dtype and device; float64, float32, bfloat16 or float16.
        noise, generator, seed, offset: as in `gaussian_rsample`.

    Returns:
        z like mu; kl [N], float32 (float64 for float64).

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, or noise beside a seed.
    """
    check_batch("mu", mu)
    check_alike("logvar", logvar, "mu", mu)
    noise, seed = noise_source("mu", mu, noise, generator, seed, offset)
    return call(_rsample_kl, _RsampleKL, mu, logvar, noise, seed, offset)
