"""How much the Frechet distance is too large for lack of samples."""

import torch

from .feature_stats import FeatureStats


def frechet_bias(real: FeatureStats, generated: FeatureStats) -> float:
    """Expected Frechet distance of two sets of samples of one Gaussian, about, which is 0 for infinitely many.

    The sum over both of (tr S + 1/2 sum_ij l_i l_j (1 + [i = j]) / (l_i + l_j)) / n, l the eigenvalues of S: |mu_r -
    mu_g|^2 has the expectation tr S_r / n_r + tr S_g / n_g, and the distance of S + E from S is sum_ij E_ij^2 /
    (2 (l_i + l_j)) up to E^3, with E_ij of the variance l_i l_j (1 + [i = j]) / n. Good where n is a few times D; under
    D samples it is too large, and tr S / n alone is a bound from below. Features that are no Gaussian have more.

    Raises:
        ValueError: fewer than 2 samples, or an unknown number of them.
    """
    bias = 0.0
    for name, stats in (("real", real), ("generated", generated)):
        if stats.count is None:
            raise ValueError(f"{name}: expected a known number of samples, got a file that does not say it")
        values = torch.linalg.eigvalsh(stats.covariance).clamp(min=0)
        sums = values[:, None] + values
        shared = torch.where(sums > 0, values[:, None] * values / sums, 0.0)
        bias += float(values.sum() + (shared.sum() + shared.trace()) / 2) / stats.count
    return bias
