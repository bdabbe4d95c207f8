"""Our UNet as it is usually written: the same parameters and the same function, by torch's own modules."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dgmkern.nn import GroupNormSiLU, UNet, UpsampleConv2d
from dgmkern.nn.unet import SelfAttention


class UsualNormSiLU(nn.Module):
    def __init__(self, ours: GroupNormSiLU) -> None:
        super().__init__()
        self.norm = ours.norm

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        h = self.norm(x)
        if scale is not None:
            h = h * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
        return F.silu(h)


class UsualAttention(nn.Module):
    def __init__(self, ours: SelfAttention) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj, self.head_dim = ours.norm, ours.qkv, ours.proj, ours.head_dim

    def forward(self, x: Tensor) -> Tensor:
        _, c, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).unflatten(2, (3, c // self.head_dim, self.head_dim)).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.proj(h).transpose(1, 2).unflatten(2, (height, width))


class UsualUpsample(nn.Module):
    def __init__(self, ours: UpsampleConv2d) -> None:
        super().__init__()
        self.weight, self.bias = ours.weight, ours.bias

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return F.conv2d(F.interpolate(x, size=size, mode="nearest"), self.weight, self.bias, padding=1)


_USUAL = {GroupNormSiLU: UsualNormSiLU, SelfAttention: UsualAttention, UpsampleConv2d: UsualUpsample}


def usual(unet: UNet) -> UNet:
    """The network itself, with the usual modules in the place of ours."""
    for parent in list(unet.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in _USUAL:
                setattr(parent, name, _USUAL[type(child)](child))
    return unet
