"""The public ops, one file a family: signature, docstring, schema, checks, fake, autograd."""

from .._library import backends
from .adversarial import gan_generator_loss, gan_loss, gradient_norm_penalty, gradient_penalty, interpolate
from .bound import diffusion_mse, hybrid_terms, prior_bound, vb_terms
from .diffusion import q_posterior, q_sample
from .frechet import covariance_factor, feature_frechet_distance, frechet_distance, trace_sqrtm_product
from .gaussian import gaussian_kl, gaussian_rsample, gaussian_rsample_kl
from .importance import gaussian_log_ratio
from .likelihood import bernoulli_nll, discretized_gaussian_nll, gaussian_nll
from .linalg import inv_sqrtm, nuclear_norm, sqrtm
from .multinomial import multinomial_nll
from .noise import normal
from .normalization import group_norm_silu
from .reverse import ddim_step, dpm_solver_step, p_sample

__all__ = [
    "backends",
    "bernoulli_nll",
    "covariance_factor",
    "ddim_step",
    "diffusion_mse",
    "discretized_gaussian_nll",
    "dpm_solver_step",
    "feature_frechet_distance",
    "frechet_distance",
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
    "inv_sqrtm",
    "multinomial_nll",
    "normal",
    "nuclear_norm",
    "p_sample",
    "prior_bound",
    "q_posterior",
    "q_sample",
    "sqrtm",
    "trace_sqrtm_product",
    "vb_terms",
]
