"""The Frechet distance between features of real and generated samples: FID, where the features are Inception's."""

from typing import NamedTuple

from torch import Tensor

from .. import ops
from ._features import check_pair
from .feature_stats import FeatureStats


class FrechetDistanceResult(NamedTuple):
    """`value`, and `bound` on its numerical error. The estimate itself is biased: upwards, by about 1 / N."""

    value: float
    bound: float


def frechet_distance(real: Tensor | FeatureStats, generated: Tensor | FeatureStats) -> FrechetDistanceResult:
    """|mu_r - mu_g|^2 + tr S_r + tr S_g - 2 tr (S_r S_g)^(1/2) of the means and unbiased covariances of features.

    (Heusel et al. 2017, "GANs trained by a two time-scale update rule converge to a local Nash equilibrium".) Two
    tensors are compared in sample space where they have fewer samples than features: no covariance is formed, and no
    digit lost.

    Args:
        real, generated: features [N, D] of any floating dtype, at least 2 samples, or their statistics.

    Returns:
        The distance, and a bound on its numerical error.

    Raises:
        TypeError, ValueError: features that are not finite or not [N, D], too few samples, unlike widths or devices.
    """
    if isinstance(real, Tensor) and isinstance(generated, Tensor):
        check_pair(real, generated)
        for name, x in (("real", real), ("generated", generated)):
            if x.shape[0] < 2:
                raise ValueError(f"{name}: expected at least 2 samples, got {x.shape[0]}")
        value, bound = ops.feature_frechet_distance(
            real.detach().double(), generated.detach().double(), return_bound=True
        )
    else:
        one, two = _statistics("real", real), _statistics("generated", generated)
        value, bound = ops.frechet_distance(one.mean, one.covariance, two.mean, two.covariance, return_bound=True)
    return FrechetDistanceResult(value.item(), bound.item())


def _statistics(name: str, x: Tensor | FeatureStats) -> FeatureStats:
    if isinstance(x, FeatureStats):
        return x
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected features [N, D] or FeatureStats, got {type(x).__name__}")
    stats = FeatureStats()
    stats.update(x)
    return stats


class FrechetDistance:
    """`frechet_distance` of batches, in constant memory: `real` and `generated` are their FeatureStats, which may be
    loaded, merged and all-reduced."""

    def __init__(self) -> None:
        self.reset()

    def update(self, *, real: Tensor | None = None, generated: Tensor | None = None) -> None:
        """Add features [N, D] of either side or both.

        Raises:
            TypeError, ValueError: as `FeatureStats.update`; neither side given.
        """
        if real is None and generated is None:
            raise ValueError("update: expected real, generated or both, got neither")
        if real is not None:
            self.real.update(real)
        if generated is not None:
            self.generated.update(generated)

    def compute(self) -> FrechetDistanceResult:
        """The distance of what came so far; ValueError under 2 samples of either side."""
        return frechet_distance(self.real, self.generated)

    def reset(self) -> None:
        """Forget all batches."""
        self.real, self.generated = FeatureStats(), FeatureStats()
