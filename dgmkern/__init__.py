"""dgmkern: fused kernels for deep generative models, as ordinary differentiable torch ops."""

from ._library import build_info, cpu_capability
from .ops import (
    ddim_step,
    dpm_solver_step,
    gan_generator_loss,
    gan_loss,
    gaussian_kl,
    gaussian_rsample,
    gaussian_rsample_kl,
    gradient_norm_penalty,
    gradient_penalty,
    interpolate,
    normal,
    p_sample,
    q_sample,
)
from .rng import draw_seed
from .schedule import DiffusionSchedule

__version__ = "0.1.0"

__all__ = [
    "DiffusionSchedule",
    "build_info",
    "cpu_capability",
    "ddim_step",
    "dpm_solver_step",
    "draw_seed",
    "gan_generator_loss",
    "gan_loss",
    "gaussian_kl",
    "gaussian_rsample",
    "gaussian_rsample_kl",
    "gradient_norm_penalty",
    "gradient_penalty",
    "interpolate",
    "normal",
    "p_sample",
    "q_sample",
]
