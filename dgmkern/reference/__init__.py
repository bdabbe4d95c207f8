"""The specification of every op in plain torch: what kernels are tested against, and what runs where there is none."""

from . import diffusion, gaussian, importance, likelihood, noise, reverse

__all__ = ["diffusion", "gaussian", "importance", "likelihood", "noise", "reverse"]
