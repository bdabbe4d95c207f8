"""Gaussians and features whose Frechet distance is known to 50 digits, exactly as the fp64 numbers say.

The trace term of short-ranked covariances is only Hoelder-1/2 in their entries: rounding S in fp64 changes it in the
eighth digit, so that a distance known before rounding tells nothing. Here no entry is rounded. A covariance is
A x W / 2^p (Kronecker): A of small integers, at most 8 x 8, W = H diag(D) H with a Hadamard matrix H of +-1 and
integers D, and every product below 2^53. So T(S1, S2) = T(A1, A2) T(W1, W2), where the W commute,
T(W1, W2) = m sum sqrt(D1 D2), and the A do not: T(A1, A2) is taken with 50 digits. For a rank of 16 the covariance is
G G^T / 2^p with integers G [d, 16], and T = |G1^T G2|_* / 2^p.
"""

from __future__ import annotations

from typing import NamedTuple

import mpmath as mp
import numpy as np
import scipy.linalg
import torch
from torch import Tensor

SPECTRA = (
    "well",
    "geometric",
    "power law",
    "rank d/2",
    "rank 16",
    "shared null space",
    "dead units",
    "identical",
    "geometric, opposed",
)
DIGITS = 50
BLOCK = 8
OFFSET = 4096


class Gaussians(NamedTuple):
    """Means [D], covariances [D, D] (float64), tr (sigma1 sigma2)^(1/2) and the distance."""

    mu1: Tensor
    sigma1: Tensor
    mu2: Tensor
    sigma2: Tensor
    trace: mp.mpf
    distance: mp.mpf


class Features(NamedTuple):
    """Samples [N, D] (float32) and the distance of the Gaussians fitted to them."""

    x: Tensor
    y: Tensor
    distance: mp.mpf


def exact_trace(s1: Tensor | np.ndarray, s2: Tensor | np.ndarray) -> mp.mpf:
    """tr (S1 S2)^(1/2) of these numbers, with 50 digits of the matrices."""
    with mp.workdps(DIGITS + 10):
        values, vectors = mp.eigsy(mp.matrix(s1.tolist()))
        root = vectors * mp.diag([mp.sqrt(max(v, 0)) for v in values])
        of_product = mp.eigsy(root.T * mp.matrix(s2.tolist()) * root, eigvals_only=True)
        return sum(mp.sqrt(max(v, 0)) for v in of_product)


