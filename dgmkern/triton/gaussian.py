"""Diagonal Gaussians; logvar is log sigma^2. Formulas: csrc/math/gaussian.h."""

import triton
import triton.language as tl
from torch import Tensor

from ._launch import Operands
from ._math import exp_of
from ._math_gaussian import kl_between, kl_between_grad, kl_standard, kl_standard_by_logvar
from ._random import eps_of
from ._tile import elements_of, kernel, load, part_of, store, store_sum, sum_columns, tile_of


@triton.jit
def _kl(mu, logvar, mu_p, logvar_p, at, mask):
    """The KL divergence of a tile's elements from a prior, N(0, 1) where mu_p is None."""
    m = load(mu + at, mask)
    lv = load(logvar + at, mask)
    if mu_p is None:
        return kl_standard(m, lv, exp_of(lv * 0.5))
    else:
        return kl_between(m - load(mu_p + at, mask), lv, load(logvar_p + at, mask))


@kernel
def _kl_kernel(
    mu, logvar, mu_p, logvar_p, out, samples, inner, ROWS: tl.constexpr, COLS: tl.constexpr, WIDE: tl.constexpr
):
    rows, first = tile_of(inner, ROWS, COLS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, 1, "given", COLS)
    store(out + at, _kl(mu, logvar, mu_p, logvar_p, at, mask), mask)


