"""FID at infinity: the Frechet distance extrapolated to infinitely many generated samples."""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..ops._matrices import rounding_of
from ..reference.frechet import factor
from ._features import check_count, check_features, check_pair
from .feature_stats import FeatureStats


class FrechetInfinityResult(NamedTuple):
    """`value` at N = infinity, `standard_error` of the fit, `bound` on the numerical error, and the `points` (N, FID).

    The standard error is that of an intercept under independent errors. The points share samples and the real
    statistics, so it tells how well the line fits, not how far the value may be from that of other samples.
    """

    value: float
    standard_error: float
    bound: float
    points: tuple[tuple[int, float], ...]


def frechet_distance_infinity(
    real: Tensor | FeatureStats,
    generated: Tensor,
    *,
    points: int = 15,
    smallest: int | None = None,
    seed: int = 0,
) -> FrechetInfinityResult:
    """The intercept a of the least-squares line FID_N = a + b / N (M. Chong and D. Forsyth 2020, "Effectively unbiased
    FID and inception score and where to find them").

    FID_N is the distance to N of the generated samples, drawn without replacement, anew for each N; the N are evenly
    spaced from `smallest` to all. Its bias is b / N up to terms of 1 / N^2, which are small where N is above D. The
    bias by finitely many real samples stays.

    Args:
        real: features [M, D] of any floating dtype, at least 2 samples, or their statistics.
        generated: features [N, D], on the same device.
        points: of the line, at least 3.
        smallest: least N, at least 2; by default the larger of N / 10 and of 2 D, the latter at most N / 2.
        seed: of the draws: the same ones on every device.

    Returns:
        The value, its standard error, a bound on its numerical error, and the points. Under D samples, covariances are
        not formed: the distance is taken in sample space.

    Raises:
        TypeError, ValueError: features that are not finite [N, D] of one width and device, too few samples for so many
            different N, points < 3, smallest < 2.
    """
    if isinstance(real, FeatureStats):
        check_features("generated", generated, real.width)
        if generated.device != real.device:
            raise ValueError(f"generated: expected the device {real.device} of real, got {generated.device}")
    elif isinstance(real, Tensor):
        check_pair(real, generated)
    else:
        raise TypeError(f"real: expected features [N, D] or FeatureStats, got {type(real).__name__}")
    check_count("points", points, 3)
    n, d = generated.shape
    if smallest is None:
        smallest = max(n // 10, min(2 * d, n // 2), 2)
    check_count("smallest", smallest, 2)
    if n - smallest < points - 1:
        raise ValueError(f"generated: expected samples for {points} different N from {smallest} on, got {n}")
    generator = torch.Generator().manual_seed(seed)
    distance = _distance_to(real)
    sizes = [smallest + (n - smallest) * i // (points - 1) for i in range(points)]
    results = []
    for size in sizes:
        drawn = torch.randperm(n, generator=generator)[:size].to(generated.device)
        results.append(distance(generated[drawn].detach().double()))
    values, bounds = zip(*results, strict=True)
    weights, standard_error = _at_infinity(sizes, values)
    return FrechetInfinityResult(
        math.fsum(w * value for w, value in zip(weights, values, strict=True)),
        standard_error,
        math.fsum(abs(w) * bound for w, bound in zip(weights, bounds, strict=True)),
        tuple(zip(sizes, values, strict=True)),
    )


def _at_infinity(sizes: list[int], values: tuple[float, ...]) -> tuple[list[float], float]:
    """Weights of the values in the intercept of their least-squares line over 1 / N, and its standard error."""
    x = [1 / size for size in sizes]
    mean_x, mean = math.fsum(x) / len(x), math.fsum(values) / len(x)
    spread = math.fsum((xi - mean_x) ** 2 for xi in x)
    slope = math.fsum((xi - mean_x) * value for xi, value in zip(x, values, strict=True)) / spread
    rest = math.fsum((value - mean - slope * (xi - mean_x)) ** 2 for xi, value in zip(x, values, strict=True))
    weights = [1 / len(x) - mean_x * (xi - mean_x) / spread for xi in x]
    return weights, math.sqrt(rest / (len(x) - 2) * math.fsum(w * w for w in weights))


def _distance_to(real: Tensor | FeatureStats) -> Callable[[Tensor], tuple[float, float]]:
    """The distance of samples x [N, D], float64, to the real ones, and a bound on its error."""
    if isinstance(real, Tensor):
        if real.shape[0] < 2:
            raise ValueError(f"real: expected at least 2 samples, got {real.shape[0]}")
        if real.shape[0] < real.shape[1]:
            return lambda x: _numbers(*ops.feature_frechet_distance(x, real.detach().double(), return_bound=True))
        stats = FeatureStats()
        stats.update(real)
        real = stats
    mean, covariance = real.mean, real.covariance
    made = cache(lambda: _factor(covariance))

    def distance(x: Tensor) -> tuple[float, float]:
        if x.shape[0] < x.shape[1]:
            root, root_error, trace_error = made()
            value, bound = ops.feature_frechet_distance(x, (mean, root), return_bound=True)
            return _numbers(value, bound + 2 * root_error * x.var(0).sum().sqrt() + trace_error)
        stats = FeatureStats()
        stats.update(x)
        return _numbers(*ops.frechet_distance(stats.mean, stats.covariance, mean, covariance, return_bound=True))

    return distance


def _factor(covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """F with S = F^T F up to rounding, and what is missing: |S^(1/2) - (F^T F)^(1/2)|_F and |tr S - |F|^2|.

    |A S^(1/2)|_* then errs by at most |A|_F times the first, that is by the root of tr A^T A.
    """
    columns, roots, _, error = factor("real", covariance, rounding_of(covariance))
    root = columns.mT[roots > 0].contiguous()
    return root, error, (covariance.trace() - (root**2).sum()).abs()


def _numbers(value: Tensor, bound: Tensor) -> tuple[float, float]:
    return value.item(), bound.item()
