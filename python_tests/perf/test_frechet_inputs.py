"""Frechet distances that are known by construction are those that the numbers themselves give with 60 digits."""

from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest
import torch

from perf.frechet_inputs import SPECTRA, exact_trace, far_from_zero, few_samples, gaussians


def rational(x: torch.Tensor) -> np.ndarray:
    return np.vectorize(Fraction, otypes=[object])(x.double().numpy())


def multiprecision(x: np.ndarray) -> np.ndarray:
    return np.vectorize(lambda f: mp.mpf(f.numerator) / f.denominator, otypes=[object])(x)


def distance(mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray) -> mp.mpf:
    """Of rational numbers."""
    with mp.workdps(60):
        rest = multiprecision(np.asarray(((mu1 - mu2) ** 2).sum() + sigma1.trace() + sigma2.trace())).item()
        return rest - 2 * exact_trace(multiprecision(sigma1), multiprecision(sigma2))


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_gaussians(spectrum):
    pair = gaussians(spectrum, 32)
    numbers = [rational(x) for x in pair[:4]]
    assert all(torch.equal(s, s.mT) for s in (pair.sigma1, pair.sigma2))
    assert abs(distance(*numbers) - pair.distance) <= 1e-22
    assert abs(exact_trace(pair.sigma1, pair.sigma2) - pair.trace) <= 1e-22


@pytest.mark.parametrize("d", [64, 256])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_eigenvalues_and_ranks(spectrum, d):
    pair = gaussians(spectrum, d)
    short = {"rank d/2": d // 2, "identical": d // 2, "shared null space": d // 2, "rank 16": 16}
    rank = (short | {"dead units": d * 7 // 8}).get(spectrum, d)
    values = torch.linalg.eigvalsh(torch.stack([pair.sigma1, pair.sigma2])).flip(-1)
    assert (values[:, rank:].abs() <= 1e-13).all()
    smallest = values[:, rank - 1] / values[:, 0]
    if spectrum.startswith("geometric"):
        assert ((smallest > 1e-13) & (smallest < 1e-12)).all()
    else:
        assert (smallest > 1e-4).all()
    of_both = torch.linalg.matrix_rank(pair.sigma1 + pair.sigma2, hermitian=True)
    assert of_both == {"rank d/2": d, "rank 16": 32}.get(spectrum, rank)


def test_features():
    for features, tolerance in ((few_samples(26), 1e-22), (far_from_zero(4), 1e-45)):
        numbers = []
        for x in (features.x, features.y):
            x = rational(x)
            mean = x.sum(0) / Fraction(len(x))
            centred = x - mean
            numbers += [mean, centred.T @ centred / Fraction(len(x) - 1)]
        assert abs(distance(*numbers) - features.distance) <= tolerance * features.distance
