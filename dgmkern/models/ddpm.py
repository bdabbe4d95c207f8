"""Denoising diffusion probabilistic models (Ho, Jain & Abbeel 2020, arXiv:2006.11239): UNet, simple loss, sampler.

Schedules and the v target are later work: cosine (Nichol & Dhariwal 2021), v (Salimans & Ho 2022). Steps are 0-based:
t = 0 ... T - 1 here are the paper's 1 ... T.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn import GroupNormSiLU, TimeEmbedding
from ..ops import diffusion_mse, normal, p_sample, q_sample
from ..schedule import DiffusionSchedule

Prediction = Literal["eps", "v", "x0"]
Schedule = Literal["linear", "cosine", "sigmoid"]


@dataclass(frozen=True)
class DDPMConfig:
    """A UNet of a few hundred thousand to a few million parameters, and the diffusion it reverses."""

    channels: int = 64
    """Channels at full resolution."""
    multipliers: tuple[int, ...] = (1, 2)
    """Channels at each resolution, as multiples of `channels`; one halving between two neighbours."""
    blocks: int = 1
    """Residual blocks at each resolution on the way down (one more on the way up)."""
    head_dim: int = 64
    """Channels of one attention head; below 32, attention is several times slower on a CPU."""
    dropout: float = 0.0
    """Dropout inside the residual blocks."""
    schedule: Schedule = "cosine"
    """Noise schedule."""
    timesteps: int = 200
    """T, the number of diffusion steps."""
    prediction: Prediction = "v"
    """What the network predicts."""

    def __post_init__(self) -> None:
        for name in ("channels", "blocks", "head_dim", "timesteps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, want an integer >= 1")
        if self.channels % 2:
            raise ValueError(f"channels: got {self.channels}, want an even number")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"multipliers: got {self.multipliers}, want one or more integers >= 1")
        if self.channels * self.multipliers[-1] % self.head_dim:
            raise ValueError(
                f"head_dim: got {self.head_dim}, want a divisor of the {self.channels * self.multipliers[-1]} channels "
                f"at the lowest resolution"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout: got {self.dropout}, want 0 <= dropout < 1")
        for name, choices in (("schedule", get_args(Schedule)), ("prediction", get_args(Prediction))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: unknown {name} {getattr(self, name)!r}, want one of {', '.join(choices)}")


# ---- The network: appendix B, with adaptive group normalization -----------------------------------------------------


class ResidualBlock(nn.Module):
    """x + conv(norm-silu(conv(norm-silu(x)), modulated by the time embedding)); starts as the identity."""

    def __init__(self, c_in: int, c_out: int, c_time: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = GroupNormSiLU(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = nn.Linear(c_time, 2 * c_out)
        self.norm2 = GroupNormSiLU(c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _zeroed(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:  # [N, c_in, H, W], [N, c_time]
        scale, shift = self.time(time).chunk(2, dim=1)
        h = self.conv1(self.norm1(x))
        h = self.conv2(self.dropout(self.norm2(h, scale, shift)))
        return self.skip(x) + h


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
    """Noisy image [N, C, H, W] and step t [N] to a prediction of the same shape; any H and W.

    Resolution is halved by strided convolutions, rounding up (28, 14, 7, 4), and restored to the size of the skip
    connection, so odd sizes need no padding. Attention works at the lowest resolution.
    """

    def __init__(self, config: DDPMConfig, image_channels: int) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        c_time = 4 * config.channels
        self.time = TimeEmbedding(config.channels, c_time, scale=1000 / config.timesteps)
        self.stem = nn.Conv2d(image_channels, widths[0], 3, padding=1)

        def stage(c_in: int, c_out: int, attend: bool) -> nn.ModuleDict:
            stage = nn.ModuleDict({"residual": ResidualBlock(c_in, c_out, c_time, config.dropout)})
            if attend:
                stage["attention"] = SelfAttention(c_out, config.head_dim)
            return stage

        lowest = len(widths) - 1
        c, skips = widths[0], [widths[0]]
        self.down = nn.ModuleList()
        self.downsample = nn.ModuleList()
        for level, width in enumerate(widths):
            self.down.append(nn.ModuleList())
            for _ in range(config.blocks):
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
            for _ in range(config.blocks + 1):
                self.up[-1].append(stage(c + skips.pop(), width, level == lowest))
                c = width
            if level > 0:
                self.upsample.append(nn.Conv2d(c, c, 3, padding=1))

        self.norm = GroupNormSiLU(c)
        self.head = _zeroed(nn.Conv2d(c, image_channels, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = F.silu(self.time(t))  # [N, 4 channels]
        h = self.stem(x)
        skips = [h]
        for level, stages in enumerate(self.down):
            for stage in stages:
                h = _apply(stage, h, time)
                skips.append(h)
            if level < len(self.downsample):
                h = self.downsample[level](h)
                skips.append(h)
        for stage in self.middle:
            h = _apply(stage, h, time)
        for level, stages in enumerate(self.up):
            for stage in stages:
                h = _apply(stage, torch.cat([h, skips.pop()], dim=1), time)
            if level < len(self.upsample):
                h = self.upsample[level](F.interpolate(h, size=skips[-1].shape[2:], mode="nearest"))
        return self.head(self.norm(h))


def _apply(stage: nn.ModuleDict, h: Tensor, time: Tensor) -> Tensor:
    h = stage["residual"](h, time)
    return stage["attention"](h) if "attention" in stage else h


def _zeroed(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


# ---- The model: algorithm 1 (training) and algorithm 2 (sampling) ---------------------------------------------------


class DDPM(nn.Module):
    """A UNet with its diffusion: `loss` for training, `sample` for ancestral sampling."""

    def __init__(self, config: DDPMConfig, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.config = config
        self.image_shape = tuple(image_shape)
        self.schedule = getattr(DiffusionSchedule, config.schedule)(config.timesteps)
        self.unet = UNet(config, self.image_shape[0])

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.unet(x_t, t)

    def loss(self, x0: Tensor, *, seed: int, step: int = 0, labels: Tensor | None = None) -> Tensor:
        """L_simple (equation 14): mean of (target - network(x_t, t))^2 over batch and pixels, t uniform.

        `x0` float32 [N, C, H, W] in [-1, 1]. Both t and the noise of the batch are functions of `seed`;
        `step` and `labels` change nothing.
        """
        generator = torch.Generator().manual_seed(seed)
        t = torch.randint(self.schedule.steps, (x0.shape[0],), generator=generator).to(x0.device)
        model_out = self.unet(q_sample(x0, t, self.schedule, seed=seed), t).float()
        return diffusion_mse(model_out, x0, t, self.schedule, seed=seed, prediction=self.config.prediction).mean()

    @torch.no_grad()
    def sample(
        self, n: int, *, seed: int, first: int = 0, progress: Callable[[Iterable[int]], Iterable[int]] = iter
    ) -> Tensor:
        """Ancestral sampling (algorithm 2): images `first` ... `first + n - 1` of the stream `seed`.

        Returns float32 [n, C, H, W] in [-1, 1]. The noise of an image depends on `seed`, its number and the step, not
        on `n`. `progress` wraps the iterable of steps.
        """
        shape = (n, *self.image_shape)
        device = next(self.parameters()).device
        begin = first * self.image_shape[0] * self.image_shape[1] * self.image_shape[2]
        x = normal(shape, seed, offset=begin, device=device)
        for t in progress(range(self.schedule.steps - 1, -1, -1)):
            model_out = self.unet(x, torch.full((n,), t, device=device)).float()
            # One stretch of 2^40 numbers of the stream `seed` for each step; x_T took the first one.
            stretch = ((t + 1) << 40) + begin
            how = {"prediction": self.config.prediction, "clip": 1.0, "seed": seed, "offset": stretch}
            x = p_sample(model_out, x, t, self.schedule, **how)
        return x
