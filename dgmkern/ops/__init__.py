"""The public ops, one file a family: signature, docstring, schema, checks, fake, autograd."""

from .._library import backends
from .adversarial import gan_generator_loss, gan_loss, gradient_norm_penalty, gradient_penalty, interpolate
from .bound import diffusion_mse, hybrid_terms, prior_bound, vb_terms
from .diffusion import q_posterior, q_sample
from .gaussian import gaussian_kl, gaussian_rsample, gaussian_rsample_kl
from .importance import gaussian_log_ratio
from .likelihood import bernoulli_nll, discretized_gaussian_nll, gaussian_nll
from .multinomial import multinomial_nll
from .noise import normal
from .normalization import group_norm_silu
from .reverse import ddim_step, dpm_solver_step, p_sample

__all__ = [
    "backends",
    "bernoulli_nll",
    "ddim_step",
    "diffusion_mse",
    "discretized_gaussian_nll",
    "dpm_solver_step",
    "gan_generator_loss",
    "gan_loss",
    "gaussian_kl",
    "gaussian_log_ratio",
    "gaussian_nll",
    "gaussian_rsample",
    "gaussian_rsample_kl",
    "gradient_norm_penalty",
    "gradient_penalty",
    "group_norm_silu",
    "hybrid_terms",
    "interpolate",
    "multinomial_nll",
    "normal",
    "p_sample",
    "prior_bound",
    "q_posterior",
    "q_sample",
    "vb_terms",
]
