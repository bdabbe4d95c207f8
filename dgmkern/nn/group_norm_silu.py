"""GroupNorm followed by SiLU, with an optional modulation by the time embedding."""

from torch import Tensor, nn

from ..ops import group_norm_silu

# Any number costs the same: 4, 8 and 32 groups of 64 channels take the same time.
CHANNELS_PER_GROUP = 16


class GroupNormSiLU(nn.Module):
    """silu(group_norm(x) * (1 + scale) + shift): x [N, C, ...], scale and shift [N, C] or None.

    GroupNorm: Wu & He 2018. The modulation is adaptive group normalization (Dhariwal & Nichol 2021, equation 3).
    `dgmkern.group_norm_silu` with parameters; `norm` holds them under the names that nn.GroupNorm gives them.
    """

    def __init__(self, channels: int, *, groups: int | None = None, eps: float = 1e-5) -> None:
        super().__init__()
        groups = max(1, channels // CHANNELS_PER_GROUP) if groups is None else groups
        self.norm = nn.GroupNorm(groups, channels, eps=eps)  # raises ValueError unless groups divides channels

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        norm = self.norm
        return group_norm_silu(x, norm.num_groups, norm.weight, norm.bias, scale=scale, shift=shift, eps=norm.eps)
