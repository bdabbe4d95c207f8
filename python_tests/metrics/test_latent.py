import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from dgmkern.metrics import (
    FeatureStats,
    ImportanceWeightedNLL,
    active_units,
    bits_per_dim,
    importance_weighted_nll,
    mutual_information,
)


def by_numpy(log_weights) -> np.ndarray:
    w = np.asarray(log_weights, np.longdouble)
    top = w.max(1, keepdims=True)
    return -(top[:, 0] + np.log(np.exp(w - top).mean(1))).astype(float)


def streamed(log_weights: torch.Tensor, step: int) -> torch.Tensor:
    stream = ImportanceWeightedNLL()
    for chunk in log_weights.split(step, 1):
        stream.update(chunk)
    return stream.compute()


@pytest.mark.parametrize("shift", [0.0, -3000.0, 5000.0])
def test_nll_against_numpy_however_it_is_chunked(shift):
    w = shift + 20 * torch.randn(9, 500, dtype=torch.float64)
    wanted = by_numpy(w)
    for result in (importance_weighted_nll(w), streamed(w, 1), streamed(w, 7), streamed(w.sort(1).values, 50)):
        assert result.dtype == torch.float64
        np.testing.assert_allclose(result.numpy(), wanted, rtol=4e-16, atol=1e-14)


def test_nll_in_closed_form():
    assert importance_weighted_nll(torch.full((3, 8), -90.5)).tolist() == [90.5] * 3
    assert importance_weighted_nll(torch.tensor([[-7.0]])).item() == 7
    quarter = torch.tensor([[0.0, -torch.inf, -torch.inf, -torch.inf]])
    for result in (importance_weighted_nll(quarter), streamed(quarter, 1), streamed(quarter.flip(1), 1)):
        assert result.item() == pytest.approx(math.log(4), rel=1e-15)
    nothing = torch.full((2, 4), -torch.inf)
    assert importance_weighted_nll(nothing).tolist() == streamed(nothing, 3).tolist() == [math.inf] * 2


def test_nll_of_a_gaussian_model_is_its_log_likelihood():
    # z ~ N(0, 1), x = z + N(0, 1): p(x) = N(0, 2); q the posterior N(x/2, 1/2) makes every weight p(x)
    x, eps = torch.randn(5, 1, dtype=torch.float64), torch.randn(5, 64, dtype=torch.float64)
    z = x / 2 + eps * math.sqrt(0.5)

    def log_normal(x, mean, variance):
        return -((x - mean) ** 2 / variance + math.log(2 * math.pi * variance)) / 2

    log_w = log_normal(x, z, 1) + log_normal(z, 0, 1) - log_normal(z, x / 2, 0.5)
    wanted = -log_normal(x[:, 0], 0, 2)
    torch.testing.assert_close(importance_weighted_nll(log_w), wanted, rtol=1e-13, atol=1e-14)


def test_low_precision_weights_are_summed_in_fp64():
    w = (30 * torch.randn(4, 100)).half()
    np.testing.assert_allclose(importance_weighted_nll(w).numpy(), by_numpy(w.double()), rtol=1e-15)
    assert streamed(w[:0], 10).shape == (0,)


def test_active_units_against_numpy():
    rng = np.random.default_rng(0)
    spread = np.array([0.0, 0.05, 0.09, 0.11, 1.0, 3.0])
    means = 1e4 + spread * rng.standard_normal((5000, 6))
    wanted = (means - means[0]).var(0, ddof=1)
    stats = FeatureStats()
    for batch in torch.from_numpy(means).split(900):
        stats.update(batch)
    for result in (active_units(torch.from_numpy(means)), active_units(stats)):
        assert result.count == 3
        np.testing.assert_allclose(result.variances.numpy(), wanted, rtol=1e-12, atol=1e-20)
    assert active_units(torch.from_numpy(means), threshold=0.001).count == 5
    assert active_units(torch.from_numpy(means).reshape(-1, 2, 3)).count == 3


def test_mutual_information_of_posteriors_that_are_all_alike_is_0():
    mu, logvar = torch.tensor([[0.3, -1.0]]).expand(50, 2), torch.tensor([[0.2, -3.0]]).expand(50, 2)
    result = mutual_information(mu, logvar)
    variances = np.exp([0.2, -3.0])
    kl = (np.array([0.09, 1.0]) + variances - 1 - np.log(variances)).sum() / 2
    assert result.information == pytest.approx(0, abs=1e-13)
    assert result.kl == pytest.approx(kl, rel=1e-6)
    assert result.marginal_kl == pytest.approx(kl, rel=1e-6)


