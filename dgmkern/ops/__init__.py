"""The public ops, one file a family: signature, docstring, schema, checks, fake, autograd."""

from .._library import backends
from .adversarial import gan_generator_loss, gan_loss, gradient_norm_penalty, gradient_penalty, interpolate
from .diffusion import q_sample
from .gaussian import gaussian_kl, gaussian_rsample, gaussian_rsample_kl
from .noise import normal
from .reverse import ddim_step, dpm_solver_step, p_sample

__all__ = [
    "backends",
    "ddim_step",
    "dpm_solver_step",
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
