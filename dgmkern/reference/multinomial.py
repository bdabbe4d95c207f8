"""Multinomial negative log-likelihoods in plain torch, in nats; arithmetic and sums in fp32 (fp64 for fp64)."""

import torch
from torch import Tensor

from .gaussian import compute_dtype, over_samples, per_sample
from .layout import laid_out_as


def multinomial(log_probs: Tensor, counts: Tensor) -> Tensor:
    """-counts log_probs, where a count of 0 adds nothing even if its probability is 0."""
    log_probs = log_probs.masked_fill((counts == 0) & ~log_probs.isfinite(), 0.0)
    return -(counts * log_probs)


def multinomial_nll(log_probs: Tensor, counts: Tensor) -> Tensor:
    """-sum_v counts[n, v] log_probs[n, v]. [N]"""
    c = compute_dtype(log_probs)
    return per_sample(multinomial(log_probs.to(c), counts.to(c)))


def multinomial_nll_backward(grad: Tensor, log_probs: Tensor, counts: Tensor) -> Tensor:
    """-grad counts."""
    g = over_samples(grad, log_probs)
    return laid_out_as(log_probs, (-g * counts.to(g.dtype)).to(log_probs.dtype))


def _rows_and_columns(crow: Tensor, col: Tensor, n: int, v: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row and column of each non-zero, both clamped to what is there, and whether both were.

    Raises on the CPU for indices that do not fit; on an accelerator, where a look would sync, and in a compiled graph
    the caller makes them NaN.
    """
    if crow.device.type == "cpu" and type(crow) is Tensor and not torch.compiler.is_compiling():
        if crow.dim() != 1 or len(crow) != n + 1 or crow[0] != 0 or crow[-1] != len(col) or (crow.diff() < 0).any():
            raise ValueError("crow_indices: expected N + 1 numbers from 0 to the number of values that never fall")
        outside = (col < 0) | (col >= v)
        if outside.any():
            raise IndexError(f"col_indices: expected columns in [0, {v}), got {col[outside][0].item()}")
    row = torch.searchsorted(crow, torch.arange(len(col), dtype=crow.dtype, device=col.device), right=True) - 1
    fits = (row >= 0) & (row < n) & (col >= 0) & (col < v)
    return row.clamp(0, max(n - 1, 0)), col.clamp(0, max(v - 1, 0)).long(), fits


def multinomial_nll_csr(log_probs: Tensor, crow: Tensor, col: Tensor, values: Tensor) -> Tensor:
    """The same for counts in CSR form. [N]"""
    c, (n, v) = compute_dtype(log_probs), log_probs.shape
    row, column, fits = _rows_and_columns(crow, col, n, v)
    terms = multinomial(log_probs[row, column].to(c), values.to(c)).masked_fill(~fits, float("nan"))
    return torch.zeros(n, dtype=c, device=log_probs.device).index_add(0, row, terms)


def multinomial_nll_csr_backward(grad: Tensor, log_probs: Tensor, crow: Tensor, col: Tensor, values: Tensor) -> Tensor:
    """-grad counts, dense."""
    row, column, fits = _rows_and_columns(crow, col, *log_probs.shape)
    terms = (-grad[row] * values.to(grad.dtype)).masked_fill(~fits, float("nan"))
    dlog_probs = torch.zeros_like(log_probs, dtype=grad.dtype, memory_format=torch.contiguous_format)
    return dlog_probs.index_put((row, column), terms, accumulate=True).to(log_probs.dtype)
