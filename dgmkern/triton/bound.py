"""Training losses of diffusion models, per sample [N]: squared error, the variational bound, both at once, and the
prior's term. Kernels: _bound_kernels.py and _square_kernels.py.

`table` is fp64 [2, T] for `diffusion_mse`, else [7, T]; t int64 [N]; weight fp64 [N].
"""

import math

import torch
from torch import Tensor

from ._bound_kernels import hybrid_backward_kernel, hybrid_kernel, vb_backward_kernel, vb_kernel
from ._launch import Operands, narrow_tile
from ._math_bound import BITS
from ._square_kernels import mse_backward_kernel, mse_kernel, square_backward_kernel, square_kernel


def _gradient(model_out: Tensor, tensors: Operands) -> Tensor:
    return torch.empty_like(model_out, memory_format=tensors.layout)


def _mse_inputs(tensors: Operands, model_out: Tensor, x0: Tensor, t: Tensor, table: Tensor, weight) -> tuple:
    """What the kernels of `diffusion_mse` read, the weight last."""
    inputs = tensors.dense(model_out, "model_out"), tensors.dense(x0)
    return *inputs, *tensors.scheduled(t, table, 2), tensors.per_sample(weight, "weight", torch.float64)


def diffusion_mse(
    model_out: Tensor,
    x0: Tensor,
    t: Tensor,
    table: Tensor,
    weight: Tensor | None,
    noise: Tensor | None,
    seed: Tensor | None,
    offset: int,
    prediction: str,
) -> Tensor:
    """weight_n mean (model_out - target)^2. [N]"""
    tensors = Operands(x0, sums=True)
    inputs = _mse_inputs(tensors, model_out, x0, t, table, weight)
    mse, drawn = tensors.sum(mean=True, weight=inputs[-1]), tensors.noise(noise, seed, offset)
    tensors.run(mse_kernel, *inputs, mse.target, **drawn, PREDICTION=prediction)
    return tensors.finished(mse)


def diffusion_mse_backward(
    grad: Tensor,
    model_out: Tensor,
    x0: Tensor,
    t: Tensor,
    table: Tensor,
    weight: Tensor | None,
    noise: Tensor | None,
    seed: Tensor | None,
    offset: int,
    prediction: str,
) -> Tensor:
    """2 grad_n weight_n (model_out - target) / D."""
    tensors = Operands(x0)
    dout, drawn = tensors.out(), tensors.noise(noise, seed, offset)
    inputs = _mse_inputs(tensors, model_out, x0, t, table, weight)
    tensors.run(mse_backward_kernel, tensors.per_sample(grad), *inputs, dout, **drawn, PREDICTION=prediction)
    return dout


def _vb_inputs(tensors: Operands, model_out: Tensor, x0: Tensor, x_t: Tensor, t, table, variance: str) -> tuple:
    """What the kernels of `vb_terms` read, and how; a model that gives a variance too has twice the channels."""
    learned = variance.startswith("learned")
    out = tensors.doubled(model_out) if learned else tensors.dense(model_out, "model_out")
    how = {"VARIANCE": variance, "HALVES": tensors.halves() if learned else "none", "tile": narrow_tile(x0, 256)}
    return (out, tensors.dense(x0), tensors.dense(x_t, "x_t"), *tensors.scheduled(t, table)), how


def vb_terms(
    model_out: Tensor,
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    table: Tensor,
    prediction: str,
    variance: str,
    clip: float | None,
) -> Tensor:
    """The bound's term at t (Ho et al. 2020, eq. 5), bits/dim. [N]"""
    tensors = Operands(x0, sums=True)
    vb = tensors.sum(scale=BITS.value, mean=True)
    inputs, how = _vb_inputs(tensors, model_out, x0, x_t, t, table, variance)
    tensors.run(vb_kernel, *inputs, vb.target, **how, PREDICTION=prediction, CLIP=clip)
    return tensors.finished(vb)


