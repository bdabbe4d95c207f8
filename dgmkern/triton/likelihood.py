"""Negative log-likelihoods per sample and their gradients; formulas in _math_likelihood.py."""

import triton.language as tl
from torch import Tensor

from . import _math_likelihood as element
from ._launch import TILE, Operands, narrow_tile
from ._tile import elements_of, kernel, load, part_of, store, store_sum, sum_columns, tile_of


@kernel
def _nll_kernel(
    x,
    mean,
    spread,
    nll,
    samples,
    inner,
    DENSITY: tl.constexpr,
    PART: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """x, mean, and logvar or log_scale; for "bernoulli" logits, x and None."""
    rows, first, end = part_of(inner, PART, ROWS, WIDE)
    total = tl.zeros([ROWS, 1], tl.float64)
    for column in range(first, end, COLS):
        at, mask = elements_of(rows, column, samples, inner, 1, "given", COLS)
        a = load(x + at, mask)
        b = load(mean + at, mask)
        if DENSITY == "bernoulli":
            terms = element.bernoulli_nll(a, b)
        elif DENSITY == "gaussian":
            terms = element.gaussian_nll(a, b, load(spread + at, mask))
        else:
            terms = element.discretized_gaussian_nll(a, b, load(spread + at, mask))
        total += sum_columns(terms, mask)
    store_sum(nll, total, rows, first, samples, inner, PART)


@kernel
def _backward_kernel(
    grad,
    x,
    mean,
    spread,
    dmean,
    dspread,
    samples,
    inner,
    DENSITY: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """For "bernoulli" logits, x and None; then dmean is dlogits and dspread None."""
    rows, first = tile_of(inner, ROWS, COLS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, 1, "given", COLS)
    g = load(grad + rows, rows < samples)
    a = load(x + at, mask)
    b = load(mean + at, mask)
    if DENSITY == "bernoulli":
        store(dmean + at, g * element.bernoulli_grad(a, b), mask)
    else:
        if DENSITY == "gaussian":
            by_mean, by_spread = element.gaussian_grad(a, b, load(spread + at, mask))
        else:
            by_mean, by_spread = element.discretized_gaussian_grad(a, b, load(spread + at, mask))
        store(dmean + at, g * by_mean, mask)
        store(dspread + at, g * by_spread, mask)


def _tile(density: str, x: Tensor) -> int:
    return narrow_tile(x, 512) if density == "discretized" else TILE


def _check_dtypes(first: Tensor, *others: Tensor | None) -> None:
    for x in others:
        if x is not None and x.dtype is not first.dtype:
            raise ValueError(f"expected tensors of {first.dtype}, got one of {x.dtype}")


def _nll(density: str, *parameters: Tensor | None) -> Tensor:
    tensors = Operands(parameters[0], sums=True)
    _check_dtypes(*parameters)
    nll = tensors.sum()
    tensors.run(
        _nll_kernel, *map(tensors.dense, parameters), nll.target, tile=_tile(density, parameters[0]), DENSITY=density
    )
    return tensors.finished(nll)


def _backward(density: str, grad: Tensor, *parameters: Tensor | None) -> tuple[Tensor, Tensor | None]:
    tensors = Operands(parameters[0])
    _check_dtypes(*parameters)
    grads = tensors.out(), None if parameters[2] is None else tensors.out()
    dense = map(tensors.dense, parameters)
    tile = _tile(density, parameters[0])
    tensors.run(_backward_kernel, tensors.per_sample(grad), *dense, *grads, tile=tile, DENSITY=density)
    return grads


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    """softplus(l) - x l, summed per sample. [N]"""
    return _nll("bernoulli", logits, x, None)


def bernoulli_nll_backward(grad: Tensor, logits: Tensor, x: Tensor) -> Tensor:
    """grad (sigmoid(logits) - x)."""
    return _backward("bernoulli", grad, logits, x, None)[0]


def gaussian_nll(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """(log 2 pi + logvar + (x - mean)^2 e^-logvar) / 2, summed per sample. [N]"""
    return _nll("gaussian", x, mean, logvar)


def gaussian_nll_backward(grad: Tensor, x: Tensor, mean: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients by mean and logvar."""
    return _backward("gaussian", grad, x, mean, logvar)


def discretized_gaussian_nll(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """-log p of a Gaussian discretized to 256 levels of [-1, 1] (Ho et al. 2020, eq. 13), summed per sample. [N]"""
    return _nll("discretized", x, mean, log_scale)


def discretized_gaussian_nll_backward(
    grad: Tensor, x: Tensor, mean: Tensor, log_scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients by mean and log_scale."""
    return _backward("discretized", grad, x, mean, log_scale)
