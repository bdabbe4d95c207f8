"""Fidelity and diversity apart: precision and recall, density and coverage, of k nearest neighbours' balls."""

from typing import NamedTuple

import torch
from torch import Tensor

from ._distances import compared_squares, neighbour_distances
from ._features import FeatureBatches, check_count, check_pair, with_options


class PrecisionRecallResult(NamedTuple):
    """Four fractions, of which only `density` may exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


@torch.no_grad()
def precision_recall(real: Tensor, generated: Tensor, *, k: int = 3, density_k: int = 5) -> PrecisionRecallResult:
    """Improved precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

    With B_k(x), the closed ball about x through the k-th nearest other sample of x's own set:

    - precision: fraction of generated samples in some B_k(real), k = 3 in the paper.
    - recall: fraction of real samples in some B_k(generated).
    - density: mean over generated samples of the number of B_k(real) they are in, over k; k = 5 in the paper.
    - coverage: fraction of real samples with a generated one in their B_k.

    In fp64 from features as they are. Distances have no cancellation: |x|^2 + |y|^2 - 2 x.y decides only what its error
    bound allows, any other pair is compared by sum (x - y)^2, so that duplicates are at 0 and a sample on a ball's
    surface is in it. (The authors' `prdc` leaves the surface out, which differs only for ties, as copies make them.)
    Memory: distances of some hundred rows at a time; time O((N + M)^2 D).

    Args:
        real, generated: features [N, D] and [M, D] of float64, float32, bfloat16 or float16.
        k: neighbours for precision and recall.
        density_k: neighbours for density and coverage.

    Raises:
        TypeError, ValueError: not two sets of finite features of one width on one device; k or density_k < 1, or not
            below the number of real (k: and generated) samples.
    """
    check_pair(real, generated)
    for name, value in (("k", k), ("density_k", density_k)):
        check_count(name, value)
    for name, x, least in (("real", real, max(k, density_k)), ("generated", generated, k)):
        if x.shape[0] <= least:
            raise ValueError(f"{name}: expected more than {least} samples for as many neighbours, got {x.shape[0]}")
    real_radii = neighbour_distances(real, (k, density_k))
    generated_radii = neighbour_distances(generated, (k,))
    precise = torch.zeros(generated.shape[0], dtype=torch.bool, device=real.device)
    recalled = covered = inside = 0
    for rows, squares in compared_squares(real, generated, real_radii, generated_radii):
        precise |= (squares <= real_radii[rows, :1].square()).any(0)
        recalled += int((squares <= generated_radii[:, 0].square()).any(1).sum())
        in_ball = squares <= real_radii[rows, 1:].square()
        inside += int(in_ball.sum())
        covered += int(in_ball.any(1).sum())
    n, m = real.shape[0], generated.shape[0]
    return PrecisionRecallResult(int(precise.sum()) / m, recalled / n, inside / (density_k * m), covered / n)


class PrecisionRecall(FeatureBatches):
    """`precision_recall` of features that come in batches, which it keeps until `compute`.

    Args:
        options: keyword arguments of `precision_recall`.
    """

    def __init__(self, **options: int) -> None:
        super().__init__()
        self._function = with_options(precision_recall, options)

    def compute(self) -> PrecisionRecallResult:
        """`precision_recall` of all features since `reset`; ValueError where there are too few."""
        return self._function(self.joined("real"), self.joined("generated"))
