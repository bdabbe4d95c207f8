"""Kernel (Inception) distance: the unbiased squared maximum mean discrepancy of two sets of features."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ._features import FeatureBatches, check_count, check_pair, with_options

_BLOCK = 2048  # rows of a kernel matrix made at once, and columns


class KernelDistanceResult(NamedTuple):
    """`mean` and `std` (population, over subsets; NaN where all samples give one estimate) of MMD^2."""

    mean: float
    std: float


def kernel_distance(
    real: Tensor,
    generated: Tensor,
    *,
    subsets: int = 100,
    subset_size: int | None = 1000,
    seed: int = 0,
    degree: int = 3,
    gamma: float | None = None,
    coef: float = 1.0,
) -> KernelDistanceResult:
    """Unbiased MMD^2 of features under the kernel k(x, y) = (gamma x.y + coef)^degree (Binkowski et al. 2018).

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j): the KID where features
    are those of Inception. It may be negative. In fp64, from blocks of at most 2048 x 2048 of the kernel matrices; the
    i = j are left out of the sums, not taken off them.

    Args:
        real, generated: features [N, D] and [M, D] of float64, float32, bfloat16 or float16.
        subsets: number of estimates, each of `subset_size` samples of either side, drawn without replacement.
        subset_size: samples of one estimate; None: one estimate from all samples of both, exact and not drawn.
        seed: of the subsets: the same ones on every device.
        degree, gamma, coef: of the kernel; gamma = 1 / D by default.

    Returns:
        Mean and standard deviation (over the subsets, which share samples: not an error of the mean) of MMD^2.

    Raises:
        TypeError, ValueError: not two sets of finite features of one width on one device, of at least 2 and
            `subset_size` samples; subsets or degree < 1; gamma or coef not finite.
    """
    check_pair(real, generated)
    check_count("subsets", subsets)
    check_count("degree", degree)
    for name, value in (("gamma", gamma), ("coef", coef)):
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name}: expected a finite number, got {value}")
    if subset_size is not None:
        check_count("subset_size", subset_size, 2)
    for name, x in (("real", real), ("generated", generated)):
        if x.shape[0] < (subset_size or 2):
            raise ValueError(f"{name}: expected at least {subset_size or 2} samples, got {x.shape[0]}")
    kernel = (degree, 1 / real.shape[1] if gamma is None else gamma, coef)
    if subset_size is None:
        return KernelDistanceResult(_mmd2(real, generated, *kernel), math.nan)
    generator = torch.Generator().manual_seed(seed)
    estimates = []
    for _ in range(subsets):
        x, y = (
            features[torch.randperm(features.shape[0], generator=generator)[:subset_size].to(features.device)]
            for features in (real, generated)
        )
        estimates.append(_mmd2(x, y, *kernel))
    mean = math.fsum(estimates) / subsets
    return KernelDistanceResult(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in estimates) / subsets))


class KernelDistance(FeatureBatches):
    """`kernel_distance` of features that come in batches, which it keeps until `compute`.

    Args:
        options: keyword arguments of `kernel_distance`.
    """

    def __init__(self, **options: int | float | None) -> None:
        super().__init__()
        self._function = with_options(kernel_distance, options)

    def compute(self) -> KernelDistanceResult:
        """`kernel_distance` of all features since `reset`; ValueError where there are too few."""
        return self._function(self.joined("real"), self.joined("generated"))


@torch.no_grad()
def _mmd2(x: Tensor, y: Tensor, degree: int, gamma: float, coef: float) -> float:
    n, m = x.shape[0], y.shape[0]
    within_x = _kernel_sum(x, None, degree, gamma, coef) / (n * (n - 1))
    within_y = _kernel_sum(y, None, degree, gamma, coef) / (m * (m - 1))
    return within_x + within_y - 2 * (_kernel_sum(x, y, degree, gamma, coef) / (n * m))


def _kernel_sum(x: Tensor, y: Tensor | None, degree: int, gamma: float, coef: float) -> float:
    """sum_ij k(x_i, y_j), or without y sum_{i != j} k(x_i, x_j), half of which is computed."""
    sums = []
    for row, a in enumerate(x.split(_BLOCK)):
        a = a.double()
        for column, b in enumerate((x if y is None else y).split(_BLOCK)):
            if y is None and column < row:
                continue
            kernel = (a @ b.double().T).mul_(gamma).add_(coef).pow_(degree)
            if y is None and column == row:
                kernel.fill_diagonal_(0)
            sums.append(kernel.sum() * (2 if y is None and column > row else 1))
    return math.fsum(torch.stack(sums).tolist())
