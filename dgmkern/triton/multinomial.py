"""Multinomial negative log-likelihoods, in nats, of dense counts and of counts in CSR form."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference.gaussian import compute_dtype
from ._launch import Operands, launch, power_of_2
from ._math_likelihood import multinomial_nll as multinomial
from ._tile import elements_of, kernel, load, part_of, store, store_sum, sum_columns, tile_of


@kernel
def _nll_kernel(
    log_probs,
    counts,
    nll,
    samples,
    inner,
    PART: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    rows, first, end = part_of(inner, PART, ROWS, WIDE)
    total = tl.zeros([ROWS, 1], tl.float64)
    for column in range(first, end, COLS):
        at, mask = elements_of(rows, column, samples, inner, 1, "given", COLS)
        log_p = load(log_probs + at, mask)
        count = tl.load(counts + at, mask, other=0).to(log_p.dtype)
        total += sum_columns(multinomial(log_p, count), mask)
    store_sum(nll, total, rows, first, samples, inner, PART)


@kernel
def _backward_kernel(
    grad,
    counts,
    dlog_probs,
    samples,
    inner,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    rows, first = tile_of(inner, ROWS, COLS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, 1, "given", COLS)
    g = load(grad + rows, rows < samples)
    count = tl.load(counts + at, mask, other=0).to(g.dtype)
    store(dlog_probs + at, multinomial(g, count), mask)


@triton.jit
def _non_zeros_of(crow, row, non_zeros):
    """The numbers of a row's non-zeros, int64, and whether they are among those that are there."""
    begin = tl.load(crow + row).to(tl.int64)
    end = tl.load(crow + row + 1).to(tl.int64)
    fits = (begin >= 0) & (begin <= end) & (end <= non_zeros)
    return tl.where(fits, begin, 0), tl.where(fits, end, 0), fits


@kernel
def _csr_kernel(log_probs, crow, col, values, nll, columns, non_zeros, BLOCK: tl.constexpr):
    """One row; NaN where an index does not fit, which is never read by."""
    row = tl.program_id(0).to(tl.int64)
    begin, end, row_fits = _non_zeros_of(crow, row, non_zeros)
    total = tl.zeros([BLOCK], tl.float64)
    of_row = log_probs + row * columns
    for start in range(begin, end, BLOCK):
        i = start + tl.arange(0, BLOCK)
        column = tl.load(col + i, i < end, other=0).to(tl.int64)
        fits = (column >= 0) & (column < columns)
        log_p = load(of_row + tl.where(fits, column, 0), (i < end) & fits)
        count = tl.load(values + i, i < end, other=0).to(log_p.dtype)
        terms = tl.where(fits, multinomial(log_p, count), float("nan"))
        total += tl.where(i < end, terms, 0.0).to(tl.float64)
    result = tl.where(row_fits, tl.sum(total, 0), float("nan"))
    tl.store(nll + row, result.to(nll.dtype.element_ty))


@triton.jit
def _gradient(values, col, i, end, columns, g):
    """Column and gradient of non-zeros number i: an impossible column becomes the nearest one, with a NaN."""
    column = tl.load(col + i, i < end, other=0).to(tl.int64)
    count = tl.load(values + i, i < end, other=0).to(g.dtype)
    fits = (column >= 0) & (column < columns)
    column = tl.where(column < 0, 0, tl.where(column < columns, column, columns - 1))
    return column, tl.where(fits, multinomial(g + tl.zeros_like(count), count), float("nan"))


@kernel
def _csr_backward_kernel(grad, crow, col, values, dlog_probs, columns, non_zeros, BLOCK: tl.constexpr):
    """One row of a gradient that is 0 so far. Columns that rise are written once; where they do not, each of a column's
    non-zeros writes the sum over all of them."""
    row = tl.program_id(0).to(tl.int64)
    begin, end, _row_fits = _non_zeros_of(crow, row, non_zeros)
    g = load(grad + row, True)
    falls = tl.zeros([BLOCK], tl.int32)
    for start in range(begin, end, BLOCK):
        i = start + tl.arange(0, BLOCK)
        column, by_log_p = _gradient(values, col, i, end, columns, g)
        following, _following_by = _gradient(values, col, i + 1, end, columns, g)
        falls |= ((i + 1 < end) & (following <= column)).to(tl.int32)
        store(dlog_probs + row * columns + column, by_log_p, i < end)
    if tl.max(falls, 0) > 0:
        tl.debug_barrier()  # what the first loop wrote comes first
        for start in range(begin, end, BLOCK):
            i = start + tl.arange(0, BLOCK)
            column, total = _gradient(values, col, i, end, columns, g)
            total = tl.zeros_like(total)
            for other in range(begin, end, 16):
                j = other + tl.arange(0, 16)
                of, by_log_p = _gradient(values, col, j, end, columns, g)
                same = (column[:, None] == of[None, :]) & (j < end)[None, :]
                total += tl.sum(tl.where(same, by_log_p[None, :], 0.0), 1)
            store(dlog_probs + row * columns + column, total, i < end)


