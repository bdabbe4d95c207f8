"""Generative adversarial networks (Goodfellow et al. 2014, arXiv:1406.2661) and what made them train.

Least squares (Mao et al. 2017), Wasserstein with clipped weights (Arjovsky et al. 2017) and with a gradient penalty
(Gulrajani et al. 2017), hinge and spectral normalization (Miyato et al. 2018), packing (PacGAN, Lin et al. 2018).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ..nn import GroupNormSiLU, UpsampleConv2d
from ..ops import gan_generator_loss, gan_loss, gradient_norm_penalty, interpolate, normal
from .choices import check_choices
from .frozen import frozen
from .phase import Phase
from .share import WHOLE, Share

Kind = Literal["minmax", "nonsaturating", "least_squares", "wasserstein", "hinge"]
Network = Literal["mlp", "conv"]
Output = Literal["tanh", "linear"]

# The weights of the interpolates are drawn far beyond the numbers of the stream that latents take.
_INTERPOLATES = 1 << 40

_SLOPE = 0.2  # of the discriminators' LeakyReLU below 0
_HALVING = {"stride": 2, "padding": 1}  # of a 3 x 3 convolution; 2n - 1 and 2n become n


@dataclass(frozen=True)
class GANConfig:
    """The game, and a network for each of its two players."""

    kind: Kind = "nonsaturating"
    """Losses of both players, as in `dgmkern.gan_loss`."""
    discriminator_steps: int = 1
    """K, steps of the discriminator before each of the generator, every one on a batch of its own."""
    gradient_penalty: float = 0.0
    """Weight of the penalty on the discriminator's gradient between real and generated samples; WGAN-GP has 10."""
    penalty_target: float = 1.0
    """Norm of that gradient that costs nothing: 1 in WGAN-GP; 0 flattens the discriminator (Thanh-Tung et al. 2019)."""
    clip_weights: float = 0.0
    """Bound to which the discriminator's weights are clipped after its steps; 0 does not clip, WGAN has 0.01."""
    spectral_norm: bool = False
    """Divide every weight of the discriminator by its largest singular value."""
    packing: int = 1
    """Samples that the discriminator judges together (PacGAN); a divisor of the batch size."""
    latent: int = 64
    """Dimension of z ~ N(0, I)."""
    network: Network = "mlp"
    """Fully connected, or convolutional after DCGAN (Radford et al. 2016)."""
    hidden: int = 256
    """Units of each hidden layer of an MLP."""
    layers: int = 2
    """Hidden layers of an MLP."""
    channels: int = 32
    """Channels of a convolutional network next to the image."""
    multipliers: tuple[int, ...] = (1, 2)
    """Channels after each halving of the resolution, as multiples of `channels`."""
    output: Output = "tanh"
    """What ends the generator: tanh for images in [-1, 1], nothing ("linear") for data without bounds."""

    def __post_init__(self) -> None:
        for name in ("discriminator_steps", "packing", "latent", "hidden", "layers", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, want an integer >= 1")
        for name in ("gradient_penalty", "penalty_target", "clip_weights"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: got {getattr(self, name)}, want a finite number >= 0")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"multipliers: got {self.multipliers}, want one or more integers >= 1")
        check_choices(self)
        if self.spectral_norm and self.clip_weights:
            raise ValueError(f"clip_weights: got {self.clip_weights}, want 0 beside spectral_norm")
        if self.kind == "wasserstein" and not (self.spectral_norm or self.clip_weights or self.gradient_penalty):
            raise ValueError(
                "kind: got 'wasserstein', want with it clip_weights, gradient_penalty or spectral_norm: the loss of an "
                "unconstrained critic has no minimum"
            )


# ---- The networks ---------------------------------------------------------------------------------------------------


class MLPGenerator(nn.Sequential):
    """z [N, latent] to samples [N, C, H, W]."""

    def __init__(self, config: GANConfig, image_shape: tuple[int, int, int]) -> None:
        widths = [config.latent] + [config.hidden] * config.layers
        hidden = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU(inplace=True))]
        size = image_shape[0] * image_shape[1] * image_shape[2]
        super().__init__(*hidden, nn.Linear(widths[-1], size), _output(config), nn.Unflatten(1, image_shape))


