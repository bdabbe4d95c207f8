"""The public ops, one file a family: signature, docstring, schema, checks, fake, autograd."""

from .._library import backends
from .diffusion import q_sample
from .gaussian import gaussian_kl, gaussian_rsample, gaussian_rsample_kl
from .importance import gaussian_log_ratio
from .noise import normal
from .reverse import ddim_step, dpm_solver_step, p_sample

__all__ = [
    "backends",
    "ddim_step",
    "dpm_solver_step",
    "gaussian_kl",
    "gaussian_log_ratio",
    "gaussian_rsample",
    "gaussian_rsample_kl",
    "normal",
    "p_sample",
    "q_sample",
]
