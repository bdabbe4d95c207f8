"""The forward process of diffusion: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, its target and its posterior."""

import torch
from torch import Tensor
from torch.autograd.function import Function

from .. import _library, reference
from .._library import below_autograd, call
from ..reference.diffusion import LOGVAR, gathered_or_nan
from ..reference.gaussian import compute_dtype
from ..reference.layout import empty_as
from ..schedule import DiffusionSchedule
from ._arguments import check_alike, check_batch, check_schedule, noise_source, steps_tensor

_NOISED = "Tensor x0, Tensor t, Tensor table, Tensor? noise, Tensor? seed, SymInt offset"
_TARGETS = ("eps", "x0", "v")

_q_sample = _library.define(
    f"q_sample({_NOISED}) -> Tensor",
    reference.diffusion.q_sample,
    lambda x0, t, table, noise, seed, offset: empty_as(x0),
)
_q_sample_target = _library.define(
    f"q_sample_target({_NOISED}, str target) -> (Tensor, Tensor)",
    reference.diffusion.q_sample_target,
    lambda x0, t, table, noise, seed, offset, target: (empty_as(x0), empty_as(x0)),
)
_q_sample_backward = _library.define(
    "q_sample_backward(Tensor grad, Tensor t, Tensor table, int row) -> Tensor",
    reference.diffusion.q_sample_backward,
    lambda grad, t, table, row: empty_as(grad),
)


_q_posterior = _library.define(
    "q_posterior(Tensor x0, Tensor x_t, Tensor t, Tensor table) -> Tensor",
    reference.diffusion.q_posterior,
    lambda x0, x_t, t, table: empty_as(x0),
)
_q_posterior_backward = _library.define(
    "q_posterior_backward(Tensor grad, Tensor x0, Tensor x_t, Tensor t, Tensor table) -> (Tensor, Tensor)",
    reference.diffusion.q_posterior_backward,
    lambda grad, x0, x_t, t, table: (empty_as(x0), empty_as(x0)),
)
_QPosterior = _library.differentiable(_q_posterior, _q_posterior_backward, ("x0", "x_t"))


class _QSampleBackward(Function):
    @staticmethod
    def forward(ctx, grad, t, table, row):
        ctx.save_for_backward(t, table)
        ctx.row = row
        return below_autograd(_q_sample_backward, grad, t, table, row)

    @staticmethod
    def backward(ctx, grad):
        return _scaled(grad, *ctx.saved_tensors, ctx.row), None, None, None


def _scaled(grad: Tensor, t: Tensor, table: Tensor, row: int) -> Tensor:
    return call(_q_sample_backward, _QSampleBackward, grad, t, table, row)


class _QSample(Function):
    @staticmethod
    def forward(ctx, x0, t, table, noise, seed, offset):
        ctx.save_for_backward(t, table)
        return below_autograd(_q_sample, x0, t, table, noise, seed, offset)

    @staticmethod
    def backward(ctx, grad):
        t, table = ctx.saved_tensors
        dx0 = _scaled(grad, t, table, 0) if ctx.needs_input_grad[0] else None
        dnoise = _scaled(grad, t, table, 1) if ctx.needs_input_grad[3] else None
        return dx0, None, None, dnoise, None, None


class _QSampleTarget(Function):
    @staticmethod
    def forward(ctx, x0, t, table, noise, seed, offset, target):
        ctx.save_for_backward(t, table)
        ctx.target = target
        return below_autograd(_q_sample_target, x0, t, table, noise, seed, offset, target)

    @staticmethod
    def backward(ctx, grad, grad_target):
        t, table = ctx.saved_tensors
        dx0 = dnoise = None
        if ctx.needs_input_grad[0]:
            dx0 = _scaled(grad, t, table, 0)
            if ctx.target == "v":
                dx0 = dx0 - _scaled(grad_target, t, table, 1)
        if ctx.needs_input_grad[3]:
            by_target = grad_target if ctx.target == "eps" else _scaled(grad_target, t, table, 0)
            dnoise = _scaled(grad, t, table, 1) + by_target
        return dx0, None, None, dnoise, None, None, None


