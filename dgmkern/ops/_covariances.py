"""Ops on covariances, and their gradients."""

import torch
from torch import Tensor
from torch.autograd.function import Function

from .. import _library, reference
from .._library import below_autograd
from ._matrices import like, symmetric

_ref = reference.frechet
_OPS = torch.ops.dgmkern


trace_op = _library.define(
    "trace_sqrtm_product(Tensor s1, Tensor s2, float rounding) -> Tensor",
    _ref.trace_sqrtm_product,
    lambda s1, s2, rounding: s1.new_empty(s1.shape[:-2]),
)
bounded_op = _library.define(
    "trace_sqrtm_product_bounded(Tensor s1, Tensor s2, float rounding) -> (Tensor, Tensor)",
    _ref.trace_sqrtm_product_bounded,
    lambda s1, s2, rounding: (s1.new_empty(s1.shape[:-2]), s1.new_empty(s1.shape[:-2])),
)
nearest_op = _library.define("nearest_psd(Tensor s, str name, float rounding) -> Tensor", _ref.nearest_psd, like)
trace_backward_op = _library.define(
    "trace_sqrtm_product_backward(Tensor grad, Tensor s1, Tensor s2, float rounding) -> (Tensor, Tensor)",
    _ref.trace_sqrtm_product_backward,
    lambda grad, s1, s2, rounding: (like(s1), like(s1)),
)
factor_op = _library.define("covariance_factor(Tensor sigma, float rounding) -> Tensor", _ref.covariance_factor, like)


class _Trace(Function):
    @staticmethod
    def forward(ctx, s1, s2, rounding):
        ctx.save_for_backward(s1, s2)
        ctx.rounding = rounding
        return below_autograd(trace_op, s1, s2, rounding)

    @staticmethod
    def backward(ctx, cotangent):
        return *_OPS.trace_sqrtm_product_backward(cotangent, *ctx.saved_tensors, ctx.rounding), None


class _Bounded(Function):
    @staticmethod
    def forward(ctx, s1, s2, rounding):
        ctx.save_for_backward(s1, s2)
        ctx.rounding = rounding
        trace, bound = below_autograd(bounded_op, s1, s2, rounding)
        ctx.mark_non_differentiable(bound)
        return trace, bound

    @staticmethod
    def backward(ctx, cotangent, _):
        return _Trace.backward(ctx, cotangent)


class _Nearest(Function):
    """Rounding errors are taken from a matrix: that is no part of its derivative."""

    @staticmethod
    def forward(ctx, s, name, rounding):
        return below_autograd(nearest_op, s, name, rounding)

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent, None, None


class _TraceBackward(Function):
    """Its derivatives by way of square roots: S2^(1/2) (S2^(1/2) S1 S2^(1/2))^(-1/2) S2^(1/2) / 2."""

    @staticmethod
    def forward(ctx, grad, s1, s2, rounding):
        ctx.save_for_backward(grad, s1, s2)
        return below_autograd(trace_backward_op, grad, s1, s2, rounding)

    @staticmethod
    def backward(ctx, *cotangents):
        return *_library.vjp(_means, ctx.saved_tensors, [0, 1, 2], cotangents), None


class FactorOf(Function):
    @staticmethod
    def forward(ctx, sigma, rounding):
        return below_autograd(factor_op, sigma, rounding)

    @staticmethod
    def backward(ctx, cotangent):
        raise NotImplementedError("covariance_factor: a factor has no derivative; give `sigma.detach()`")


def _means(grad: Tensor, s1: Tensor, s2: Tensor) -> tuple[Tensor, Tensor]:
    half = (grad / 2)[..., None, None]
    return half * _mean(s1, s2), half * _mean(s2, s1)


def _mean(s1: Tensor, s2: Tensor) -> Tensor:
    """S1^-1 # S2."""
    root = _OPS.sqrtm(s2, 1.0)[0]
    return root @ _OPS.inverse_root(*_OPS.sqrtm(symmetric(root @ s1 @ root), 1.0)) @ root


for _op, _function in (
    (trace_op, _Trace),
    (bounded_op, _Bounded),
    (nearest_op, _Nearest),
    (trace_backward_op, _TraceBackward),
    (factor_op, FactorOf),
):
    _library.register_autograd(_op, _function)
