"""dgmkern: fused kernels for deep generative models, as ordinary differentiable torch ops."""

from ._library import build_info, cpu_capability
from .ops import (
    bernoulli_nll,
    ddim_step,
    discretized_gaussian_nll,
    dpm_solver_step,
    gaussian_kl,
    gaussian_nll,
    gaussian_rsample,
    gaussian_rsample_kl,
    multinomial_nll,
    normal,
    p_sample,
    q_sample,
)
from .rng import draw_seed
from .schedule import DiffusionSchedule

__version__ = "0.1.0"

__all__ = [
    "DiffusionSchedule",
    "bernoulli_nll",
    "build_info",
    "cpu_capability",
    "ddim_step",
    "discretized_gaussian_nll",
    "dpm_solver_step",
    "draw_seed",
    "gaussian_kl",
    "gaussian_nll",
    "gaussian_rsample",
    "gaussian_rsample_kl",
    "multinomial_nll",
    "normal",
    "p_sample",
    "q_sample",
]
