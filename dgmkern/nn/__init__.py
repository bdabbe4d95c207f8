"""Modules that the models share."""

from .group_norm_silu import GroupNormSiLU
from .time_embedding import TimeEmbedding, sinusoidal_embedding

__all__ = ["GroupNormSiLU", "TimeEmbedding", "sinusoidal_embedding"]
