"""Training losses of diffusion models: squared error, the variational bound, both at once, and the prior's term."""

from torch import Tensor

from .. import _library, reference
from .._library import call
from ..reference.gaussian import compute_dtype
from ..reference.layout import empty_as
from ..schedule import DiffusionSchedule
from ._arguments import (
    check_alike,
    check_batch,
    check_invertible,
    check_model_out,
    check_prediction,
    check_schedule,
    noise_source,
    steps_tensor,
)
from .reverse import VARIANCES, gradient_fake

_DRAWN = "Tensor? weight, Tensor? noise, Tensor? seed, SymInt offset, str prediction"
_MSE = f"Tensor model_out, Tensor x0, Tensor t, Tensor table, {_DRAWN}"
_VB = "Tensor model_out, Tensor x0, Tensor x_t, Tensor t, Tensor table, str prediction, str variance, float? clip"
_HYBRID = f"{_MSE}, str variance, bool frozen_mean"


def _per_sample(x0: Tensor) -> Tensor:
    return x0.new_empty(x0.shape[:1], dtype=compute_dtype(x0))


_mse = _library.define(
    f"diffusion_mse({_MSE}) -> Tensor", reference.bound.diffusion_mse, lambda model_out, x0, *_: _per_sample(x0)
)
_mse_backward = _library.define(
    f"diffusion_mse_backward(Tensor grad, {_MSE}) -> Tensor",
    reference.bound.diffusion_mse_backward,
    lambda grad, model_out, x0, *_: gradient_fake(model_out, x0),
)
_vb = _library.define(f"vb_terms({_VB}) -> Tensor", reference.bound.vb_terms, lambda model_out, x0, *_: _per_sample(x0))
_vb_backward = _library.define(
    f"vb_terms_backward(Tensor grad, {_VB}) -> Tensor",
    reference.bound.vb_terms_backward,
    lambda grad, model_out, x0, *_: gradient_fake(model_out, x0),
)
_hybrid = _library.define(
    f"hybrid_terms({_HYBRID}) -> (Tensor, Tensor)",
    reference.bound.hybrid_terms,
    lambda model_out, x0, *_: (_per_sample(x0), _per_sample(x0)),
)
_hybrid_backward = _library.define(
    f"hybrid_terms_backward(Tensor grad_mse, Tensor grad_vb, {_HYBRID}) -> Tensor",
    reference.bound.hybrid_terms_backward,
    lambda grad_mse, grad_vb, model_out, x0, *_: gradient_fake(model_out, x0),
)
_prior = _library.define(
    "prior_bound(Tensor x0, float abar) -> Tensor", reference.bound.prior_bound, lambda x0, abar: _per_sample(x0)
)
_prior_backward = _library.define(
    "prior_bound_backward(Tensor grad, Tensor x0, float abar) -> Tensor",
    reference.bound.prior_bound_backward,
    lambda grad, x0, abar: empty_as(x0),
)

_BY = ("model_out",)  # gradients by the data, rarely wanted, come from the reference
_MSEFunction = _library.differentiable(_mse, _mse_backward, _BY, drawn_as="x0")
_VB_Function = _library.differentiable(_vb, _vb_backward, _BY)
_HybridFunction = _library.differentiable(_hybrid, _hybrid_backward, _BY, drawn_as="x0")
_PriorFunction = _library.differentiable(_prior, _prior_backward, ("x0",))


def _weights(weight: Tensor | None, x0: Tensor) -> Tensor | None:
    if weight is None:
        return None
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise TypeError(
            f"weight: expected a floating tensor [N], got {getattr(weight, 'dtype', type(weight).__name__)}"
        )
    if weight.shape != x0.shape[:1]:
        raise ValueError(f"weight: expected shape ({x0.shape[0]},), one per sample, got {tuple(weight.shape)}")
    if weight.device != x0.device:
        raise ValueError(f"weight: expected the device {x0.device} of x0, got {weight.device}")
    return weight.double()


def _source(x0: Tensor, noise: Tensor | None, seed: int | Tensor | None, offset: int):
    if noise is None and seed is None:
        raise ValueError("seed: expected the seed that x_t was drawn with (or its noise=), got None")
    return noise_source("x0", x0, noise, None, seed, offset)


def diffusion_mse(
    model_out: Tensor,
    x0: Tensor,
    t: Tensor | int,
    s: DiffusionSchedule,
    *,
    seed: int | Tensor | None = None,
    noise: Tensor | None = None,
    offset: int = 0,
    prediction: str = "eps",
    weight: Tensor | None = None,
) -> Tensor:
    """The simple loss of diffusion models per sample (Ho et al. 2020, eq. 14): weight_n mean (model_out - target)^2.

    The target ("eps", "x0" or "v") is made from the seed that `q_sample` drew x_t with; the noise is never in memory,
    neither here nor in backward. Differentiable any number of times by model_out, x0, weight and noise.

    Args:
        model_out: what the model gives for (x_t, t), like x0.
        x0: the data, [N, ...], float64, float32, bfloat16 or float16; contiguous and channels_last are read in place.
        t: int64 [N], 0-based step of each sample, or one int for all.
        s: the schedule.
        seed, offset: those of `q_sample(x0, t, s, seed=seed, offset=offset)`; int or int64 tensor of one element.
        noise: its noise= instead, like x0.
        prediction: what the model predicts: "eps", "x0" or "v" = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0.
        weight: [N], any floating dtype, for example `s.min_snr_weights(prediction)[t]`; 1 by default.

    Returns:
        [N], float32 (float64 for float64).

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device; neither seed nor noise, or both.
        IndexError: t outside [0, T) (on CUDA a tensor's such samples become NaN instead: a check would sync).
    """
    check_batch("x0", x0)
    check_schedule(s)
    check_prediction(prediction)
    check_alike("model_out", model_out, "x0", x0)
    t = steps_tensor(t, "x0", x0, s)
    weight = _weights(weight, x0)
    noise, seed = _source(x0, noise, seed, offset)
    table = s.q_table(x0.device)
    return call(_mse, _MSEFunction, model_out, x0, t, table, weight, noise, seed, offset, prediction)


