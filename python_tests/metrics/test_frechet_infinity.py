"""FID at infinity, and the bias that it removes."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from dgmkern.metrics import FeatureStats, frechet_bias, frechet_distance, frechet_distance_infinity


def statistics(x):
    stats = FeatureStats()
    stats.update(x)
    return stats


def exact(mu, sigma, tmp_path):
    """Statistics of a Gaussian itself, of infinitely many samples."""
    np.savez(tmp_path / "exact.npz", mu=mu, sigma=sigma)
    return FeatureStats.load(tmp_path / "exact.npz")


def gaussians(width, seed=0):
    """mu and S of two Gaussians whose covariances do not commute, and the distance between them."""
    rng = np.random.default_rng(seed)
    roots = [np.eye(width) + 0.3 * rng.standard_normal((width, width)) / math.sqrt(width) * 2 for _ in range(2)]
    covariances = [root @ root.T for root in roots]
    means = [np.zeros(width), np.full(width, 0.1)]
    cross = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    distance = ((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * cross)
    return means, covariances, float(distance)


def samples(n, mu, sigma, seed):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(mu + rng.standard_normal((n, len(mu))) @ np.linalg.cholesky(sigma).T)


def test_few_samples_are_biased_and_infinitely_many_are_not(tmp_path):
    width, n = 48, 1000
    means, covariances, distance = gaussians(width)
    real = exact(means[0], covariances[0], tmp_path)
    plain, infinite = [], []
    for seed in range(8):
        x = samples(n, means[1], covariances[1], seed)
        plain.append(frechet_distance(real, x).value)
        infinite.append(frechet_distance_infinity(real, x).value)
    bias, left = np.mean(plain) - distance, np.mean(infinite) - distance
    assert bias > 0.5
    assert abs(left) < bias / 5
    # each one is nearer too, not only their mean
    assert max(abs(value - distance) for value in infinite) < min(plain) - distance


def test_the_intercept_and_its_error_are_those_of_numpy():
    real, x = torch.randn(300, 12), torch.randn(400, 12) * 1.3
    result = frechet_distance_infinity(real, x, points=7, smallest=40, seed=3)
    sizes, values = map(np.array, zip(*result.points, strict=True))
    assert sizes.tolist() == [40, 100, 160, 220, 280, 340, 400]
    (slope, intercept), covariance = np.polyfit(1 / sizes, values, 1, cov=True)
    assert slope > 0
    assert result.value == pytest.approx(intercept, rel=1e-9)
    assert result.standard_error == pytest.approx(math.sqrt(covariance[1, 1]), rel=1e-9)


def test_the_points_are_distances_of_samples_without_replacement():
    real, x = torch.randn(300, 12), torch.randn(400, 12)
    result = frechet_distance_infinity(real, x, points=5)
    assert result.points[-1] == (400, pytest.approx(frechet_distance(real, x).value, rel=1e-10))
    order = torch.Generator().manual_seed(0)
    bounds = []
    for size, value in result.points:
        chosen = torch.randperm(400, generator=order)[:size].unique()
        assert value == pytest.approx(frechet_distance(real, x[chosen]).value, rel=1e-9)
        bounds.append(frechet_distance(statistics(real), statistics(x[chosen])).bound)
    weights = np.polyfit([1 / size for size, _ in result.points], np.eye(5), 1)[1]  # of each point in the intercept
    assert weights.min() < 0
    assert result.bound == pytest.approx(np.abs(weights) @ bounds, rel=1e-6)


def test_the_seed_decides():
    real, x = torch.randn(100, 5), torch.randn(200, 5)
    one, same, other = (frechet_distance_infinity(real, x, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.value != other.value


@pytest.mark.parametrize("n_real", [30, 90, 500])
def test_fewer_samples_than_features_and_statistics_agree_within_the_bound(n_real):
    width = 64
    real, x = torch.randn(n_real, width).double(), torch.randn(100, width).double() * 1.2
    options = {"smallest": 20, "points": 9}
    one = frechet_distance_infinity(real, x, **options)
    two = frechet_distance_infinity(statistics(real), x, **options)
    assert one.points[0][0] < width < one.points[-1][0]
    # independent values of the points: eigenvalues of the product of covariances that numpy forms
    order = torch.Generator().manual_seed(0)
    values = []
    for size, _ in one.points:
        y = x[torch.randperm(100, generator=order)[:size]].numpy()
        s1, s2 = np.cov(real.numpy(), rowvar=False), np.cov(y, rowvar=False)
        # nuclear norm of centred features: no square root of a rank-deficient product
        a1, a2 = ((z - z.mean(0)) / math.sqrt(len(z) - 1) for z in (real.numpy(), y))
        trace = np.linalg.svd(a1 @ a2.T, compute_uv=False).sum()
        values.append(((real.numpy().mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * trace)
    want = np.polyfit([1 / size for size, _ in one.points], values, 1)[1]
    for result in (one, two):
        assert abs(result.value - want) <= result.bound + 1e-11 * abs(want)
    assert one.bound < (1e-9 if n_real < width else 1e-4) * abs(want)


def test_the_bound_counts_what_a_covariance_loses_of_small_variances():
    width, rng = 64, np.random.default_rng(0)
    turned = np.linalg.qr(rng.standard_normal((width, width)))[0]
    real = rng.standard_normal((200, width)) * np.logspace(0, -8, width) @ turned.T  # variances from 1 to 1e-16
    x = rng.standard_normal((60, width)) * np.logspace(-8, 0, width) @ turned.T
    real, x = torch.from_numpy(real), torch.from_numpy(x)
    result = frechet_distance_infinity(statistics(real), x, smallest=40, points=5)
    order = torch.Generator().manual_seed(0)
    values = []
    for size, _ in result.points:
        y = x[torch.randperm(60, generator=order)[:size]]
        a1, a2 = ((z - z.mean(0)) / math.sqrt(len(z) - 1) for z in (real, y))
        trace = torch.linalg.svdvals(a1 @ a2.T).sum()
        values.append((((real.mean(0) - y.mean(0)) ** 2).sum() + (a1**2).sum() + (a2**2).sum() - 2 * trace).item())
    want = np.polyfit([1 / size for size, _ in result.points], values, 1)[1]
    assert 1e-9 * want < abs(result.value - want) <= result.bound < 1e-3 * want


@pytest.mark.parametrize(("n", "width", "least"), [(400, 10, 40), (400, 60, 120), (400, 300, 200), (30, 2, 4)])
def test_the_least_number_follows_samples_and_features(n, width, least):
    real = torch.randn(10, width)
    assert frechet_distance_infinity(real, torch.randn(n, width), points=3).points[0][0] == least


def test_half_precision_and_floats_are_taken():
    real, x = torch.randn(200, 6), torch.randn(200, 6)
    want = frechet_distance_infinity(real.bfloat16().double(), x.bfloat16().double())
    assert frechet_distance_infinity(real.bfloat16(), x.bfloat16()).value == pytest.approx(want.value, rel=1e-9)


def test_bad_input_is_named():
    x = torch.randn(50, 4)
    for args, options, error, message in (
        ((x, statistics(x)), {}, TypeError, "generated: expected a tensor, got FeatureStats"),
        (([1], x), {}, TypeError, r"real: expected features \[N, D\] or FeatureStats, got list"),
        ((x, x[:, :3]), {}, ValueError, "generated: expected the 4 features of real, got 3"),
        ((statistics(x), x[:, :3]), {}, ValueError, "generated: expected 4 features per sample"),
        ((x[:1], x), {}, ValueError, "real: expected at least 2 samples, got 1"),
        ((FeatureStats(), x), {}, ValueError, "expected at least 1 sample, got 0"),
        ((x, x * torch.nan), {}, ValueError, "generated: expected finite values"),
        ((x, x), {"points": 2}, ValueError, "points: expected at least 3, got 2"),
        ((x, x), {"smallest": 1}, ValueError, "smallest: expected at least 2, got 1"),
        ((x, x), {"smallest": 40}, ValueError, "generated: expected samples for 15 different N from 40 on, got 50"),
    ):
        with pytest.raises(error, match=message):
            frechet_distance_infinity(*args, **options)


@pytest.mark.parametrize("n", [(300, 300), (200, 1000)])
def test_the_expected_bias_is_what_samples_of_one_gaussian_show(n):
    width = 16
    sigma = np.diag(np.linspace(0.2, 3.0, width))
    found, expected = [], []
    for seed in range(60):
        x, y = (samples(k, np.zeros(width), sigma, 2 * seed + i) for i, k in enumerate(n))
        found.append(frechet_distance(x, y).value)
        expected.append(frechet_bias(statistics(x), statistics(y)))
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(expected) - np.mean(found)) < 3 * error + 0.03 * np.mean(found)
    assert error < 0.05 * np.mean(found)


def test_the_expected_bias_in_one_dimension_is_exact_algebra():
    x = torch.tensor([[0.0], [2.0], [4.0]], dtype=torch.float64)  # variance 4: (4 + 4 * 2 / 4) / 3 each
    assert frechet_bias(statistics(x), statistics(x + 7)) == pytest.approx(2 * (4 + 1 / 2 * 4 * 2 / 2) / 3)


def test_dead_features_add_no_bias_and_unknown_counts_are_refused(tmp_path):
    x = torch.randn(50, 3, dtype=torch.float64)
    padded = torch.cat((x, torch.zeros(50, 2, dtype=torch.float64)), 1)
    assert frechet_bias(statistics(padded), statistics(padded)) == pytest.approx(
        frechet_bias(statistics(x), statistics(x)), rel=1e-12
    )
    with pytest.raises(ValueError, match="generated: expected a known number of samples"):
        frechet_bias(statistics(x), exact(np.zeros(3), np.eye(3), tmp_path))
