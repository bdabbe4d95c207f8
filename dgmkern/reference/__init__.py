"""The specification of every op in plain torch: what kernels are tested against, and what runs where there is none."""

from . import (
    adversarial,
    bound,
    diffusion,
    frechet,
    gaussian,
    importance,
    likelihood,
    linalg,
    multinomial,
    noise,
    normalization,
    reverse,
)

__all__ = [
    "adversarial",
    "bound",
    "diffusion",
    "frechet",
    "gaussian",
    "importance",
    "likelihood",
    "linalg",
    "multinomial",
    "noise",
    "normalization",
    "reverse",
]
