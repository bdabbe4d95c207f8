"""The specification of every op in plain torch: what kernels are tested against, and what runs where there is none."""

from . import adversarial, diffusion, gaussian, likelihood, noise, reverse

__all__ = ["adversarial", "diffusion", "gaussian", "likelihood", "noise", "reverse"]
