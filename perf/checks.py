"""Correctness checks that the cases share. All raise AssertionError and let NaN fail."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

import dgmkern
from dgmkern.reference.noise import normal as reference_normal

CHECK_SEED = 20_261_123


def replayed_seed(device: torch.device | str) -> torch.Tensor:
    """The seed that an op drew from torch's default generator of `device` in a checked call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(CHECK_SEED)
        return dgmkern.draw_seed(device)


def specified_noise(elements: int, seed: torch.Tensor, offset: int = 0) -> torch.Tensor:
    """The fp32 normals of `seed` from element `offset` on, by the specification (fp64 Box-Muller), as fp64 [elements].

    The specification is plain torch and shares no code with any kernel.
    """
    return reference_normal([elements], seed, offset, torch.float64)


def chunks(samples: int, elements_each: int, most: int = 1 << 22) -> Iterator[slice]:
    """Slices of the batch that hold at most about `most` elements: fp64 references of large inputs piece by piece."""
    step = max(1, most // max(elements_each, 1))
    for start in range(0, samples, step):
        yield slice(start, min(start + step, samples))


def assert_close_to_fp64(
    got: torch.Tensor, want: torch.Tensor, *, what: str, ulps: float = 4.0, scale: torch.Tensor | float = 1.0
) -> None:
    """|got - want| <= ulps * eps(dtype of got) * max(|want|, scale), everywhere; `want` is fp64."""
    assert want.dtype == torch.float64, f"{what}: the reference must be fp64"
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, wanted {tuple(want.shape)}"
    error = (got.double() - want).abs()
    allowed = ulps * torch.finfo(got.dtype).eps * torch.clamp_min(want.abs(), scale)
    wrong = ~(error <= allowed)
    if wrong.any():
        worst = torch.where(wrong, (error / allowed).nan_to_num(nan=math.inf), 0.0).argmax()
        raise AssertionError(
            f"{what}: {int(wrong.sum())} of {wrong.numel()} elements off; element {int(worst)} is "
            f"{got.flatten()[worst].item():.8g}, wanted {want.flatten()[worst].item():.8g}"
        )


def assert_standard_normal(sample: torch.Tensor, *, what: str = "noise") -> None:
    """Moments within 6 standard errors, Kolmogorov-Smirnov distance below its 1e-6 quantile, neighbours uncorrelated.

    Fits fp32 and fp64 samples of 1000 elements and more. Wider than a test of a generator (that is the test suite's
    work), narrow enough that a wrong constant, a repeated block or an unwritten element shows.
    """
    x = sample.detach().flatten().double().cpu()
    n = x.numel()
    assert bool(torch.isfinite(x).all()), f"{what}: not finite everywhere"
    # mean, variance, third and fourth moment: expectation and variance of one term of each sum
    for power, expected, variance in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        moment = x.pow(power).mean().item()
        allowed = 6 * math.sqrt(variance / n)
        assert abs(moment - expected) <= allowed, (
            f"{what}: moment {power} is {moment:.6f}, not {expected} +- {allowed:.6f}"
        )
    for lag in (1, 2, 4):
        correlation = (x[lag:] * x[:-lag]).mean().item()
        assert abs(correlation) <= 6 / math.sqrt(n - lag), f"{what}: correlation {correlation:.6f} at lag {lag}"
    ranks = torch.arange(1, n + 1, dtype=torch.float64) / n
    cdf = torch.special.ndtr(x.sort().values)
    distance = torch.maximum(ranks - cdf, cdf - (ranks - 1 / n)).max().item()
    assert distance * math.sqrt(n) <= 2.7, f"{what}: Kolmogorov-Smirnov distance {distance:.2e}"


def assert_normal_of_seed(got: torch.Tensor, seed: torch.Tensor) -> None:
    """Each number against the specification of `dgmkern.normal`, and the whole against the normal distribution."""
    flat = got.flatten()
    for part in chunks(flat.numel(), 1):
        want = specified_noise(part.stop - part.start, seed, part.start)
        assert_close_to_fp64(flat[part], want, what="normal", ulps=8.0, scale=1e-3)
    if got.dtype == torch.float32 and flat.numel() >= 1000:
        assert_standard_normal(flat[: 1 << 22])
