"""Importance weights of diagonal Gaussians: k samples of each datum, [N, k, ...], row-major. Formulas:
csrc/math/importance.h."""

import triton.language as tl
from torch import Tensor

from ..reference.importance import samples_shape
from ._launch import TILE, Operands, narrow_tile
from ._math import exp_minus_1, exp_of
from ._random import eps_of
from ._tile import elements_of, kernel, load, part_of, store, store_sum, sum_columns, tile_of


@kernel
def _log_ratio_kernel(
    mu,
    logvar,
    k,
    z,
    ratio,
    source,
    offset,
    samples,
    inner,
    NOISE: tl.constexpr,
    PART: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Rows are samples: k to a datum."""
    rows, first, end = part_of(inner, PART, ROWS, WIDE)
    total = tl.zeros([ROWS, 1], tl.float64)
    for column in range(first, end, COLS):
        at, mask = elements_of(rows, column, samples, inner, 1, NOISE, COLS)
        datum = at + (rows // k - rows) * inner
        m = load(mu + datum, mask)
        lv = load(logvar + datum, mask)
        half = lv * 0.5
        sigma = exp_of(half)
        eps = eps_of(source, offset, rows, column, at, mask, inner, 1, NOISE, ROWS, COLS).to(m.dtype)
        x = m + sigma * eps
        store(z + at, x, mask)
        # the squares cancel where q is near p: eps^2 - z^2 = -(z - eps)(z + eps)
        total += sum_columns(0.5 * (lv - (m + exp_minus_1(half, sigma) * eps) * (x + eps)), mask)
    store_sum(ratio, total, rows, first, samples, inner, PART)


@kernel
def _log_ratio_backward_kernel(
    grad_z,
    grad_ratio,
    mu,
    logvar,
    k,
    dmu,
    dlogvar,
    source,
    offset,
    samples,
    inner,
    NOISE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Rows are data. Sums over their samples: in the compute dtype over 16, then in fp64."""
    rows, first = tile_of(inner, ROWS, COLS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, 1, NOISE, COLS)
    m = load(mu + at, mask)
    lv = load(logvar + at, mask)
    sigma = exp_of(lv * 0.5)
    by_mu = tl.zeros([ROWS, COLS], tl.float64)
    by_logvar = tl.zeros([ROWS, COLS], tl.float64)
    for start in range(0, k, 16):
        some_mu = tl.zeros([ROWS, COLS], m.dtype)
        some_logvar = tl.zeros([ROWS, COLS], m.dtype)
        for s in range(start, tl.minimum(start + 16, k)):
            sample = rows * k + s
            here = at + (sample - rows) * inner
            eps = eps_of(source, offset, sample, first, here, mask, inner, 1, NOISE, ROWS, COLS).to(m.dtype)
            a = tl.zeros([ROWS, COLS], m.dtype)
            if grad_z is not None:
                a += load(grad_z + here, mask)
            if grad_ratio is not None:
                g = load(grad_ratio + sample, rows < samples)
                a -= g * (m + sigma * eps)
                some_logvar += g
            some_mu += a
            some_logvar += sigma * a * eps
        by_mu += some_mu.to(tl.float64)
        by_logvar += some_logvar.to(tl.float64)
    store(dmu + at, by_mu.to(m.dtype), mask)
    store(dlogvar + at, (0.5 * by_logvar).to(m.dtype), mask)


def _flat(x: Tensor | None, shape: list[int], dims: int, name: str) -> Tensor | None:
    """Dense, row-major, with the first `dims` dimensions of `shape` made one: [samples, D]."""
    if x is None:
        return None
    if list(x.shape) != list(shape):
        raise ValueError(f"{name}: expected a tensor {list(shape)}, got {list(x.shape)}")
    x = x.contiguous()
    return x.view(x.shape[:dims].numel(), x.shape[dims:].numel())


def gaussian_log_ratio(
    mu: Tensor, logvar: Tensor, k: int, noise: Tensor | None, seed: Tensor | None, offset: int
) -> tuple[Tensor, Tensor]:
    """z = mu + exp(logvar / 2) eps, and log p(z) - log q(z) = sum (eps^2 + logvar - z^2) / 2, [N, k]."""
    if k < 1:
        raise ValueError(f"k: expected a number of samples >= 1, got {k}")
    shape = samples_shape(mu, k)
    z = mu.new_empty(shape)
    tensors = Operands(_flat(z, shape, 2, "z"), sums=True)
    ratio = tensors.sum()
    drawn = tensors.noise(_flat(noise, shape, 2, "noise"), seed, offset)
    parameters = _flat(mu, mu.shape, 1, "mu"), _flat(logvar, mu.shape, 1, "logvar")
    tensors.run(_log_ratio_kernel, *parameters, k, z, ratio.target, tile=narrow_tile(mu), **drawn)
    return z, tensors.finished(ratio).view(mu.shape[0], k)


def gaussian_log_ratio_backward(
    grad_z: Tensor | None,
    grad_log_ratio: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    k: int,
    noise: Tensor | None,
    seed: Tensor | None,
    offset: int,
) -> tuple[Tensor, Tensor]:
    """a = grad_z - grad_log_ratio z: sums over the samples of a, and of (a eps exp(logvar / 2) + grad_log_ratio) / 2.

    A gradient that is None is zero.
    """
    shape = samples_shape(mu, k)
    dmu, dlogvar = mu.new_empty(mu.shape), mu.new_empty(mu.shape)
    parameters = _flat(mu, mu.shape, 1, "mu"), _flat(logvar, mu.shape, 1, "logvar")
    tensors = Operands(parameters[0])
    grads = _flat(grad_z, shape, 2, "grad_z"), _flat(grad_log_ratio, shape[:2], 2, "grad_log_ratio")
    if noise is not None:
        drawn = {"source": _flat(noise, shape, 2, "noise"), "offset": 0, "NOISE": "given"}
    else:
        drawn = tensors.noise(None, seed, offset)
    if drawn["NOISE"] == "fours" and tensors.inner % 4 != 0:  # a single datum has k samples
        drawn["NOISE"] = "each"
    # small tiles: a program goes over all samples of its data
    tensors.run(_log_ratio_backward_kernel, *grads, *parameters, k, dmu, dlogvar, tile=TILE // 4, **drawn)
    return dmu, dlogvar