def _eigenvalues(spectrum: str, m: int) -> tuple[np.ndarray, int]:
    """Integers D and bits b: the eigenvalues are D / 2^b."""
    if spectrum.startswith("geometric"):
        values, bits = np.logspace(0, -12, m), 43
    elif spectrum == "power law":
        values, bits = np.arange(1.0, m + 1) ** -2, 30
    else:
        values, bits = np.linspace(0.5, 2, m), 12
    if spectrum == "shared null space":
        values[m // 2 :] = 0
    return np.rint(np.ldexp(values, bits)).astype(np.int64), bits


def gaussians(spectrum: str, d: int, seed: int = 0) -> Gaussians:
    """A pair of one of `SPECTRA`, d a power of 2 from 32 to 2048.

    well: eigenvalues within a factor of 20. power law: k^-2. geometric: down to 1e-12 of the largest, and a little
    less; large ones near large ones, as in bases in general position, or opposed: large eigenvalues of one where the
    other has small ones, so that T is small beside tr S, and as sensitive. rank d/2, rank 16: ranges in general
    position. shared null space: of d/2 dimensions. dead units: one of 8 features is constant. identical: twice one
    covariance of rank d/2, and equal means.

    Raises:
        ValueError: a d for which entries would have more than 53 bits.
    """
    generator = np.random.default_rng(seed)
    make = _low_rank if spectrum == "rank 16" else _kronecker
    sigma1, sigma2, trace = make(spectrum, d, generator)
    mu = torch.zeros(2, d, dtype=torch.float64)
    if spectrum != "identical":
        mu[1, :4] = 0.25
    with mp.workdps(DIGITS):
        rest = mp.fsum([mu[1].square().sum().item(), *sigma1.diagonal().tolist(), *sigma2.diagonal().tolist()])
        distance = rest - 2 * trace
    return Gaussians(mu[0], sigma1, mu[1], sigma2, trace, mp.mpf(0) if spectrum == "identical" else distance)


def _low_rank(spectrum: str, d: int, generator: np.random.Generator) -> tuple[Tensor, Tensor, mp.mpf]:
    g1, g2 = generator.integers(-8, 9, (2, d, 16))
    with mp.workdps(DIGITS):
        trace = mp.ldexp(sum(mp.svd_r(mp.matrix((g1.T @ g2).tolist()), compute_uv=False)), -8)
    sigma1, sigma2 = (torch.from_numpy(np.ldexp((g @ g.T).astype(np.float64), -8)) for g in (g1, g2))
    return sigma1, sigma2, trace


def _kronecker(spectrum: str, d: int, generator: np.random.Generator) -> tuple[Tensor, Tensor, mp.mpf]:
    m = d // BLOCK
    size = BLOCK - 1 if spectrum == "dead units" else BLOCK
    shift = 0 if spectrum in ("rank d/2", "identical") else 16
    values, bits = _eigenvalues(spectrum, m)
    if spectrum == "geometric":
        other = values.reshape(-1, 2)[:, ::-1].ravel()
    elif spectrum == "geometric, opposed":
        other = values[::-1]
    else:
        other = np.concatenate([generator.permutation(values[values > 0]), values[values == 0]])
    small = [g @ g.T + shift * np.eye(size, dtype=np.int64) for g in generator.integers(-2, 3, (2, size, BLOCK // 2))]
    if spectrum == "identical":
        other, small[1] = values, small[0]
    hadamard = scipy.linalg.hadamard(m, dtype=np.int64)
    exponent = bits + m.bit_length() + 4
    live = np.sort(generator.permutation(d)[: size * m])
    sigmas = []
    for a, eigenvalues in zip(small, (values, other), strict=True):
        wide = np.kron(a, (hadamard * eigenvalues) @ hadamard)
        if np.abs(wide).max() >= 2**53:
            raise ValueError(f"d: expected at most 2048, got {d}: entries of more than 53 bits")
        sigma = np.zeros((d, d))
        sigma[np.ix_(live, live)] = np.ldexp(wide.astype(np.float64), -exponent)
        sigmas.append(torch.from_numpy(sigma))
    with mp.workdps(DIGITS):
        of_wide = m * sum(mp.sqrt(int(a) * int(b)) for a, b in zip(values, other, strict=True))
        trace = exact_trace(*small) * mp.ldexp(of_wide, -exponent)
    return *sigmas, trace


def few_samples(d: int, seed: int = 0) -> Features:
    """24 samples and 20 of d features, a multiple of 1/64: by the singular values of A_x A_y^T, of integers."""
    generator = np.random.default_rng(seed)
    n, k, scale = 24, 20, 64
    x, y = (np.rint(scale * generator.standard_normal((rows, d))).astype(np.int64) for rows in (n, k))
    a, b = (z * len(z) - z.sum(0) for z in (x, y))
    with mp.workdps(DIGITS):
        trace = sum(mp.svd_r(mp.matrix((a @ b.T).tolist()), compute_uv=False)) / (n * k * mp.sqrt((n - 1) * (k - 1)))
        squares = sum(mp.mpf(int((z**2).sum())) / (len(z) ** 2 * (len(z) - 1)) for z in (a, b))
        means = mp.mpf(int(((x.sum(0) * k - y.sum(0) * n) ** 2).sum())) / (n * k) ** 2
        distance = (means + squares - 2 * trace) / scale**2
    return Features(*(torch.from_numpy(z / scale).float() for z in (x, y)), distance)


def far_from_zero(d: int, seed: int = 0) -> Features:
    """x, 1000 samples with mean 4096 and standard deviation 1, and y = 2 x - 4096: |mean y - mean x|^2 + tr cov(x)."""
    generator = np.random.default_rng(seed)
    n, scale = 1000, 256
    x = np.rint(scale * generator.standard_normal((n, d))).astype(np.int64)
    with mp.workdps(DIGITS):
        means = mp.mpf(int((x.sum(0) ** 2).sum())) / n**2
        squares = mp.mpf(int(((x * n - x.sum(0)) ** 2).sum())) / (n**2 * (n - 1))
        distance = (means + squares) / scale**2
    return Features(*(torch.from_numpy(OFFSET + k * x / scale).float() for k in (1, 2)), distance)
