"""Steps of the reverse diffusion process: DDPM, DDIM and DPM-Solver++(2M), one pass each."""

import torch
from torch import Tensor

from .. import _library, reference
from .._library import call
from ..reference.layout import empty_as, laid_out_as
from ..schedule import DiffusionSchedule
from ._arguments import (
    check_alike,
    check_batch,
    check_invertible,
    check_model_out,
    check_schedule,
    noise_source,
    steps_tensor,
)

VARIANCES = ("fixed_small", "fixed_large", "learned", "learned_range")

_STEP = (
    "Tensor model_out, Tensor x_t, Tensor? x0_last, Tensor? bound, Tensor t, Tensor? t_next, Tensor? t_last, "
    "Tensor table, Tensor? noise, Tensor? seed, SymInt offset, str solver, str prediction, str variance, float eta, "
    "float? clip"
)


def gradient_fake(model_out: Tensor, x: Tensor) -> Tensor:
    """Uninitialized gradient by a model's output, which may have twice the channels of x, in x's layout."""
    return laid_out_as(x, torch.empty_like(model_out, memory_format=torch.contiguous_format))


def _gradients_fake(model_out, x_t, x0_last, *_):
    dlast = x_t.new_empty(0) if x0_last is None else empty_as(x_t)
    return gradient_fake(model_out, x_t), empty_as(x_t), dlast


_step = _library.define(
    f"reverse_step({_STEP}) -> Tensor", reference.reverse.reverse_step, lambda o, x, *_: empty_as(x)
)
_step_x0 = _library.define(
    f"reverse_step_x0({_STEP}) -> (Tensor, Tensor)",
    reference.reverse.reverse_step_x0,
    lambda model_out, x_t, *_: (empty_as(x_t), empty_as(x_t)),
)
_step_backward = _library.define(
    f"reverse_step_backward(Tensor grad, {_STEP}) -> (Tensor, Tensor, Tensor)",
    reference.reverse.reverse_step_backward,
    lambda grad, *args: _gradients_fake(*args),
)
_step_x0_backward = _library.define(
    f"reverse_step_x0_backward(Tensor grad, Tensor grad_x0, {_STEP}) -> (Tensor, Tensor, Tensor)",
    reference.reverse.reverse_step_x0_backward,
    lambda grad, grad_x0, *args: _gradients_fake(*args),
)
_dynamic_bound = _library.define(
    "dynamic_bound(Tensor model_out, Tensor x_t, Tensor t, Tensor table, str prediction, float quantile) -> Tensor",
    reference.reverse.dynamic_bound,
    lambda model_out, x_t, *_: x_t.new_empty(x_t.shape[:1], dtype=torch.float64),
)
_BY = ("model_out", "x_t", "x0_last")
_Step = _library.differentiable(_step, _step_backward, _BY, drawn_as="x_t")
_StepX0 = _library.differentiable(_step_x0, _step_x0_backward, _BY, drawn_as="x_t")
_DynamicBound = _library.differentiable(_dynamic_bound)  # sparse and rare: by the reference


def _clipped(
    clip: float | str | None, quantile: float, model_out: Tensor, x_t: Tensor, t: Tensor, table: Tensor, prediction: str
) -> tuple[float | None, Tensor | None]:
    """`clip` as (fixed bound, bounds of the samples [N]), both None where nothing is clipped."""
    if clip is None:
        return None, None
    if clip == "dynamic":
        if not 0 <= quantile <= 1:
            raise ValueError(f"quantile: expected a number in [0, 1], got {quantile}")
        return None, call(_dynamic_bound, _DynamicBound, model_out, x_t, t, table, prediction, float(quantile))
    if isinstance(clip, bool) or not isinstance(clip, (int, float)):
        raise TypeError(f"clip: expected None, a positive number or 'dynamic', got {clip!r}")
    if not clip > 0:
        raise ValueError(f"clip: expected None, a positive number or 'dynamic', got {clip!r}")
    return float(clip), None