def vb_terms_backward(
    grad: Tensor,
    model_out: Tensor,
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    table: Tensor,
    prediction: str,
    variance: str,
    clip: float | None,
) -> Tensor:
    """The gradient by model_out."""
    tensors = Operands(x0)
    dout = _gradient(model_out, tensors)
    inputs, how = _vb_inputs(tensors, model_out, x0, x_t, t, table, variance)
    tensors.run(vb_backward_kernel, tensors.per_sample(grad), *inputs, dout, **how, PREDICTION=prediction, CLIP=clip)
    return dout


def _hybrid_inputs(tensors: Operands, model_out: Tensor, x0: Tensor, t, table, weight, variance: str) -> tuple:
    """What the kernels of `hybrid_terms` read, the weight last, and how."""
    if variance not in ("learned", "learned_range"):
        raise ValueError(f"variance: expected learned or learned_range, got {variance!r}")
    weight = tensors.per_sample(weight, "weight", torch.float64)
    how = {"VARIANCE": variance, "HALVES": tensors.halves(), "tile": narrow_tile(x0, 256, 512)}
    return (tensors.doubled(model_out), tensors.dense(x0), *tensors.scheduled(t, table), weight), how


def hybrid_terms(
    model_out: Tensor,
    x0: Tensor,
    t: Tensor,
    table: Tensor,
    weight: Tensor | None,
    noise: Tensor | None,
    seed: Tensor | None,
    offset: int,
    prediction: str,
    variance: str,
    frozen_mean: bool,
) -> tuple[Tensor, Tensor]:
    """(weight_n mean (prediction - target)^2, the bound's term in bits/dim). [N] twice"""
    tensors = Operands(x0, sums=True)
    inputs, how = _hybrid_inputs(tensors, model_out, x0, t, table, weight, variance)
    mse, vb = tensors.sum(mean=True, weight=inputs[-1]), tensors.sum(scale=BITS.value, mean=True)
    drawn = tensors.noise(noise, seed, offset)
    tensors.run(hybrid_kernel, *inputs, mse.target, vb.target, **drawn, **how, PREDICTION=prediction)
    return tensors.finished(mse), tensors.finished(vb)


def hybrid_terms_backward(
    grad_mse: Tensor,
    grad_vb: Tensor,
    model_out: Tensor,
    x0: Tensor,
    t: Tensor,
    table: Tensor,
    weight: Tensor | None,
    noise: Tensor | None,
    seed: Tensor | None,
    offset: int,
    prediction: str,
    variance: str,
    frozen_mean: bool,
) -> Tensor:
    """The gradient by model_out."""
    tensors = Operands(x0)
    dout, drawn = _gradient(model_out, tensors), tensors.noise(noise, seed, offset)
    grads = tensors.per_sample(grad_mse, "grad_mse"), tensors.per_sample(grad_vb, "grad_vb")
    inputs, how = _hybrid_inputs(tensors, model_out, x0, t, table, weight, variance)
    how |= {"PREDICTION": prediction, "FROZEN_MEAN": frozen_mean}
    tensors.run(hybrid_backward_kernel, *grads, *inputs, dout, **drawn, **how)
    return dout


def prior_bound(x0: Tensor, abar: float) -> Tensor:
    """KL(q(x_T | x_0) || N(0, I)), bits/dim: (abar mean x_0^2 - abar - log(1 - abar)) / (2 log 2). [N]"""
    tensors, how = Operands(x0, sums=True), _prior(abar)
    prior = tensors.sum(scale=how["SCALE"], shift=how["SHIFT"], mean=True)
    tensors.run(square_kernel, tensors.dense(x0), prior.target, **how)
    return tensors.finished(prior)


def _prior(abar: float) -> dict[str, float]:
    return {"SCALE": abar / (2 * math.log(2)), "SHIFT": (-abar - math.log1p(-abar)) / (2 * math.log(2))}


def prior_bound_backward(grad: Tensor, x0: Tensor, abar: float) -> Tensor:
    """grad_n abar x_0 / (D log 2)."""
    tensors = Operands(x0)
    dx = tensors.out()
    tensors.run(square_backward_kernel, tensors.per_sample(grad), tensors.dense(x0), dx, SCALE=_prior(abar)["SCALE"])
    return dx