def vb_terms(
    model_out: Tensor,
    x0: Tensor,
    x_t: Tensor,
    t: Tensor | int,
    s: DiffusionSchedule,
    *,
    prediction: str = "eps",
    variance: str = "fixed_small",
    clip: float | None = None,
) -> Tensor:
    """The term of the variational bound at step t, per sample, in bits/dim (Ho et al. 2020, eq. 5).

    t > 0: KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), averaged over dimensions. t = 0: the negative log-likelihood
    of x_0 in 256 levels of [-1, 1] under the decoder p(x_0 | x_1), exactly (eq. 13; see `discretized_gaussian_nll`).
    The sum over all t, plus `prior_bound`, is the bound. Differentiable any number of times by model_out (both halves),
    x0 and x_t.

    Args:
        model_out: what the model gives for (x_t, t): like x0, or with twice the channels, [N, 2 C, ...], where the
            variance is learned: the prediction, then the variance.
        x0, x_t: [N, C, ...], float64, float32, bfloat16 or float16; contiguous and channels_last are read in place.
        t: int64 [N], 0-based step of each sample, or one int for all.
        s, prediction, variance: as in `p_sample`; "fixed_large" takes the posterior's variance of t = 1 at t = 0
            (Nichol & Dhariwal 2021).
        clip: a bound c: the predicted x_0 is clamped to [-c, c].

    Returns:
        [N], float32 (float64 for float64).

    Raises:
        TypeError, ValueError, IndexError: as in `p_sample`.
    """
    check_batch("x0", x0)
    check_schedule(s)
    check_invertible(prediction, s)
    if variance not in VARIANCES:
        raise ValueError(f"variance: expected one of {', '.join(VARIANCES)}, got {variance!r}")
    check_alike("x_t", x_t, "x0", x0)
    check_model_out(model_out, "x0", x0, halves=variance.startswith("learned"))
    if clip is not None and (isinstance(clip, (bool, str)) or not clip > 0):
        raise ValueError(f"clip: expected None or a positive number, got {clip!r}")
    t = steps_tensor(t, "x0", x0, s)
    table = s.p_table(x0.device)
    clip = None if clip is None else float(clip)
    return call(_vb, _VB_Function, model_out, x0, x_t, t, table, prediction, variance, clip)


def hybrid_terms(
    model_out: Tensor,
    x0: Tensor,
    t: Tensor | int,
    s: DiffusionSchedule,
    *,
    seed: int | Tensor | None = None,
    noise: Tensor | None = None,
    offset: int = 0,
    prediction: str = "eps",
    variance: str = "learned_range",
    weight: Tensor | None = None,
    frozen_mean: bool = True,
) -> tuple[Tensor, Tensor]:
    """Both terms of the hybrid loss (Nichol & Dhariwal 2021, section 3.1), per sample, in one pass: (mse, vb).

    mse is `diffusion_mse`, vb is `vb_terms` at x_t = q_sample(x0, t, s, seed=seed); the loss is mse + lambda vb, with
    lambda = 0.001 T in the paper's scale where t is drawn uniformly. x_t is never formed: x_0 less the predicted x_0 is
    the error of the prediction times a number, in which nothing cancels. The noise is never in memory. Differentiable
    any number of times by model_out, x0, weight and noise.

    Args:
        model_out: [N, 2 C, ...], the prediction, then the variance.
        x0, t, s, seed, noise, offset, prediction, weight: as in `diffusion_mse`; weight is of mse alone.
        variance: "learned" or "learned_range", as in `p_sample`.
        frozen_mean: vb trains the variance alone: its gradient by the prediction is stopped, as in the paper.

    Returns:
        mse [N] and vb [N] (bits/dim), float32 (float64 for float64).

    Raises:
        TypeError, ValueError, IndexError: as in `diffusion_mse`; "eps" with a schedule of zero terminal SNR.
    """
    check_batch("x0", x0)
    check_schedule(s)
    check_invertible(prediction, s)
    if variance not in ("learned", "learned_range"):
        raise ValueError(f"variance: expected 'learned' or 'learned_range', got {variance!r}")
    check_model_out(model_out, "x0", x0, halves=True)
    t = steps_tensor(t, "x0", x0, s)
    weight = _weights(weight, x0)
    noise, seed = _source(x0, noise, seed, offset)
    table = s.p_table(x0.device)
    return call(
        *(_hybrid, _HybridFunction, model_out, x0, t, table, weight, noise, seed, offset, prediction, variance),
        bool(frozen_mean),
    )


def prior_bound(x0: Tensor, s: DiffusionSchedule) -> Tensor:
    """The prior's term L_T = KL(q(x_T | x_0) || N(0, I)) of the variational bound, per sample, in bits/dim.

    (abar_T mean x_0^2 - abar_T - log(1 - abar_T)) / (2 log 2), T being the last step (Ho et al. 2020, eq. 5).

    Args:
        x0: [N, ...], float64, float32, bfloat16 or float16.
        s: the schedule.

    Returns:
        [N], float32 (float64 for float64). Differentiable any number of times.

    Raises:
        TypeError, ValueError: x0 is no floating tensor with a batch dimension; s is no schedule.
    """
    check_batch("x0", x0)
    check_schedule(s)
    return call(_prior, _PriorFunction, x0, s.last_abar)
