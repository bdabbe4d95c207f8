"""The specification of every op in plain torch: what kernels are tested against, and what runs where there is none."""

from . import diffusion, gaussian, likelihood, noise, reverse

__all__ = ["diffusion", "gaussian", "likelihood", "noise", "reverse"]
