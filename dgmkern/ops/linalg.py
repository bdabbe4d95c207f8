"""Matrix square roots and the nuclear norm, in fp64, whatever comes in."""

import torch
from torch import Tensor
from torch.autograd.function import Function

from .. import _library, reference
from .._library import below_autograd
from ._matrices import check_matrix, check_square, like, rounding_of, symmetric

_ref = reference.linalg
_OPS = torch.ops.dgmkern


_sqrtm_op = _library.define(
    "sqrtm(Tensor a, float rounding) -> (Tensor, Tensor, Tensor)",
    _ref.sqrtm,
    lambda a, rounding: (like(a), like(a), a.new_empty(a.shape[:-1])),
)
_sqrtm_backward_op = _library.define(
    "sqrtm_backward(Tensor grad, Tensor root, Tensor vectors, Tensor roots) -> Tensor", _ref.sqrtm_backward, like
)
_inverse_root_op = _library.define(
    "inverse_root(Tensor root, Tensor vectors, Tensor roots) -> Tensor", _ref.inverse_root, like
)
_nuclear_norm_op = _library.define(
    "nuclear_norm(Tensor b) -> Tensor", _ref.nuclear_norm, lambda b: b.new_empty(b.shape[:-2])
)
_polar_factor_op = _library.define("polar_factor(Tensor b) -> Tensor", _ref.polar_factor, like)
_polar_factor_backward_op = _library.define(
    "polar_factor_backward(Tensor grad, Tensor b) -> Tensor", _ref.polar_factor_backward, like
)


class _SqrtmBackward(Function):
    """X with R X + X R = G is linear in G and its own adjoint; dX = L^-1(dG - dR X - X dR)."""

    @staticmethod
    def forward(ctx, grad, root, vectors, roots):
        ctx.save_for_backward(grad, root, vectors, roots)
        return below_autograd(_sqrtm_backward_op, grad, root, vectors, roots)

    @staticmethod
    def backward(ctx, cotangent):
        grad, *r = ctx.saved_tensors
        by_grad = _OPS.sqrtm_backward(cotangent, *r)
        x = _OPS.sqrtm_backward(grad, *r)
        return by_grad, -symmetric(by_grad @ x.mT + x.mT @ by_grad), None, None


class _Sqrtm(Function):
    @staticmethod
    def forward(ctx, a, rounding):
        ctx.save_for_backward(a)
        ctx.rounding = rounding
        root, vectors, roots = below_autograd(_sqrtm_op, a, rounding)
        ctx.mark_non_differentiable(vectors, roots)
        return root, vectors, roots

    @staticmethod
    def backward(ctx, cotangent, *_):
        return _OPS.sqrtm_backward(symmetric(cotangent), *_OPS.sqrtm(ctx.saved_tensors[0], ctx.rounding)), None


class _InverseRoot(Function):
    """M = R^+: dM = -M dR M + M^2 dR N + N dR M^2, N = I - R M (G. Golub and V. Pereyra, 1973)."""

    @staticmethod
    def forward(ctx, root, vectors, roots):
        ctx.save_for_backward(root, vectors, roots)
        return below_autograd(_inverse_root_op, root, vectors, roots)

    @staticmethod
    def backward(ctx, cotangent):
        root, vectors, roots = ctx.saved_tensors
        g, m = symmetric(cotangent), _OPS.inverse_root(root, vectors, roots)
        null = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device) - root @ m
        across = m @ m @ g @ null
        return symmetric(2 * across - m @ g @ m), None, None


class _NuclearNorm(Function):
    @staticmethod
    def forward(ctx, b):
        ctx.save_for_backward(b)
        return below_autograd(_nuclear_norm_op, b)

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent[..., None, None] * _OPS.polar_factor(ctx.saved_tensors[0])


class _PolarFactor(Function):
    @staticmethod
    def forward(ctx, b):
        ctx.save_for_backward(b)
        return below_autograd(_polar_factor_op, b)

    @staticmethod
    def backward(ctx, cotangent):
        return _OPS.polar_factor_backward(cotangent, ctx.saved_tensors[0])


class _Last(Function):
    """Of an op whose derivative there is none of."""

    @staticmethod
    def forward(ctx, grad, b):
        return below_autograd(_polar_factor_backward_op, grad, b)

    @staticmethod
    def backward(ctx, cotangent):
        raise NotImplementedError("dgmkern: the nuclear norm has two derivatives, not three")


for _op, _function in (
    (_sqrtm_op, _Sqrtm),
    (_sqrtm_backward_op, _SqrtmBackward),
    (_inverse_root_op, _InverseRoot),
    (_nuclear_norm_op, _NuclearNorm),
    (_polar_factor_op, _PolarFactor),
    (_polar_factor_backward_op, _Last),
):
    _library.register_autograd(_op, _function)


def sqrtm(a: Tensor) -> Tensor:
    """The square root of a symmetric positive semidefinite matrix: R, symmetric and semidefinite, with R R = A.

    From the eigenvectors of A, in fp64: never complex, never NaN. Differentiable any number of times by A (the gradient
    X solves R X + X R = G; N. Higham, "Functions of Matrices", 2008, section 6.1), with repeated eigenvalues too; over
    the null space of A, where the root has no derivative, the gradient is 0.

    Args:
        a: [..., D, D], float64 or float32.

    Returns:
        Like a.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype or shape; on the CPU also numbers that are not
            finite, a matrix that is not symmetric, or one with an eigenvalue below 0, by more than rounding.
    """
    check_square("a", a)
    return _OPS.sqrtm(a.double(), rounding_of(a))[0].to(a.dtype)


def inv_sqrtm(a: Tensor) -> Tensor:
    """The inverse square root of a symmetric positive semidefinite matrix, A^(-1/2); where A is singular, the inverse
    over its range and 0 over its null space (the pseudo-inverse of `sqrtm`).

    As in `sqrtm`, eigenvalues up to D eps times the largest one are 0. Differentiable any number of times, for matrices
    whose rank does not change.

    Args, Returns, Raises: as `sqrtm`.
    """
    check_square("a", a)
    return _OPS.inverse_root(*_OPS.sqrtm(a.double(), rounding_of(a))).to(a.dtype)


def nuclear_norm(b: Tensor) -> Tensor:
    """The sum of the singular values of a matrix, |B|_* = tr (B^T B)^(1/2).

    Its gradient is the polar factor U V^T of B, whose spectral norm is at most 1: it is bounded whatever B is. Twice
    differentiable; singular values of 0 play no part in gradients.

    Args:
        b: [..., M, N], float64 or float32.

    Returns:
        [...], float64: one number a matrix.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype or shape.
    """
    check_matrix("b", b)
    return _OPS.nuclear_norm(b.double())