class Discriminator(nn.Sequential):
    """Samples [N, C, H, W] to scores [N, 1], by layers with LeakyReLU between them."""

    def input_gradient(self, x: Tensor) -> Tensor:
        """The gradient of each score by its sample, of x's shape; differentiable by the weights, by plain backward.

        Between the kinks of LeakyReLU a score is affine: its gradient W_1^T S_1 ... W_L^T, with the slopes S_l of the
        hidden layers, does not change with x or the biases.
        """
        # one look at each weight: under spectral_norm it is a step of the power iteration, as in `forward`
        *layers, last = [(layer.weight, layer.bias) for layer in self if isinstance(layer, (nn.Linear, nn.Conv2d))]
        shapes, hidden = [], []  # of each layer what goes in and what comes out
        h = x
        with torch.no_grad():
            for weight, bias in layers:
                shapes.append(h.shape)
                h = F.leaky_relu(self._product(h, weight, bias), _SLOPE)
                hidden.append(h)
        gradient = last[0].view(1, *h.shape[1:]).expand_as(h)
        for (weight, _), h, shape in zip(reversed(layers), reversed(hidden), reversed(shapes), strict=True):
            # the sign of h is that of what LeakyReLU was given; a factor of torch.where takes 20 times as long
            gradient = torch.ops.aten.leaky_relu_backward(gradient, h, _SLOPE, True)
            gradient = self._transposed_product(gradient, weight, shape)
        return gradient

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """What a hidden layer does."""
        raise NotImplementedError

    def _transposed_product(self, gradient: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        """The gradient by a hidden layer's input of that shape, of the one by its output."""
        raise NotImplementedError


class MLPDiscriminator(Discriminator):
    """Fully connected hidden layers."""

    def __init__(self, config: GANConfig, image_shape: tuple[int, int, int]) -> None:
        norm = spectral_norm if config.spectral_norm else nn.Identity()
        widths = [image_shape[0] * image_shape[1] * image_shape[2]] + [config.hidden] * config.layers
        hidden = [
            layer for a, b in pairwise(widths) for layer in (norm(nn.Linear(a, b)), nn.LeakyReLU(_SLOPE, inplace=True))
        ]
        super().__init__(nn.Flatten(), *hidden, norm(nn.Linear(widths[-1], 1)))

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(x.flatten(1), weight, bias)

    def _transposed_product(self, gradient: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        return (gradient @ weight).view(shape)


class ConvGenerator(nn.Module):
    """z [N, latent] to images [N, C, H, W], any H and W; the resolution doubles up to the size asked for.

    GroupNorm and SiLU where DCGAN has BatchNorm and ReLU: an image does not depend on the others of its batch. Nearest
    neighbours and a convolution where it has transposed convolutions, which leave a checkerboard (Odena et al. 2016).
    """

    def __init__(self, config: GANConfig, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        self.sizes = [image_shape[1:]]  # from the image down
        for _ in widths:
            height, width = self.sizes[-1]
            self.sizes.append(((height + 1) // 2, (width + 1) // 2))
        height, width = self.sizes[-1]
        self.stem = nn.Sequential(
            nn.Linear(config.latent, widths[-1] * height * width), nn.Unflatten(1, (widths[-1], height, width))
        )
        self.norms = nn.ModuleList(GroupNormSiLU(width) for width in reversed(widths))
        out = [image_shape[0], *widths[:-1]]
        self.convs = nn.ModuleList(UpsampleConv2d(a, b) for a, b in zip(reversed(widths), reversed(out), strict=True))
        self.output = _output(config)

    def forward(self, z: Tensor) -> Tensor:
        h = self.stem(z)
        for norm, conv, size in zip(self.norms, self.convs, reversed(self.sizes[:-1]), strict=True):
            h = conv(norm(h), size)
        return self.output(h)


class ConvDiscriminator(Discriminator):
    """A strided convolution for each halving of the resolution, rounding up."""

    def __init__(self, config: GANConfig, image_shape: tuple[int, int, int]) -> None:
        norm = spectral_norm if config.spectral_norm else nn.Identity()
        channels, height, width = image_shape
        layers: list[nn.Module] = []
        for c in [config.channels * m for m in config.multipliers]:
            layers += [norm(nn.Conv2d(channels, c, 3, **_HALVING)), nn.LeakyReLU(_SLOPE, inplace=True)]
            channels, height, width = c, (height + 1) // 2, (width + 1) // 2
        super().__init__(*layers, nn.Flatten(), norm(nn.Linear(channels * height * width, 1)))

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, **_HALVING)

    def _transposed_product(self, gradient: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        even = tuple(1 - size % 2 for size in shape[2:])
        return F.conv_transpose2d(gradient, weight, output_padding=even, **_HALVING)


def _output(config: GANConfig) -> nn.Module:
    return nn.Tanh() if config.output == "tanh" else nn.Identity()


# ---- The game: algorithm 1 ------------------------------------------------------------------------------------------


class GAN(nn.Module):
    """A generator and a discriminator with their losses: `phases` for training, `sample` for samples."""

    def __init__(self, config: GANConfig, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.config = config
        self.image_shape = tuple(image_shape)
        channels, height, width = self.image_shape
        conv = config.network == "conv"
        self.generator = (ConvGenerator if conv else MLPGenerator)(config, self.image_shape)
        self.discriminator = (ConvDiscriminator if conv else MLPDiscriminator)(
            config, (config.packing * channels, height, width)
        )

    def networks(self) -> tuple[nn.Module, ...]:
        """What torch.compile may take; `input_gradient` runs as it is."""
        return self.generator, self.discriminator

    def phases(self, step: int) -> tuple[Phase, ...]:
        """K steps of the discriminator, one of the generator."""
        after = self.clip_discriminator if self.config.clip_weights else None
        discriminator = Phase("discriminator", self.discriminator, self.discriminator_loss, after)
        return (discriminator,) * self.config.discriminator_steps + (
            Phase("generator", self.generator, self.generator_loss),
        )

    def discriminator_loss(
        self,
        x: Tensor,
        *,
        seed: int | Tensor,
        step: int | Tensor = 0,
        labels: Tensor | None = None,
        share: Share = WHOLE,
    ) -> Tensor:
        """The discriminator's loss of `dgmkern.gan_loss` on as many generated samples as real ones, and the penalty.

        `x` [N, C, H, W] in [-1, 1], a `share` of its batch. z and the interpolates are functions of `seed`; `step` and
        `labels` change nothing. Raises ValueError where `packing` does not divide N.
        """
        real = self._packed(x)
        with torch.no_grad():
            fake = self.generate(x.shape[0], seed=seed, first=share.first(x.shape[0]))
            fake = self._packed(fake).to(real.dtype)
        logits_real, logits_fake = self.discriminator(torch.cat([real, fake])).chunk(2)
        loss, _ = gan_loss(logits_real, logits_fake, self.config.kind)
        if self.config.gradient_penalty:
            between = interpolate(real, fake, seed=seed, offset=_INTERPOLATES + share.first(real.shape[0]))
            gradient = self.discriminator.input_gradient(between)
            penalty = gradient_norm_penalty(gradient, target=self.config.penalty_target)
            loss = loss + self.config.gradient_penalty * penalty.mean()
        return loss

    def generator_loss(
        self,
        x: Tensor,
        *,
        seed: int | Tensor,
        step: int | Tensor = 0,
        labels: Tensor | None = None,
        share: Share = WHOLE,
    ) -> Tensor:
        """The generator's loss on as many samples as `x` has, z a function of `seed`; no gradient of the discriminator.

        Raises ValueError where `packing` does not divide N.
        """
        with frozen(self.discriminator.parameters()):
            fake = self.generate(x.shape[0], seed=seed, first=share.first(x.shape[0]))
            logits_fake = self.discriminator(self._packed(fake))
        return gan_generator_loss(logits_fake, self.config.kind)

    @torch.no_grad()
    def clip_discriminator(self) -> None:
        """Clip the discriminator's weights to [-clip_weights, clip_weights] (Arjovsky et al. 2017, algorithm 1)."""
        for parameter in self.discriminator.parameters():
            parameter.clamp_(-self.config.clip_weights, self.config.clip_weights)

    def generate(self, n: int, *, seed: int | Tensor, first: int = 0) -> Tensor:
        """G(z) of the latents `first` ... `first + n - 1` of the stream `seed`, differentiable."""
        weight = next(self.generator.parameters())
        offset = first * self.config.latent
        return self.generator(
            normal((n, self.config.latent), seed, offset=offset, dtype=weight.dtype, device=weight.device)
        )

    def _packed(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N / packing, packing C, H, W]: neighbours of the batch, side by side."""
        packing = self.config.packing
        if x.shape[0] % packing:
            raise ValueError(f"x: got {x.shape[0]} samples, want a multiple of packing = {packing}")
        return x.reshape(-1, packing * x.shape[1], *x.shape[2:]) if packing > 1 else x

    @torch.no_grad()
    def sample(
        self, n: int, *, seed: int, first: int = 0, progress: Callable[[Iterable[int]], Iterable[int]] = iter
    ) -> Tensor:
        """Images `first` ... `first + n - 1` of the stream `seed`: float32 [n, C, H, W], in [-1, 1] behind a tanh.

        An image depends on `seed` and its number, not on `n`. `progress` wraps the iterable of steps: there is one.
        """
        for _ in progress(range(1)):
            x = self.generate(n, seed=seed, first=first)
        return x.float()
