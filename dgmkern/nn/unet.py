"""The UNet of denoising diffusion (Ho, Jain & Abbeel 2020, appendix B), with adaptive group normalization."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dropout import Dropout, Masks
from .group_norm_silu import GroupNormSiLU
from .time_embedding import TimeEmbedding
from .upsample import UpsampleConv2d


class ResidualBlock(nn.Module):
    """x + conv(norm-silu(conv(norm-silu(x)), modulated by the time embedding)); starts as the identity."""

    def __init__(self, c_in: int, c_out: int, c_time: int, dropout: Dropout) -> None:
        super().__init__()
        self.norm1 = GroupNormSiLU(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = nn.Linear(c_time, 2 * c_out)
        self.norm2 = GroupNormSiLU(c_out)
        self.dropout = dropout
        self.conv2 = _zeroed(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, time: Tensor, masks: Masks | None) -> Tensor:  # [N, c_in, H, W], [N, c_time]
        scale, shift = self.time(time).chunk(2, dim=1)
        h = self.conv1(self.norm1(x))
        h = self.conv2(self.dropout(self.norm2(h, scale, shift), masks))
        return h.add_(self.skip(x))  # into what the convolution has just written, which is in a cache


class SelfAttention(nn.Module):
    """x + proj(attention over the H * W positions), heads of `head_dim` channels."""

    def __init__(self, channels: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.norm = nn.GroupNorm(1, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = _zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        c, height, width = x.shape[1:]
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [N, HW, C]
        q, k, v = self.qkv(tokens).unflatten(2, (3, c // self.head_dim, self.head_dim)).permute(2, 0, 3, 1, 4)
        # Not scaled_dot_product_attention: forward + backward of [64, 2, 49, 64] takes 17 ms with it in bf16 and 2.7 ms
        # so, on one core; in fp32 the two are equal.
        attention = torch.softmax(q @ (k * self.head_dim**-0.5).transpose(2, 3), dim=3)  # [N, heads, HW, HW]
        h = self.proj((attention @ v).transpose(1, 2).flatten(2))  # [N, HW, C]
        return x + h.transpose(1, 2).unflatten(2, (height, width))


class UNet(nn.Module):
    """Noisy image [N, in_channels, H, W], step t [N] and class [N] to a prediction [N, out_channels, H, W].

    Any H and W: resolution is halved by strided convolutions, rounding up (28, 14, 7, 4), and restored to the size of
    the skip connection, so odd sizes need no padding. Attention works at the lowest resolution. The prediction starts
    as 0.

    Args:
        in_channels, out_channels: of the image and of the prediction.
        channels: channels at full resolution, even.
        multipliers: channels at each resolution, as multiples of `channels`.
        blocks: residual blocks at each resolution on the way down; one more on the way up.
        head_dim: channels of one attention head, a divisor of the channels at the lowest resolution.
        dropout: inside the residual blocks.
        time_scale: what maps t onto 0..1000 (`TimeEmbedding`).
        classes: number of classes to condition on, 0: none. Class number `classes` stands for no class, as labels=None.

    Raises ValueError, by `check_unet`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int,
        multipliers: tuple[int, ...],
        blocks: int = 1,
        head_dim: int = 64,
        dropout: float = 0.0,
        time_scale: float = 1.0,
        classes: int = 0,
    ) -> None:
        check_unet(channels, multipliers, blocks, head_dim, dropout, classes)
        super().__init__()
        widths = [channels * m for m in multipliers]
        c_time = 4 * channels
        self.time = TimeEmbedding(channels, c_time, scale=time_scale)
        self.classes = nn.Embedding(classes + 1, c_time) if classes else None
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1)

        numbers = itertools.count()

        def stage(c_in: int, c_out: int, attend: bool) -> nn.ModuleDict:
            block = ResidualBlock(c_in, c_out, c_time, Dropout(dropout, next(numbers)))
            stage = nn.ModuleDict({"residual": block})
            if attend:
                stage["attention"] = SelfAttention(c_out, head_dim)
            return stage

        lowest = len(widths) - 1
        c, skips = widths[0], [widths[0]]
        self.down = nn.ModuleList()
        self.downsample = nn.ModuleList()
        for level, width in enumerate(widths):
            self.down.append(nn.ModuleList())
            for _ in range(blocks):
                self.down[level].append(stage(c, width, level == lowest))
                c = width
                skips.append(c)
            if level < lowest:
                self.downsample.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
                skips.append(c)

        self.middle = nn.ModuleList([stage(c, c, True), stage(c, c, False)])

        self.up = nn.ModuleList()
        self.upsample = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            self.up.append(nn.ModuleList())
            for _ in range(blocks + 1):
                self.up[-1].append(stage(c + skips.pop(), width, level == lowest))
                c = width
            if level > 0:
                self.upsample.append(UpsampleConv2d(c, c))

        self.norm = GroupNormSiLU(c)
        self.head = _zeroed(nn.Conv2d(c, out_channels, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None, masks: Masks | None = None) -> Tensor:
        """`masks` are those of dropout in training mode; None: by torch's generator."""
        time = self.time(t)  # [N, 4 channels]
        if self.classes is not None:
            none = self.classes.num_embeddings - 1
            time = time + self.classes(torch.full_like(t, none) if labels is None else labels)
        time = F.silu(time)
        h = self.stem(x)
        skips = [h]
        for level, stages in enumerate(self.down):
            for stage in stages:
                h = _apply(stage, h, time, masks)
                skips.append(h)
            if level < len(self.downsample):
                h = self.downsample[level](h)
                skips.append(h)
        for stage in self.middle:
            h = _apply(stage, h, time, masks)
        for level, stages in enumerate(self.up):
            for stage in stages:
                h = _apply(stage, torch.cat([h, skips.pop()], dim=1), time, masks)
            if level < len(self.upsample):
                h = self.upsample[level](h, skips[-1].shape[2:])
        return self.head(self.norm(h))


def check_unet(
    channels: int, multipliers: tuple[int, ...], blocks: int, head_dim: int, dropout: float, classes: int
) -> None:
    """Raise ValueError unless a `UNet` can be made of these."""
    for name, value in {"channels": channels, "blocks": blocks, "head_dim": head_dim}.items():
        if value < 1:
            raise ValueError(f"{name}: got {value}, want an integer >= 1")
    if channels % 2:
        raise ValueError(f"channels: got {channels}, want an even number")
    if not multipliers or min(multipliers) < 1:
        raise ValueError(f"multipliers: got {multipliers}, want one or more integers >= 1")
    if (width := channels * multipliers[-1]) % head_dim:
        raise ValueError(f"head_dim: got {head_dim}, want a divisor of the {width} channels at the lowest resolution")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout: got {dropout}, want 0 <= dropout < 1")
    if classes < 0:
        raise ValueError(f"classes: got {classes}, want an integer >= 0")


def check_labels(labels: Tensor, n: int, classes: int) -> None:
    """Raise TypeError or ValueError unless `labels` is int64 [n], of numbers in [0, classes).

    The numbers are looked at on a CPU only: elsewhere the look would wait for the device.
    """
    if classes == 0:
        raise ValueError("labels: got some, want None: the model has no classes")
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        raise TypeError(f"labels: got {getattr(labels, 'dtype', type(labels).__name__)}, want an int64 tensor")
    if labels.shape != (n,):
        raise ValueError(f"labels: got shape {tuple(labels.shape)}, want ({n},), one of each image")
    if labels.device.type == "cpu" and n > 0 and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels: got {labels.min()} to {labels.max()}, want classes 0 to {classes - 1}")


def _apply(stage: nn.ModuleDict, h: Tensor, time: Tensor, masks: Masks | None) -> Tensor:
    h = stage["residual"](h, time, masks)
    return stage["attention"](h) if "attention" in stage else h


def _zeroed(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