@kernel
def _kl_sample_kernel(
    mu,
    logvar,
    mu_p,
    logvar_p,
    out,
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
        total += sum_columns(_kl(mu, logvar, mu_p, logvar_p, at, mask), mask)
    store_sum(out, total, rows, first, samples, inner, PART)


@kernel
def _kl_backward_kernel(
    grad,
    mu,
    logvar,
    mu_p,
    logvar_p,
    dmu,
    dlogvar,
    dmu_p,
    dlogvar_p,
    samples,
    inner,
    OF_SAMPLE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    rows, first = tile_of(inner, ROWS, COLS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, 1, "given", COLS)
    m = load(mu + at, mask)
    lv = load(logvar + at, mask)
    if OF_SAMPLE:
        g = load(grad + rows, rows < samples)
    else:
        g = load(grad + at, mask)
    if mu_p is None:
        sigma = exp_of(lv * 0.5)
        store(dmu + at, g * m, mask)
        store(dlogvar + at, 0.5 * (g * kl_standard_by_logvar(lv, sigma)), mask)
    else:
        diff = m - load(mu_p + at, mask)
        by_mu, by_logvar = kl_between_grad(g, diff, lv, load(logvar_p + at, mask))
        store(dmu + at, by_mu, mask)
        store(dlogvar + at, by_logvar, mask)
        store(dmu_p + at, -by_mu, mask)
        store(dlogvar_p + at, -0.5 * by_mu * diff - by_logvar, mask)


@kernel
def _rsample_kernel(
    mu,
    logvar,
    z,
    source,
    offset,
    samples,
    inner,
    channels,
    NOISE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    rows, first = tile_of(inner, ROWS, COLS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, channels, NOISE, COLS)
    eps = eps_of(source, offset, rows, first, at, mask, inner, channels, NOISE, ROWS, COLS)
    store(z + at, load(mu + at, mask) + exp_of(load(logvar + at, mask) * 0.5) * eps, mask)


@kernel
def _rsample_kl_kernel(
    mu,
    logvar,
    z,
    kl,
    source,
    offset,
    samples,
    inner,
    channels,
    NOISE: tl.constexpr,
    PART: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    rows, first, end = part_of(inner, PART, ROWS, WIDE)
    total = tl.zeros([ROWS, 1], tl.float64)
    for column in range(first, end, COLS):
        at, mask = elements_of(rows, column, samples, inner, channels, NOISE, COLS)
        m = load(mu + at, mask)
        lv = load(logvar + at, mask)
        sigma = exp_of(lv * 0.5)
        eps = eps_of(source, offset, rows, column, at, mask, inner, channels, NOISE, ROWS, COLS)
        store(z + at, m + sigma * eps, mask)
        total += sum_columns(kl_standard(m, lv, sigma), mask)
    store_sum(kl, total, rows, first, samples, inner, PART)


@kernel
def _rsample_backward_kernel(
    grad_z,
    grad_kl,
    mu,
    logvar,
    dmu,
    dlogvar,
    source,
    offset,
    samples,
    inner,
    channels,
    NOISE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The gradient of z, and of its KL divergence unless grad_kl [N] is None; of mu unless dmu is None."""
    rows, first = tile_of(inner, ROWS, COLS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, channels, NOISE, COLS)
    lv = load(logvar + at, mask)
    g = load(grad_z + at, mask)
    sigma = exp_of(lv * 0.5)
    eps = eps_of(source, offset, rows, first, at, mask, inner, channels, NOISE, ROWS, COLS)
    by_logvar = g * eps * sigma
    if grad_kl is not None:
        g_kl = load(grad_kl + rows, rows < samples)
        by_logvar += g_kl * kl_standard_by_logvar(lv, sigma)
        store(dmu + at, g + g_kl * load(mu + at, mask), mask)
    elif dmu is not None:
        store(dmu + at, g, mask)
    store(dlogvar + at, 0.5 * by_logvar, mask)


def gaussian_rsample(mu: Tensor, logvar: Tensor, noise: Tensor | None, seed: Tensor | None, offset: int) -> Tensor:
    """z = mu + exp(logvar / 2) eps."""
    tensors = Operands(mu, by_sample=False)
    z = tensors.out()
    drawn = tensors.noise(noise, seed, offset)
    tensors.run(_rsample_kernel, tensors.dense(mu), tensors.dense(logvar), z, **drawn)
    return z


def gaussian_rsample_backward(
    grad: Tensor, logvar: Tensor, noise: Tensor | None, seed: Tensor | None, offset: int
) -> Tensor:
    """dL/dlogvar = grad eps exp(logvar / 2) / 2."""
    tensors = Operands(logvar, by_sample=False)
    dlogvar = tensors.out()
    drawn = tensors.noise(noise, seed, offset)
    grads = tensors.dense(grad), None
    tensors.run(_rsample_backward_kernel, *grads, None, tensors.dense(logvar), None, dlogvar, **drawn)
    return dlogvar


def gaussian_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) = (mu^2 + e^logvar - 1 - logvar) / 2, per element."""
    return _each(mu, logvar, None, None)


def gaussian_kl_between(mu: Tensor, logvar: Tensor, mu_p: Tensor, logvar_p: Tensor) -> Tensor:
    """KL between two, per element: ((mu - mu_p)^2 e^-logvar_p + e^d - 1 - d) / 2, d = logvar - logvar_p."""
    return _each(mu, logvar, mu_p, logvar_p)


def _each(*parameters: Tensor | None) -> Tensor:
    tensors = Operands(parameters[0], by_sample=False)
    kl = tensors.out()
    tensors.run(_kl_kernel, *map(tensors.dense, parameters), kl)
    return kl


def gaussian_kl_sample(mu: Tensor, logvar: Tensor) -> Tensor:
    """The same, summed per sample: [N]."""
    return _summed(mu, logvar, None, None)


def gaussian_kl_between_sample(mu: Tensor, logvar: Tensor, mu_p: Tensor, logvar_p: Tensor) -> Tensor:
    """The same, summed per sample: [N]."""
    return _summed(mu, logvar, mu_p, logvar_p)


def _summed(*parameters: Tensor | None) -> Tensor:
    tensors = Operands(parameters[0], sums=True)
    kl = tensors.sum()
    tensors.run(_kl_sample_kernel, *map(tensors.dense, parameters), kl.target)
    return tensors.finished(kl)


def gaussian_kl_backward(grad: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """grad mu, grad (e^logvar - 1) / 2. grad is [N] or shaped as mu."""
    return _backward(grad, mu, logvar, None, None)[:2]


def gaussian_kl_between_backward(
    grad: Tensor, mu: Tensor, logvar: Tensor, mu_p: Tensor, logvar_p: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients by mu, logvar, mu_p and logvar_p. grad is [N] or shaped as mu."""
    return _backward(grad, mu, logvar, mu_p, logvar_p)


def _backward(grad: Tensor, *parameters: Tensor | None) -> tuple[Tensor | None, ...]:
    of_sample = grad.dim() == 1 and parameters[0].dim() != 1
    tensors = Operands(parameters[0], by_sample=of_sample)
    grads = tuple(None if x is None else tensors.out() for x in parameters)
    grad = tensors.per_sample(grad) if of_sample else tensors.dense(grad)
    tensors.run(_kl_backward_kernel, grad, *map(tensors.dense, parameters), *grads, OF_SAMPLE=of_sample)
    return grads


def gaussian_rsample_kl(
    mu: Tensor, logvar: Tensor, noise: Tensor | None, seed: Tensor | None, offset: int
) -> tuple[Tensor, Tensor]:
    """(z, KL to N(0, 1) per sample) in one pass."""
    tensors = Operands(mu, sums=True)
    z, kl = tensors.out(), tensors.sum()
    drawn = tensors.noise(noise, seed, offset)
    tensors.run(_rsample_kl_kernel, tensors.dense(mu), tensors.dense(logvar), z, kl.target, **drawn)
    return z, tensors.finished(kl)


def gaussian_rsample_kl_backward(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    noise: Tensor | None,
    seed: Tensor | None,
    offset: int,
) -> tuple[Tensor, Tensor]:
    """grad_z + grad_kl mu, grad_z eps e^(logvar/2) / 2 + grad_kl (e^logvar - 1) / 2; a gradient that is None is 0."""
    if grad_z is None:
        return gaussian_kl_backward(grad_kl, mu, logvar)
    tensors = Operands(mu, by_sample=grad_kl is not None)
    dmu, dlogvar = tensors.out(), tensors.out()
    drawn = tensors.noise(noise, seed, offset)
    grads = tensors.dense(grad_z, "grad_z"), tensors.per_sample(grad_kl, "grad_kl")
    parameters = tensors.dense(mu), tensors.dense(logvar)
    tensors.run(_rsample_backward_kernel, *grads, *parameters, dmu, dlogvar, **drawn)
    return dmu, dlogvar
