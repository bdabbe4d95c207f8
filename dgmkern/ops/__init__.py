"""The public ops, one file a family: signature, docstring, schema, checks, fake, autograd."""

from .._library import backends
from .diffusion import q_sample
from .gaussian import gaussian_kl, gaussian_rsample, gaussian_rsample_kl
from .likelihood import bernoulli_nll, discretized_gaussian_nll, gaussian_nll
from .multinomial import multinomial_nll
from .noise import normal
from .reverse import ddim_step, dpm_solver_step, p_sample

__all__ = [
    "backends",
    "bernoulli_nll",
    "ddim_step",
    "discretized_gaussian_nll",
    "dpm_solver_step",
    "gaussian_kl",
    "gaussian_nll",
    "gaussian_rsample",
    "gaussian_rsample_kl",
    "multinomial_nll",
    "normal",
    "p_sample",
    "q_sample",
]
