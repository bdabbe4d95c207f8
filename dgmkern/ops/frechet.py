"""The Frechet distance between Gaussians, from covariances and from features, in fp64, whatever comes in."""

import torch
from torch import Tensor
from torch.autograd.function import Function

from .. import _library, reference
from .._library import below_autograd, call
from ..reference.linalg import EPS
from ._arguments import check_alike
from ._covariances import FactorOf, factor_op
from ._matrices import (
    check_features,
    check_finite,
    check_real,
    check_square,
    checked_gaussian,
    like,
    rounding_of,
)

_ref = reference.frechet
_OPS = torch.ops.dgmkern


def _feature_trace(a1: Tensor, a2: Tensor) -> Tensor:
    """tr (A1^T A1 A2^T A2)^(1/2) = |A1 A2^T|_* of factors [N, D] and [M, D]."""
    return _OPS.nuclear_norm(_ref.reduced(a1)[1] @ _ref.reduced(a2)[1].mT)


def _feature_trace_backward(grad: Tensor, a1: Tensor, a2: Tensor) -> tuple[Tensor, Tensor]:
    """grad times Q A2 and Q^T A1 with the polar factor Q of A1 A2^T."""
    (q1, r1), (q2, r2) = _ref.reduced(a1), _ref.reduced(a2)
    q = grad * _OPS.polar_factor(r1 @ r2.mT)
    by1, by2 = q @ r2, q.mT @ r1
    return by1 if q1 is None else q1 @ by1, by2 if q2 is None else q2 @ by2


# of other ops on any device: as fast as those are there
_feature_trace_op = _library.define(
    "feature_trace(Tensor a1, Tensor a2) -> Tensor", _feature_trace, lambda a1, a2: a1.new_empty(())
)
_feature_trace_backward_op = _library.define(
    "feature_trace_backward(Tensor grad, Tensor a1, Tensor a2) -> (Tensor, Tensor)",
    _feature_trace_backward,
    lambda grad, a1, a2: (like(a1), like(a2)),
)


class _FeatureTrace(Function):
    @staticmethod
    def forward(ctx, a1, a2):
        ctx.save_for_backward(a1, a2)
        return below_autograd(_feature_trace_op, a1, a2)

    @staticmethod
    def backward(ctx, cotangent):
        return _OPS.feature_trace_backward(cotangent, *ctx.saved_tensors)


class _FeatureTraceBackward(Function):
    @staticmethod
    def forward(ctx, grad, a1, a2):
        ctx.save_for_backward(grad, a1, a2)
        return below_autograd(_feature_trace_backward_op, grad, a1, a2)

    @staticmethod
    def backward(ctx, *cotangents):
        return _library.vjp(_feature_grads, ctx.saved_tensors, [0, 1, 2], cotangents)


def _feature_grads(grad: Tensor, a1: Tensor, a2: Tensor) -> tuple[Tensor, Tensor]:
    q = grad * _OPS.polar_factor(a1 @ a2.mT)
    return q @ a2, q.mT @ a1


for _op, _function in ((_feature_trace_op, _FeatureTrace), (_feature_trace_backward_op, _FeatureTraceBackward)):
    _library.register_autograd(_op, _function)


