"""dgmkern: fused kernels for deep generative models, as ordinary differentiable torch ops."""

from ._library import build_info, cpu_capability
from .ops import (
    ddim_step,
    diffusion_mse,
    dpm_solver_step,
    gaussian_kl,
    gaussian_log_ratio,
    gaussian_rsample,
    gaussian_rsample_kl,
    hybrid_terms,
    normal,
    p_sample,
    prior_bound,
    q_posterior,
    q_sample,
    vb_terms,
)
from .rng import draw_seed
from .schedule import DiffusionSchedule

__version__ = "0.1.0"

__all__ = [
    "DiffusionSchedule",
    "build_info",
    "cpu_capability",
    "ddim_step",
    "diffusion_mse",
    "dpm_solver_step",
    "draw_seed",
    "gaussian_kl",
    "gaussian_log_ratio",
    "gaussian_rsample",
    "gaussian_rsample_kl",
    "hybrid_terms",
    "normal",
    "p_sample",
    "prior_bound",
    "q_posterior",
    "q_sample",
    "vb_terms",
]
