"""Multinomial negative log-likelihood per sample, of dense or sparse counts."""

import torch
from torch import Tensor

from .. import _library, reference
from .._library import call
from ..reference.gaussian import compute_dtype
from ..reference.layout import empty_as
from ._arguments import check_batch

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def _sums(log_probs, *_):
    return log_probs.new_empty(log_probs.shape[:1], dtype=compute_dtype(log_probs))


_CSR = "Tensor crow_indices, Tensor col_indices, Tensor values"
_dense_op = _library.define(
    "multinomial_nll(Tensor log_probs, Tensor counts) -> Tensor", reference.multinomial.multinomial_nll, _sums
)
_dense = _library.differentiable(
    _dense_op,
    _library.define(
        "multinomial_nll_backward(Tensor grad, Tensor log_probs, Tensor counts) -> Tensor",
        reference.multinomial.multinomial_nll_backward,
        lambda grad, log_probs, counts: empty_as(log_probs),
    ),
    by=("log_probs",),
)
_csr_op = _library.define(
    f"multinomial_nll_csr(Tensor log_probs, {_CSR}) -> Tensor", reference.multinomial.multinomial_nll_csr, _sums
)
_csr = _library.differentiable(
    _csr_op,
    _library.define(
        f"multinomial_nll_csr_backward(Tensor grad, Tensor log_probs, {_CSR}) -> Tensor",
        reference.multinomial.multinomial_nll_csr_backward,
        lambda grad, log_probs, crow_indices, col_indices, values: empty_as(log_probs),
    ),
    by=("log_probs",),
)


def multinomial_nll(log_probs: Tensor, counts: Tensor) -> Tensor:
    """Negative log-likelihood in nats of counts under a multinomial, without its coefficient, per sample.

    nll_n = -sum_v counts[n, v] log_probs[n, v] (Liang et al. 2018, eq. 2: VAEs for bags of words and of items).
    The coefficient log(total! / prod counts!), which no parameter moves, is left out; so is a check that probabilities
    add up to 1. A count of 0 adds nothing, even where log_probs is -inf. Differentiable any number of times by both;
    the gradient by log_probs is dense.

    Args:
        log_probs: [N, ...], float64, float32, bfloat16 or float16, as from log_softmax.
        counts: a dense tensor like log_probs, or of an integer dtype; or torch.sparse_csr [N, V] for log_probs [N, V],
            whose zeros are never visited nor made (forward reads one probability a non-zero). Columns may stand in any
            order and more than once. Integers above 2^24 are rounded to float32 (above 2^53 to float64).

    Returns:
        [N], float32 (float64 for float64).

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, layout, shape or device.
        IndexError: a column of a CSR tensor that is not in [0, V), found when the CPU kernel reads it.
    """
    check_batch("log_probs", log_probs)
    if not isinstance(counts, Tensor):
        raise TypeError(f"counts: expected a tensor, got {type(counts).__name__}")
    if counts.layout not in (torch.strided, torch.sparse_csr):
        raise ValueError(f"counts: expected a dense or a sparse_csr tensor, got {counts.layout}")
    if counts.shape != log_probs.shape:
        wanted = f"the shape {tuple(log_probs.shape)} of log_probs"
        raise ValueError(f"counts: expected {wanted}, got {tuple(counts.shape)}")
    if counts.dtype != log_probs.dtype and counts.dtype not in _INTEGERS:
        raise TypeError(f"counts: expected the dtype {log_probs.dtype} of log_probs, or integers, got {counts.dtype}")
    if counts.device != log_probs.device:
        raise ValueError(f"counts: expected the device {log_probs.device} of log_probs, got {counts.device}")
    if counts.layout == torch.strided:
        return call(_dense_op, _dense, log_probs, _readable(counts))
    if counts.dim() != 2:
        raise ValueError(f"counts: expected two dimensions of a sparse_csr tensor, got {counts.dim()}")
    values = _readable(counts.values())
    return call(_csr_op, _csr, log_probs, counts.crow_indices(), counts.col_indices(), values)


def _readable(counts: Tensor) -> Tensor:
    """Small integers as int32, which the kernels read."""
    return counts.to(torch.int32) if counts.dtype in _INTEGERS[2:] else counts