def trace_sqrtm_product(
    sigma1: Tensor, sigma2: Tensor, *, return_bound: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """tr (sigma1 sigma2)^(1/2), the trace term of the Frechet distance, of symmetric semidefinite matrices of any rank.

    With sigma = L L^T it is the nuclear norm of L1^T L2, which is as well conditioned as a norm is: the product
    sigma1 sigma2, the roots of whose eigenvalues others take, is never formed. Never complex, never NaN. In Triton, for
    float32 matrices of D > 128, it comes from bf16 products and one fp64 trace, to 4e-7; with return_bound from fp64.

    The gradient by sigma1 is sigma1^-1 # sigma2 / 2 (# is the geometric mean of matrices), over the ranges of the two,
    and I / 2 over the null space that they share and for equal matrices. Twice differentiable where the ranks do not
    change.

    Args:
        sigma1, sigma2: [..., D, D], float64 or float32, alike.
        return_bound: whether to give a bound on the error too.

    Returns:
        [...], float64; with return_bound a pair: the result is off by at most the bound, for the symmetric parts of the
        matrices given. The bound counts the rounding of factors, product and singular values, whose algorithms are
        taken to be as backward stable as LAPACK's documentation has them (factors to 16 D eps of the largest variance).

    Raises:
        TypeError, ValueError: as `sqrtm`, and for matrices of unlike shape, dtype or device.
    """
    check_square("sigma1", sigma1)
    check_alike("sigma2", sigma2, "sigma1", sigma1)
    op = _OPS.trace_sqrtm_product_bounded if return_bound else _OPS.trace_sqrtm_product
    return op(_semidefinite(sigma1, "sigma1"), _semidefinite(sigma2, "sigma2"), rounding_of(sigma1))


def frechet_distance(
    mu1: Tensor, sigma1: Tensor, mu2: Tensor, sigma2: Tensor, *, return_bound: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """The squared Frechet (2-Wasserstein) distance between N(mu1, sigma1) and N(mu2, sigma2):

    d^2 = |mu1 - mu2|^2 + tr sigma1 + tr sigma2 - 2 tr (sigma1 sigma2)^(1/2)

    (D. Dowson and B. Landau 1982; Heusel et al. 2017). The lecture behind this library prints it without the factor 2:
    then it would not be 0 for equal Gaussians. Gradients are closed-form and finite, and 0 where both are the same;
    twice differentiable where the ranks do not change.

    Args:
        mu1, mu2: [..., D], float64 or float32.
        sigma1, sigma2: [..., D, D], covariances: symmetric and positive semidefinite, of any rank.
        return_bound: whether to give a bound on the error of the trace term too.

    Returns:
        [...], float64; with return_bound a pair: the distance, and a bound on the error of 2 tr (sigma1 sigma2)^(1/2).

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device; on the CPU also numbers that are
            not finite, and matrices that are no covariances by more than rounding: the message says by how much.
    """
    check_square("sigma1", sigma1)
    check_alike("sigma2", sigma2, "sigma1", sigma1)
    for name, mu in (("mu1", mu1), ("mu2", mu2)):
        check_real(name, mu)
        if mu.shape != sigma1.shape[:-1]:
            raise ValueError(
                f"{name}: expected the shape {tuple(sigma1.shape[:-1])} beside sigma1, got {tuple(mu.shape)}"
            )
        check_finite(name, mu)
    s1, s2 = _semidefinite(sigma1, "sigma1"), _semidefinite(sigma2, "sigma2")
    rest = ((mu1.double() - mu2.double()) ** 2).sum(-1) + _trace(s1) + _trace(s2)
    if not return_bound:
        return rest - 2 * _OPS.trace_sqrtm_product(s1, s2, rounding_of(sigma1))
    trace, bound = _OPS.trace_sqrtm_product_bounded(s1, s2, rounding_of(sigma1))
    return rest - 2 * trace, 2 * bound


def _semidefinite(s: Tensor, name: str) -> Tensor:
    """In fp64; eigenvalues of fp32 numbers may lie some 1e-7 below 0, which is no rounding error in fp64."""
    return s if s.dtype is torch.float64 else _OPS.nearest_psd(s.double(), name, rounding_of(s))


def covariance_factor(sigma: Tensor) -> Tensor:
    """F with F^T F = sigma, for `feature_frechet_distance` against a Gaussian that stays: made once, used each step.

    Args:
        sigma: [D, D], symmetric and positive semidefinite, float64 or float32; without a gradient.

    Returns:
        [R, D], float64; R is the rank of sigma (on a GPU R = D, with rows of 0).

    Raises:
        TypeError, ValueError: as `sqrtm`. NotImplementedError: in backward, where sigma requires a gradient.
    """
    check_square("sigma", sigma)
    if sigma.dim() != 2:
        raise ValueError(f"sigma: expected one matrix [D, D], got {tuple(sigma.shape)}")
    factor = call(factor_op, FactorOf, sigma.double(), rounding_of(sigma))
    return factor if sigma.is_cuda else factor[(factor != 0).any(1)]


def feature_frechet_distance(
    x: Tensor, y: Tensor | tuple[Tensor, Tensor], *, return_bound: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """`frechet_distance` of the Gaussians fitted to two sets of features, from the features themselves: for a loss.

    With A the centred features over sqrt(N - 1) the covariance is A^T A, the trace term is |A_x A_y^T|_*, and its
    gradient by A_x is Q A_y with the polar factor Q, of a norm of at most that of A_y: bounded. No matrix [D, D] is
    formed unless there are more samples than dimensions. Twice differentiable; 0 with a gradient of 0 for equal sets.

    Args:
        x: [N, D], float64 or float32, N >= 2 samples of features.
        y: [M, D], M >= 2, of the dtype and device of x; or a Gaussian (mean [D], F [R, D]) with covariance F^T F, as
            `covariance_factor` makes one, float64.
        return_bound: whether to give a bound on the error of the trace term too.

    Returns:
        A number, float64; with return_bound a pair as of `frechet_distance`.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device; on the CPU also numbers that are
            not finite.
    """
    check_features("x", x)
    mean_x, a_x, error_x = _centred(x)
    if isinstance(y, tuple):
        mean_y, a_y = checked_gaussian(y, x)
        error_y = a_y.new_zeros(())
    else:
        check_features("y", y)
        if x.shape[1] != y.shape[1] or x.dtype != y.dtype or x.device != y.device:
            raise ValueError(
                f"y: expected {x.shape[1]} dimensions of {x.dtype} on {x.device} as x has, "
                f"got {y.shape[1]} of {y.dtype} on {y.device}"
            )
        mean_y, a_y, error_y = _centred(y)
    trace = call(_feature_trace_op, _FeatureTrace, a_x, a_y)
    distance = ((mean_x - mean_y) ** 2).sum() + (a_x**2).sum() + (a_y**2).sum() - 2 * trace
    if not return_bound:
        return distance
    norm_x, norm_y = a_x.detach().norm(), a_y.detach().norm()
    rounded = _ref.feature_rounding(a_x.shape, a_y.shape) * norm_x * norm_y
    return distance, 2 * (error_x * (norm_y + error_y) + error_y * norm_x + rounded)


def _centred(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean [D], the centred features over sqrt(N - 1), and a bound on what rounding did to those (in norm)."""
    x = x.double()
    n = x.shape[0]
    mean = x.mean(0)
    return mean, (x - mean) / (n - 1) ** 0.5, (n + 8) * EPS * x.detach().norm() / (n - 1) ** 0.5


def _trace(s: Tensor) -> Tensor:
    return s.diagonal(dim1=-2, dim2=-1).sum(-1)
