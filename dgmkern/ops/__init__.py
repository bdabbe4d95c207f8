"""The public ops, one file a family: signature, docstring, schema, checks, fake, autograd."""

from .._library import backends
from .diffusion import q_sample
from .gaussian import gaussian_kl, gaussian_rsample, gaussian_rsample_kl
from .importance import gaussian_log_ratio
from .noise import normal

__all__ = [
    "backends",
    "gaussian_kl",
    "gaussian_log_ratio",
    "gaussian_rsample",
    "gaussian_rsample_kl",
    "normal",
    "q_sample",
]
