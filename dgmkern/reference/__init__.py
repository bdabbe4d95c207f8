"""The specification of every op in plain torch: what kernels are tested against, and what runs where there is none."""

from . import diffusion, gaussian, importance, noise

__all__ = ["diffusion", "gaussian", "importance", "noise"]
