"""dgmkern: fused kernels for deep generative models, as ordinary differentiable torch ops."""

from . import metrics, ops
from ._library import build_info, cpu_capability
from .ops import *  # noqa: F403
from .rng import draw_seed
from .schedule import DiffusionSchedule

__version__ = "0.1.0"

__all__ = ["DiffusionSchedule", "build_info", "cpu_capability", "draw_seed", "metrics", "ops", *ops.__all__]