def p_sample(
    model_out: Tensor,
    x_t: Tensor,
    t: Tensor | int,
    s: DiffusionSchedule,
    *,
    prediction: str = "eps",
    variance: str = "fixed_small",
    clip: float | str | None = None,
    quantile: float = 0.995,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    offset: int = 0,
    return_x0: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Draw x_{t-1} ~ p(x_{t-1} | x_t), the reverse step of DDPM (Ho et al. 2020, algorithm 2), in one pass.

    x_{t-1} = coef1_t x0 + coef2_t x_t + sigma_t eps (eq. 7), with x0 the model's prediction of x_0; no noise at t = 0.
    Coefficients are made in fp64. Differentiable any number of times by model_out, x_t and noise.

    Args:
        model_out: what the model gives for (x_t, t): like x_t, or with twice the channels, [N, 2 C, ...], where the
            variance is learned: the prediction, then the variance.
        x_t: [N, C, ...], float64, float32, bfloat16 or float16; contiguous and channels_last are read in place.
        t: int64 [N], 0-based step of each sample, or one int for all.
        s: the schedule; for fewer steps, `s.respaced(n)` with its own steps.
        prediction: what the model predicts: "eps", "x0" or "v" (Salimans & Ho 2022).
        variance: sigma_t^2: "fixed_small", of the posterior; "fixed_large", beta_t; "learned", e^v of the model's v;
            "learned_range", log sigma^2 between the two, v in [-1, 1] (Nichol & Dhariwal 2021, eq. 15).
        clip: a bound c, x0 is clamped to [-c, c]; "dynamic", to [-b, b] and divided by b, the larger of 1 and the
            `quantile` of the sample's |x0| (Saharia et al. 2022, section 2.3; no sort).
        noise, generator, seed, offset: as in `q_sample`; the noise of x_t's elements.
        return_x0: also return x0, clipped, like x_t.

    Returns:
        x_{t-1} like x_t, or (x_{t-1}, x0).

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, an unknown name, noise beside a
            seed, or "eps" with a schedule of zero terminal SNR, where x_0 does not follow from eps.
        IndexError: t outside [0, T) (on CUDA a tensor's such samples become NaN instead: a check would sync).
    """
    check_batch("x_t", x_t)
    check_schedule(s)
    check_invertible(prediction, s)
    if variance not in VARIANCES:
        raise ValueError(f"variance: expected one of {', '.join(VARIANCES)}, got {variance!r}")
    check_model_out(model_out, "x_t", x_t, halves=variance.startswith("learned"))
    t = steps_tensor(t, "x_t", x_t, s)
    table = s.p_table(x_t.device)
    clip, bound = _clipped(clip, quantile, model_out, x_t, t, table, prediction)
    noise, seed = noise_source("x_t", x_t, noise, generator, seed, offset)
    op, function = (_step_x0, _StepX0) if return_x0 else (_step, _Step)
    how = ("ddpm", prediction, variance, 0.0, clip)
    return call(op, function, model_out, x_t, None, bound, t, None, None, table, noise, seed, offset, *how)


def ddim_step(
    model_out: Tensor,
    x_t: Tensor,
    t: Tensor | int,
    t_prev: Tensor | int,
    s: DiffusionSchedule,
    *,
    eta: float = 0.0,
    prediction: str = "eps",
    clip: float | str | None = None,
    quantile: float = 0.995,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    offset: int = 0,
    return_x0: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """One step of DDIM from t to t_prev (Song et al. 2021, "Denoising diffusion implicit models", eq. 12), in one pass.

    x' = sqrt(abar') x0 + sqrt(1 - abar' - sigma^2) eps0 + sigma eps, with x0 the model's prediction of x_0 (clipped),
    eps0 = (x_t - sqrt(abar) x0) / sqrt(1 - abar), sigma = eta sqrt((1 - abar') / (1 - abar)) sqrt(1 - abar / abar').
    With eta = 0 it is deterministic and draws nothing; with eta = 1 and t_prev = t - 1 it is DDPM with "fixed_small".
    t_prev > t goes up (inversion). Differentiable any number of times by model_out, x_t and noise.

    Args:
        model_out, x_t, t, s, prediction, clip, quantile, noise, generator, seed, offset, return_x0: as in `p_sample`;
            of a model_out with twice the channels the first half counts.
        t_prev: int64 [N] or an int, the step to go to; -1: to x_0.
        eta: >= 0.

    Returns:
        x' like x_t, or (x', x0).

    Raises:
        TypeError, ValueError, IndexError: as in `p_sample`; eta < 0; noise, a seed or a generator without eta.
    """
    check_batch("x_t", x_t)
    check_schedule(s)
    check_invertible(prediction, s)
    check_model_out(model_out, "x_t", x_t, halves=None)
    if not eta >= 0:
        raise ValueError(f"eta: expected a number >= 0, got {eta}")
    if eta == 0 and not (noise is None and seed is None and generator is None):
        raise ValueError("eta: expected a positive number beside noise, a seed or a generator: eta 0 draws nothing")
    t = steps_tensor(t, "x_t", x_t, s)
    t_prev = steps_tensor(t_prev, "x_t", x_t, s, name="t_prev", first=-1)
    table = s.p_table(x_t.device)
    clip, bound = _clipped(clip, quantile, model_out, x_t, t, table, prediction)
    if eta != 0:
        noise, seed = noise_source("x_t", x_t, noise, generator, seed, offset)
    op, function = (_step_x0, _StepX0) if return_x0 else (_step, _Step)
    how = ("ddim", prediction, "fixed_small", float(eta), clip)
    return call(op, function, model_out, x_t, None, bound, t, t_prev, None, table, noise, seed, offset, *how)


def dpm_solver_step(
    model_out: Tensor,
    x_t: Tensor,
    t: Tensor | int,
    t_prev: Tensor | int,
    s: DiffusionSchedule,
    *,
    x0_last: Tensor | None = None,
    t_last: Tensor | int | None = None,
    prediction: str = "eps",
    clip: float | str | None = None,
    quantile: float = 0.995,
) -> tuple[Tensor, Tensor]:
    """One step of DPM-Solver++(2M) from t to t_prev (Lu et al. 2022, "DPM-Solver++", algorithm 2), in one pass.

    With lambda = log(sqrt(abar) / sqrt(1 - abar)), h = lambda' - lambda and x0 the model's prediction of x_0:
    x' = sqrt(1 - abar') / sqrt(1 - abar) x_t - sqrt(abar') (e^-h - 1) D, D = x0 + (x0 - x0_last) h / (2 h_last), where
    x0_last was predicted at t_last, h_last = lambda - lambda_last. First order (D = x0, which is DDIM) without x0_last
    and for the step to x_0. Differentiable any number of times by model_out, x_t and x0_last.

    Args:
        model_out, x_t, t, s, prediction, clip, quantile: as in `ddim_step`.
        t_prev: int64 [N] or an int, the step to go to; -1: to x_0.
        x0_last: the second result of the step before, like x_t; None at the first step.
        t_last: the t of that step, int64 [N] or an int, above t.

    Returns:
        (x' like x_t, x0 like x_t: the next step's x0_last).

    Raises:
        TypeError, ValueError, IndexError: as in `p_sample`; one of x0_last and t_last without the other.
    """
    check_batch("x_t", x_t)
    check_schedule(s)
    check_invertible(prediction, s)
    check_model_out(model_out, "x_t", x_t, halves=None)
    if (x0_last is None) != (t_last is None):
        raise ValueError("x0_last, t_last: give both, or neither at the first step")
    t = steps_tensor(t, "x_t", x_t, s)
    t_prev = steps_tensor(t_prev, "x_t", x_t, s, name="t_prev", first=-1)
    if x0_last is not None:
        check_alike("x0_last", x0_last, "x_t", x_t)
        t_last = steps_tensor(t_last, "x_t", x_t, s, name="t_last")
    table = s.p_table(x_t.device)
    clip, bound = _clipped(clip, quantile, model_out, x_t, t, table, prediction)
    how = ("dpm_solver", prediction, "fixed_small", 0.0, clip)
    return call(_step_x0, _StepX0, model_out, x_t, x0_last, bound, t, t_prev, t_last, table, None, None, 0, *how)