_library.register_autograd(_q_sample, _QSample)
_library.register_autograd(_q_sample_target, _QSampleTarget)
_library.register_autograd(_q_sample_backward, _QSampleBackward)


def q_sample(
    x0: Tensor,
    t: Tensor | int,
    s: DiffusionSchedule,
    *,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    offset: int = 0,
    target: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Draw x_t ~ q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I) (Ho et al. 2020, eq. 4) in one pass.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps. The coefficients are made in fp64 and never pass through x0's dtype.
    Differentiable any number of times by x0 and noise; noise drawn here is never stored.

    Args:
        x0: [N, ...], float64, float32, bfloat16 or float16; contiguous and channels_last are read in place.
        t: int64 [N], 0-based step of each sample, or one int for all.
        s: the schedule.
        noise: eps, like x0; for exact parity with other code.
        seed: eps is `normal(x0.shape, seed, offset=offset)`; int or int64 tensor of one element.
        generator: draw the seed from it; by default from torch's generator of the device.
        offset: number of x0's first element in the noise of `seed`, e.g. first sample * elements per sample.
        target: also return what a model is to predict: "eps"; "x0" (x0 itself); or "v" = sqrt(abar_t) eps -
            sqrt(1 - abar_t) x_0 (Salimans & Ho 2022, section 4).

    Returns:
        x_t like x0, or (x_t, target).

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, or noise beside a seed.
        IndexError: t outside [0, T) (on CUDA a tensor's such samples become NaN instead: a check would sync).
    """
    check_batch("x0", x0)
    check_schedule(s)
    if target is not None and target not in _TARGETS:
        raise ValueError(f"target: expected None, 'eps', 'x0' or 'v', got {target!r}")
    t = steps_tensor(t, "x0", x0, s)
    noise, seed = noise_source("x0", x0, noise, generator, seed, offset)
    table = s.q_table(x0.device)
    if target is None or target == "x0":
        x_t = call(_q_sample, _QSample, x0, t, table, noise, seed, offset)
        return x_t if target is None else (x_t, x0)
    return call(_q_sample_target, _QSampleTarget, x0, t, table, noise, seed, offset, target)


def q_posterior(x0: Tensor, x_t: Tensor, t: Tensor | int, s: DiffusionSchedule) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of q(x_{t-1} | x_t, x_0), the posterior of the forward process (Ho et al. 2020, eq. 7).

    mean = sqrt(abar_{t-1}) beta_t / (1 - abar_t) x_0 + sqrt(alpha_t) (1 - abar_{t-1}) / (1 - abar_t) x_t; variance
    beta_t (1 - abar_{t-1}) / (1 - abar_t), whose log at t = 0, where it is 0, is that of t = 1.

    Args:
        x0, x_t: [N, ...], same shape, dtype and device; float64, float32, bfloat16 or float16.
        t: int64 [N], 0-based step of each sample, or one int for all.
        s: the schedule.

    Returns:
        mean like x0, differentiable any number of times; logvar [N, 1, ...] to broadcast, float32 (float64
        for float64).

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device.
        IndexError: t outside [0, T) (on CUDA a tensor's such samples become NaN instead: a check would sync).
    """
    check_batch("x0", x0)
    check_alike("x_t", x_t, "x0", x0)
    check_schedule(s)
    t = steps_tensor(t, "x0", x0, s)
    table = s.p_table(x0.device)
    mean = call(_q_posterior, _QPosterior, x0, x_t, t, table)
    logvar = gathered_or_nan(table[LOGVAR : LOGVAR + 1], t)[0].to(compute_dtype(x0))
    return mean, logvar.reshape(-1, *[1] * (x0.dim() - 1))
