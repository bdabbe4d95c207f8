"""Modes that a generator covers: of a mixture of Gaussians in the plane, or the classes of a labelled data set."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ._features import check_count, check_features

_BLOCK = 1 << 20  # distances made at once


class ModeCoverageResult(NamedTuple):
    """`modes` covered, the fraction of samples of `high_quality`, and `counts` [K] of these by mode, int64."""

    modes: int
    high_quality: float
    counts: Tensor


class ModeCoverage:
    """Good samples of a mixture of equal round Gaussians, and the modes that have one (PacGAN, Lin et al. 2018).

    A sample is of high quality within `within` standard deviations of the nearest centre; a mode is covered if it is
    the nearest of one such sample. Of true samples, 1 - exp(-9/2) = 98.9% are of high quality in the plane. Batches
    are counted as they come.

    Args:
        centres: [K, D], finite, floating; float64 inside.
        std: standard deviation of every mode in every direction, > 0.
        within: standard deviations, > 0.
    """

    def __init__(self, centres: Tensor, std: float, within: float = 3.0) -> None:
        check_features("centres", centres)
        for name, value in (("std", std), ("within", within)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name}: expected a finite number > 0, got {value}")
        self.centres = centres.detach().double()
        self.std, self.within = float(std), float(within)
        self.reset()

    @classmethod
    def ring(cls, modes: int = 8, radius: float = 1.0, std: float = 0.01) -> "ModeCoverage":
        """PacGAN's 2D-ring: 8 centres on the unit circle, the first at (1, 0); standard deviation 0.01."""
        check_count("modes", modes)
        angle = torch.arange(modes, dtype=torch.float64) * (2 * math.pi / modes)
        return cls(radius * torch.stack((angle.cos(), angle.sin()), 1), std)

    @classmethod
    def grid(cls, side: int = 5, spacing: float = 2.0, std: float = 0.05) -> "ModeCoverage":
        """PacGAN's 2D-grid: 25 centres (-4 + 2i, -4 + 2j), mode 5i + j; standard deviation 0.05."""
        check_count("side", side)
        axis = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) * spacing
        return cls(torch.cartesian_prod(axis, axis), std)

    def reset(self) -> None:
        """Forget all samples."""
        self._counts = torch.zeros(self.centres.shape[0], dtype=torch.int64)
        self._samples = 0

    def update(self, *, generated: Tensor) -> None:
        """Add samples [N, D] of any device; TypeError or ValueError where not finite, floating, of the centres' D."""
        check_features("generated", generated, self.centres.shape[1])
        centres = self.centres.to(generated.device)
        for x in generated.detach().split(max(1, _BLOCK // centres.shape[0])):
            distance, mode = torch.cdist(x.double(), centres, compute_mode="donot_use_mm_for_euclid_dist").min(1)
            near = mode[distance <= self.within * self.std]
            self._counts += torch.bincount(near, minlength=centres.shape[0]).cpu()
        self._samples += generated.shape[0]

    def compute(self) -> ModeCoverageResult:
        """Of all samples since `reset`; ValueError where there are none."""
        if self._samples == 0:
            raise ValueError("generated: expected samples by update(generated=...) before, got none")
        counts = self._counts.clone()
        return ModeCoverageResult(int((counts > 0).sum()), int(counts.sum()) / self._samples, counts)


class ClassCoverageResult(NamedTuple):
    """`modes` (classes) with a sample, and `reverse_kl` in nats of their histogram from the data's."""

    modes: int
    reverse_kl: float


def class_coverage(generated: Tensor, real: Tensor | None = None, *, classes: int) -> ClassCoverageResult:
    """Classes that samples fall in, and KL(generated || real) of the histograms (Metz et al. 2017; Lin et al. 2018).

    reverse KL = sum_c g_c log(g_c / r_c) over classes with g_c > 0: 0 where the histograms agree, log(classes) where
    all samples are of one class of evenly spread data, infinite where samples fall in a class that the data lack. For
    stacked digits `classes` is 1000, the class 100 a + 10 b + c of what a classifier sees in the three channels.

    Args:
        generated: classes of the samples, integers in [0, classes), any shape.
        real: those of the data; None: the data have every class equally often.
        classes: number of them.

    Raises:
        TypeError, ValueError: not integer tensors; none; a class outside [0, classes) (says how many).
    """
    check_count("classes", classes)
    counts = _histogram("generated", generated, classes)
    data = torch.ones_like(counts) if real is None else _histogram("real", real, classes)
    present = counts > 0
    g, r = counts[present].double() / counts.sum(), data[present].double() / data.sum()
    return ClassCoverageResult(int(present.sum()), float((g * (g / r).log()).sum()))


def _histogram(name: str, x: Tensor, classes: int) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise TypeError(f"{name}: expected an integer dtype, got {x.dtype}")
    if x.numel() == 0:
        raise ValueError(f"{name}: expected at least one class, got the shape {tuple(x.shape)}")
    wrong = int(((x < 0) | (x >= classes)).sum())
    if wrong:
        raise ValueError(f"{name}: expected classes in [0, {classes}), got {wrong} of {x.numel()} outside it")
    return torch.bincount(x.flatten().long().cpu(), minlength=classes)