def _check_counts(name: str, counts: Tensor, log_probs: Tensor) -> None:
    if counts.dtype not in (log_probs.dtype, torch.int32, torch.int64):
        raise ValueError(f"{name}: expected the dtype of log_probs, int32 or int64, got {counts.dtype}")


def _dense(counts: Tensor, tensors: Operands) -> Tensor:
    _check_counts("counts", counts, tensors.like)
    if counts.shape != tensors.like.shape:
        raise ValueError(f"counts: expected the shape {tuple(tensors.like.shape)}, got {tuple(counts.shape)}")
    return tensors.dense(counts)


def multinomial_nll(log_probs: Tensor, counts: Tensor) -> Tensor:
    """-sum_v counts[n, v] log_probs[n, v]. [N]"""
    tensors = Operands(log_probs, sums=True)
    counts, nll = _dense(counts, tensors), tensors.sum()
    tensors.run(_nll_kernel, tensors.dense(log_probs), counts, nll.target)
    return tensors.finished(nll)


def multinomial_nll_backward(grad: Tensor, log_probs: Tensor, counts: Tensor) -> Tensor:
    """-grad counts."""
    tensors = Operands(log_probs)
    counts, dlog_probs = _dense(counts, tensors), tensors.out()
    tensors.run(_backward_kernel, tensors.per_sample(grad), counts, dlog_probs)
    return dlog_probs


def _check_csr(log_probs: Tensor, crow: Tensor, col: Tensor, values: Tensor) -> None:
    """What can be seen without a sync; the kernels read nothing that is not there."""
    if log_probs.dim() != 2:
        raise ValueError(f"log_probs: expected a tensor [N, V], got shape {tuple(log_probs.shape)}")
    n = log_probs.shape[0]
    if crow.shape != (n + 1,) or crow.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"crow_indices: expected int64 or int32 [{n + 1}], got {crow.dtype} {tuple(crow.shape)}")
    if values.dim() != 1:
        raise ValueError(f"values: expected one dimension, got shape {tuple(values.shape)}")
    if col.shape != values.shape or col.dtype != crow.dtype:
        raise ValueError(
            f"col_indices: expected the shape {tuple(values.shape)} of values and {crow.dtype} as crow_indices, "
            f"got {tuple(col.shape)} and {col.dtype}"
        )
    _check_counts("values", values, log_probs)


def _run_csr(kernel, first: Tensor, counts: tuple[Tensor, ...], out: Tensor, v: int, most: int, a_warp: int) -> None:
    """A program a row, which takes at most `most` non-zeros at once, and no more than rows have on average."""
    n, non_zeros = out.shape[0], counts[2].numel()
    if n == 0:
        return
    block = min(most, max(32, power_of_2(-(-non_zeros // n))))
    counts = (x.contiguous() for x in counts)
    how = {"BLOCK": block, "num_warps": max(1, block // a_warp)}
    launch(kernel, n, out.device, first, *counts, out, v, non_zeros, **how)


def multinomial_nll_csr(log_probs: Tensor, crow: Tensor, col: Tensor, values: Tensor) -> Tensor:
    """The same for counts in CSR form. [N]"""
    _check_csr(log_probs, crow, col, values)
    n, v = log_probs.shape
    nll = log_probs.new_empty((n,), dtype=compute_dtype(log_probs))
    _run_csr(_csr_kernel, log_probs.contiguous(), (crow, col, values), nll, v, 1024, 256)
    return nll


def multinomial_nll_csr_backward(grad: Tensor, log_probs: Tensor, crow: Tensor, col: Tensor, values: Tensor) -> Tensor:
    """-grad counts, dense."""
    _check_csr(log_probs, crow, col, values)
    n, v = log_probs.shape
    grad, dlog_probs = Operands(log_probs).per_sample(grad), log_probs.new_zeros((n, v))
    if v > 0:
        _run_csr(_csr_backward_kernel, grad, (crow, col, values), dlog_probs, v, 64, 32)
    return dlog_probs