def test_mutual_information_of_posteriors_far_apart_is_log_n():
    mu = 100 * torch.arange(60, dtype=torch.float64)[:, None]
    result = mutual_information(mu, torch.zeros_like(mu))
    assert result.information == pytest.approx(math.log(60), rel=1e-14)
    assert result.information + result.marginal_kl == pytest.approx(result.kl, rel=1e-14)


def test_mutual_information_by_quadrature():
    # three posteriors, a thousand times each: the same q(z), and as many samples
    means, deviations = np.array([-1.0, 0.5, 1.0]), np.array([0.5, 1.2, 0.3])

    def density(z):
        return scipy.stats.norm.pdf(z, means, deviations).mean()

    def integrand(z):
        p = scipy.stats.norm.pdf(z, means, deviations)
        return (p * (scipy.stats.norm.logpdf(z, means, deviations) - np.log(density(z)))).mean()

    wanted = scipy.integrate.quad(integrand, -9, 9, limit=200)[0]
    from_prior = scipy.integrate.quad(
        lambda z: density(z) * (np.log(density(z)) - scipy.stats.norm.logpdf(z)), -9, 9, limit=200
    )[0]
    mu, deviation = (torch.from_numpy(a).repeat(1000)[:, None] for a in (means, deviations))
    results = [mutual_information(mu, 2 * deviation.log(), seed=seed) for seed in range(3)]
    assert np.mean([r.information for r in results]) == pytest.approx(wanted, abs=0.025)
    assert np.mean([r.marginal_kl for r in results]) == pytest.approx(from_prior, abs=0.025)
    assert results[0] != results[1]
    assert results[0] == mutual_information(mu, 2 * deviation.log(), seed=0)


def test_mutual_information_of_a_gaussian_channel():
    # z = x + noise of variance v in 2 dimensions, x ~ N(0, s^2): log(1 + s^2 / v) nats
    mu = 0.9 * torch.randn(3000, 2, dtype=torch.float64)
    result = mutual_information(mu, torch.full_like(mu, math.log(0.19)))
    assert result.information == pytest.approx(math.log(1 + 0.81 / 0.19), abs=0.06)
    assert result.marginal_kl == pytest.approx(0, abs=0.06)  # variances 0.81 and 0.19 add up to the prior's


def test_bits_per_dim():
    assert bits_per_dim(784 * math.log(2), 784) == pytest.approx(1, rel=1e-15)
    uniform = torch.full((2,), 3072 * math.log(256), dtype=torch.float64)
    assert bits_per_dim(uniform, 3 * 32 * 32).tolist() == pytest.approx([8, 8], rel=1e-15)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: importance_weighted_nll(torch.zeros(3)), ValueError, r"log_weights: expected \[N, k\]"),
        (lambda: importance_weighted_nll(torch.zeros(3, 0)), ValueError, r"k >= 1, got the shape \(3, 0\)"),
        (
            lambda: importance_weighted_nll(torch.zeros(3, 1, dtype=torch.int64)),
            TypeError,
            "log_weights: expected dtype",
        ),
        (
            lambda: importance_weighted_nll(torch.tensor([[0.0, torch.inf], [torch.nan, -torch.inf]])),
            ValueError,
            "got 1 NaN and 1 infinite in 2 of 2 rows, the first in row 0",
        ),
        (lambda: ImportanceWeightedNLL().compute(), ValueError, "expected weights by update before, got none"),
        (lambda: active_units(torch.zeros(1, 3)), ValueError, "means: expected .* at least 2 data"),
        (lambda: active_units(torch.full((2, 3), torch.nan)), ValueError, "means: expected finite"),
        (lambda: active_units(FeatureStats()), ValueError, "expected at least 2 samples, got 0"),
        (
            lambda: mutual_information(torch.zeros(0, 3), torch.zeros(0, 3)),
            ValueError,
            "mu: expected .* at least 1 datum",
        ),
        (lambda: mutual_information(torch.zeros(2, 3), torch.zeros(2, 4)), ValueError, "logvar: expected the shape"),
        (
            lambda: mutual_information(torch.zeros(2, 3), torch.full((2, 3), torch.nan)),
            ValueError,
            "logvar: expected fin",
        ),
        (lambda: bits_per_dim(1.0, 0), ValueError, "dims: expected at least 1, got 0"),
        (lambda: bits_per_dim(1.0, 2.0), TypeError, "dims: expected an int, got float"),
    ],
)
def test_refused_arguments(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_chunks_of_other_data_are_refused():
    stream = ImportanceWeightedNLL()
    stream.update(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="log_weights: expected the 3 data before, got 2"):
        stream.update(torch.zeros(2, 4))
    assert stream.compute().tolist() == [0, 0, 0]
    stream.reset()
    stream.update(torch.ones(2, 4))
    assert stream.compute().tolist() == [-1, -1]
