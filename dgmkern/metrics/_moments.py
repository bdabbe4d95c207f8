"""Count, mean and sum of outer products of samples, and their exact-to-rounding merge."""

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Of n samples of width D: mean = mean + mean_low, [D] both, m2 = sum (x - mean) (x - mean)^T, [D, D]; float64.

    One double cannot hold a mean far from 0 to the digits of the spread about it, and merging needs them: hence two.
    """

    count: int
    mean: Tensor
    mean_low: Tensor
    m2: Tensor

    @staticmethod
    def none(width: int, device: torch.device | None = None) -> "Moments":
        """Of no samples."""
        mean = torch.zeros(width, dtype=torch.float64, device=device)
        return Moments(0, mean, torch.zeros_like(mean), mean.new_zeros(width, width))

    def with_samples(self, x: Tensor) -> "Moments":
        """With the samples x [N, D] of any floating dtype too; may write into these."""
        near = self.mean if self.count else x.double().mean(0)
        x = x.double() - near
        low = x.mean(0)
        x -= low
        return self.merged(Moments(x.shape[0], *_two_sum(near, low), x.T @ x))

    def merged(self, other: "Moments") -> "Moments":
        """Of the samples of both (Chan, Golub and LeVeque 1983); may write into these, not into other's."""
        if other.count == 0:
            return self
        if self.count == 0:
            return Moments(other.count, *(part.clone() for part in other[1:]))
        total = self.count + other.count
        # the high parts are near each other, so that their difference is exact (Sterbenz)
        delta = (other.mean - self.mean) + (other.mean_low - self.mean_low)
        m2 = self.m2.add_(other.m2).addr_(delta, delta * (other.count * (self.count / total)))
        return Moments(total, *_two_sum(self.mean, self.mean_low + delta * (other.count / total)), m2)


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a + b, rounded, and what rounding left (Knuth): together exactly a + b."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)
