"""FID from features, statistics and batches."""

import numpy as np
import pytest
import scipy.linalg
import torch

from dgmkern.metrics import FeatureStats, FrechetDistance, frechet_distance


def statistics(x: torch.Tensor) -> FeatureStats:
    stats = FeatureStats()
    stats.update(x)
    return stats


def pytorch_fid(x: np.ndarray, y: np.ndarray) -> float:
    """As pytorch-fid computes it, for covariances of full rank."""
    mu1, mu2, s1, s2 = x.mean(0), y.mean(0), np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return ((mu1 - mu2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(scipy.linalg.sqrtm(s1 @ s2)).real


def test_features_statistics_and_batches_agree_with_pytorch_fid():
    x, y = torch.randn(500, 24), torch.randn(300, 24) * 1.2 + 0.3
    want = pytorch_fid(x.double().numpy(), y.double().numpy())
    batches = FrechetDistance()
    for part in x.split(64):
        batches.update(real=part)
    batches.update(generated=y[:200])
    batches.update(generated=y[200:])
    pairs = ((x, y), (statistics(x), y), (x, statistics(y)), (statistics(x), statistics(y)))
    for result in (*(frechet_distance(*pair) for pair in pairs), batches.compute()):
        assert result.value == pytest.approx(want, rel=1e-10)
        assert abs(result.value - want) <= result.bound + 1e-10 * want
    batches.reset()
    with pytest.raises(ValueError, match="at least 1 sample"):
        batches.compute()


def test_fewer_samples_than_features():
    x = torch.randn(20, 300, dtype=torch.float64)
    result = frechet_distance(x, 2 * x + 1)
    want = ((x.mean(0) + 1) ** 2).sum() + x.var(0).sum()
    assert result.value == pytest.approx(want.item(), rel=1e-13)
    assert result.bound <= 1e-9 * result.value
    stats = frechet_distance(statistics(x), statistics(2 * x + 1))
    assert abs(stats.value - want) <= stats.bound  # which is wide: ranks are short
    same = frechet_distance(x, x)
    assert abs(same.value) <= min(same.bound, 1e-12 * x.var(0).sum())


def test_bias_between_samples_of_one_gaussian():
    """|S1 - S2|_F^2 / 4 near the identity, and |mu1 - mu2|^2: both of order 1 / N."""
    n, d = 4000, 32
    estimates = [frechet_distance(*torch.randn(2, n, d, dtype=torch.float64)).value for _ in range(20)]
    assert np.mean(estimates) == pytest.approx((d * (d + 1) / 2 + 2 * d) / n, rel=0.06)


def test_bad_input_is_named():
    x = torch.randn(5, 3)
    for args, error, message in (
        ((x, [1]), TypeError, r"generated: expected features \[N, D\] or FeatureStats, got list"),
        ((x, x[:, :2]), ValueError, "generated: expected the 3 features of real, got 2"),
        ((x, x * torch.nan), ValueError, "generated: expected finite values, got 15 NaN"),
        ((x[:1], x), ValueError, "real: expected at least 2 samples, got 1"),
        ((statistics(x[:1]), x), ValueError, "covariance: expected at least 2 samples, got 1"),
    ):
        with pytest.raises(error, match=message):
            frechet_distance(*args)
    with pytest.raises(ValueError, match="got neither"):
        FrechetDistance().update()
