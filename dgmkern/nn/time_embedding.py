"""Embedding of a diffusion time step."""

import math

import torch
from torch import Tensor, nn


def sinusoidal_embedding(t: Tensor, dim: int, *, max_period: float = 10_000.0) -> Tensor:
    """Position encoding of "Attention Is All You Need" (Vaswani et al. 2017, section 3.5), cosines first.

    `t` [N], any dtype, in steps; returns float32 [N, dim]:
    cos(t w_0) ... cos(t w_k), sin(t w_0) ... sin(t w_k) with w_i = max_period^(-i / (dim / 2)).
    """
    if dim % 2:
        raise ValueError(f"dim: got {dim}, want an even number")
    half = dim // 2
    exponent = torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = t.float()[:, None] * torch.exp(-math.log(max_period) * exponent)  # [N, dim / 2]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """Sinusoids of `scale * t`, then Linear, SiLU, Linear: t [N] -> [N, out_features] (DDPM, appendix B).

    `scale` maps the time range onto the 0..1000 that the sinusoids' periods are made for: with 200 steps, pass 5.
    """

    def __init__(self, dim: int, out_features: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.dim = dim
        self.scale = scale
        self.mlp = nn.Sequential(nn.Linear(dim, out_features), nn.SiLU(), nn.Linear(out_features, out_features))

    def forward(self, t: Tensor) -> Tensor:
        embedding = sinusoidal_embedding(self.scale * t, self.dim)
        return self.mlp(embedding.to(self.mlp[0].weight.dtype))
