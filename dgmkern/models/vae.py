"""Variational autoencoders (Kingma & Welling 2014, arXiv:1312.6114) and importance-weighted ones (Burda et al. 2016,
arXiv:1509.00519): networks, bound, sampler; cures of posterior collapse are settings. All likelihoods are in nats.

p(z) = N(0, I), q(z|x) = N(mu(x), diag e^logvar(x)). Inference without an encoder, or beyond it, is `vae_inference`.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..metrics import ImportanceWeightedNLL
from ..metrics._features import check_count
from ..nn import GroupNormSiLU, UpsampleConv2d
from ..ops import (
    bernoulli_nll,
    discretized_gaussian_nll,
    gaussian_kl,
    gaussian_log_ratio,
    gaussian_nll,
    gaussian_rsample,
    gaussian_rsample_kl,
    normal,
)
from .choices import check_choices
from .share import WHOLE, Share
from .vae_inference import hmc_loss, semi_amortized_loss

# ReLU needs only its output afterwards; to write it over its input is 2% of a step of an MLP
_ACTIVATIONS = {"relu": partial(nn.ReLU, inplace=True), "silu": nn.SiLU, "tanh": nn.Tanh}
_SAMPLES_AT_ONCE = 50  # importance samples that `VAE.nll` decodes together


@dataclass(frozen=True)
class VAEConfig:
    """Networks, likelihood and bound of a VAE; the defaults are the plain one."""

    network: Literal["mlp", "conv"] = "mlp"
    """Fully connected networks, or convolutions with GroupNorm and SiLU."""
    encoder: tuple[int, ...] = (400,)
    """Widths of the hidden layers, none for a linear encoder; for "conv" channels, each halving the resolution."""
    decoder: tuple[int, ...] = (400,)
    """The same from the latent to the image; for "conv" each doubles the resolution."""
    activation: Literal["relu", "silu", "tanh"] = "tanh"
    """Activation of the fully connected layers."""
    latent: int = 20
    """D, the latent units."""
    likelihood: Literal["bernoulli", "gaussian", "discretized_gaussian"] = "bernoulli"
    """p(x|z): "bernoulli" of (x + 1) / 2; "gaussian" with one learned variance (with one for each pixel, constant
    pixels have no largest density); "discretized_gaussian", 256 levels, a scale for each pixel."""
    samples: int = 1
    """k. 1: the ELBO with the KL in closed form; more: the importance-weighted bound of k samples."""
    beta: float = 1.0
    """Final weight of the KL (Higgins et al. 2017); 1 is the bound itself."""
    kl_schedule: Literal["constant", "linear", "cyclical"] = "constant"
    """Weight of the KL over the steps: beta; rising linearly from 0 (Bowman et al. 2016); or so in cycles, flat in the
    second half of each (Fu et al. 2019)."""
    kl_steps: int = 1000
    """Steps of the linear rise, or of one cycle."""
    free_bits: float = 0.0
    """Nats of KL of each latent unit, averaged over the batch, that cost nothing (Kingma et al. 2016, eq. 15)."""
    posterior_logvar: float | None = None
    """Fixed log-variance of q, below 0: then KL >= D (e^lv - 1 - lv) / 2 whatever the encoder does (the committed rate
    of delta-VAEs, Razavi et al. 2019). None: the encoder gives it."""
    skip: bool = False
    """Feed z into every layer of the decoder (Skip-VAE, Dieng et al. 2019)."""
    refinement: Literal["none", "semi_amortized", "hmc"] = "none"
    """What follows the encoder in training: "semi_amortized", gradient steps on mu and logvar, differentiated through
    (Kim et al. 2018); "hmc", chains that the decoder learns from (Hoffman 2017)."""
    refinement_steps: int = 5
    """Gradient steps, or trajectories of 5 leapfrog steps."""
    refinement_size: float = 0.1
    """Size of a gradient step, or of a leapfrog step in standard deviations of q."""

    def __post_init__(self) -> None:
        for name in ("latent", "samples", "kl_steps", "refinement_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, want an integer >= 1")
        for name in ("encoder", "decoder"):
            least = 1 if self.network == "conv" else 0
            if len(getattr(self, name)) < least or min(getattr(self, name), default=1) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, want {least} or more integers >= 1")
        for name in ("beta", "free_bits"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: got {getattr(self, name)}, want a finite number >= 0")
        if not 0 < self.refinement_size < math.inf:
            raise ValueError(f"refinement_size: got {self.refinement_size}, want a finite number > 0")
        if self.posterior_logvar is not None and not -math.inf < self.posterior_logvar < 0:
            raise ValueError(f"posterior_logvar: got {self.posterior_logvar}, want None or a finite number < 0")
        check_choices(self)
        if self.free_bits and (self.samples > 1 or self.refinement != "none"):
            raise ValueError(f"free_bits: got {self.free_bits}, want 0 with samples > 1 or a refinement")
        if self.samples > 1 and self.refinement != "none":
            raise ValueError(f"refinement: got {self.refinement!r}, want 'none' with samples > 1")

    def kl_weight(self, step: int | Tensor) -> float | Tensor:
        """Weight of the KL at optimizer step `step` (0-based), a number or a tensor as `step` is."""
        if self.kl_schedule == "constant":
            return self.beta
        part = step / self.kl_steps if self.kl_schedule == "linear" else 2 * (step % self.kl_steps) / self.kl_steps
        return self.beta * (part.clamp(max=1.0) if isinstance(part, Tensor) else min(1.0, part))


# ---- The networks ---------------------------------------------------------------------------------------------------


class MLPEncoder(nn.Sequential):
    """Image [N, C, H, W] to [N, out]."""

    def __init__(self, config: VAEConfig, image_shape: tuple[int, int, int], out: int) -> None:
        widths = [math.prod(image_shape), *config.encoder]
        layers = [nn.Flatten()]
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), _ACTIVATIONS[config.activation]()]
        super().__init__(*layers, nn.Linear(widths[-1], out))


class MLPDecoder(nn.Module):
    """z [N, D] to the parameters of p(x|z), [N, heads * C, H, W]."""

    def __init__(self, config: VAEConfig, image_shape: tuple[int, int, int], heads: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        widths = [config.latent, *config.decoder, heads * channels * height * width]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        later = widths[2:] if config.skip else []  # the first layer sees z anyway
        self.skips = nn.ModuleList(nn.Linear(config.latent, b, bias=False) for b in later)
        self.activation = _ACTIVATIONS[config.activation]()
        self.unflatten = nn.Unflatten(1, (heads * channels, height, width))

    def forward(self, z: Tensor) -> Tensor:
        h = self.layers[0](z)
        for i, layer in enumerate(self.layers[1:]):
            h = layer(self.activation(h))
            if self.skips:
                h = h + self.skips[i](z)
        return self.unflatten(h)


class ConvEncoder(nn.Sequential):
    """Image [N, C, H, W] to [N, out]; strided convolutions, rounding sizes up (28, 14, 7, 4)."""

    def __init__(self, config: VAEConfig, image_shape: tuple[int, int, int], out: int) -> None:
        layers = []
        for a, b in pairwise([image_shape[0], *config.encoder]):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), GroupNormSiLU(b)]
        features = config.encoder[-1] * math.prod(_sizes(image_shape, len(config.encoder))[-1])
        super().__init__(*layers, nn.Flatten(), nn.Linear(features, out))


class ConvDecoder(nn.Module):
    """z [N, D] to the parameters of p(x|z), [N, heads * C, H, W]; nearest neighbours, then a convolution."""

    def __init__(self, config: VAEConfig, image_shape: tuple[int, int, int], heads: int) -> None:
        super().__init__()
        *self.sizes, lowest = _sizes(image_shape, len(config.decoder))
        channels, out = config.decoder, heads * image_shape[0]
        self.stem = nn.Sequential(
            nn.Linear(config.latent, channels[0] * math.prod(lowest)), nn.Unflatten(1, (channels[0], *lowest))
        )
        self.norms = nn.ModuleList(GroupNormSiLU(c) for c in channels)
        self.convs = nn.ModuleList(UpsampleConv2d(a, b) for a, b in pairwise([*channels, out]))
        skips = channels if config.skip else ()
        self.skips = nn.ModuleList(nn.Linear(config.latent, c, bias=False) for c in skips)

    def forward(self, z: Tensor) -> Tensor:
        h = self.stem(z)
        for i, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            h = conv(norm(h, shift=self.skips[i](z) if self.skips else None), self.sizes[-1 - i])
        return h


def _sizes(image_shape: tuple[int, int, int], halvings: int) -> list[tuple[int, int]]:
    """(H, W) of the image and after each halving."""
    return [(-(-image_shape[1] // 2**i), -(-image_shape[2] // 2**i)) for i in range(halvings + 1)]


# ---- The model ------------------------------------------------------------------------------------------------------


class Posterior(NamedTuple):
    """q(z|x) of each datum: mean and log-variance, [N, D]."""

    mu: Tensor
    logvar: Tensor


class ELBO(NamedTuple):
    """The two terms of the bound for each datum, [N], nats: `bound` = log p(x|z) - KL(q(z|x) || p(z))."""

    log_likelihood: Tensor
    kl: Tensor

    @property
    def bound(self) -> Tensor:
        return self.log_likelihood - self.kl


class VAE(nn.Module):
    """Encoder and decoder: `loss` for training, `sample` for images, `elbo` and `nll` for evaluation."""

    def __init__(self, config: VAEConfig, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.config = config
        self.image_shape = tuple(image_shape)
        encoder, decoder = {"mlp": (MLPEncoder, MLPDecoder), "conv": (ConvEncoder, ConvDecoder)}[config.network]
        self.encoder = encoder(config, self.image_shape, config.latent * (2 if config.posterior_logvar is None else 1))
        self.decoder = decoder(config, self.image_shape, 2 if config.likelihood == "discretized_gaussian" else 1)
        if config.likelihood == "gaussian":
            self.logvar = nn.Parameter(torch.zeros(()))  # of every pixel

    def networks(self) -> tuple[nn.Module, ...]:
        """What torch.compile may take: not what semi-amortized inference differentiates twice."""
        twice = self.config.refinement == "semi_amortized"
        return (self.encoder,) if twice else (self.encoder, self.decoder)

    def posterior(self, x: Tensor) -> Posterior:
        """q(z|x) of `x` [N, C, H, W] in [-1, 1]."""
        out, fixed = self.encoder(x).to(x.dtype), self.config.posterior_logvar
        return Posterior(*out.chunk(2, dim=1)) if fixed is None else Posterior(out, torch.full_like(out, fixed))

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z), [N], of `x` [N, C, H, W] and `z` [N, D]; a density for "gaussian"."""
        out = self.decoder(z).to(x.dtype)
        if self.config.likelihood == "bernoulli":
            return -bernoulli_nll(out, torch.add(0.5, x, alpha=0.5))
        if self.config.likelihood == "gaussian":
            return -gaussian_nll(x, out, self.logvar.to(x.dtype).expand_as(x))
        return -discretized_gaussian_nll(x, *out.chunk(2, dim=1))

    def elbo(self, x: Tensor, *, seed: int | Tensor, q: Posterior | None = None, offset: int = 0) -> ELBO:
        """The terms of the ELBO with one sample of `q`, by default the encoder's; KL in closed form.

        The noise is `normal((N, D), seed, offset=offset)`.
        """
        z, kl = gaussian_rsample_kl(*(self.posterior(x) if q is None else q), seed=seed, offset=offset)
        return ELBO(self.log_likelihood(x, z), kl)

    def log_weights(
        self,
        x: Tensor,
        k: int,
        *,
        seed: int | Tensor,
        beta: float | Tensor = 1.0,
        q: Posterior | None = None,
        offset: int = 0,
    ) -> Tensor:
        """log p(x|z) + beta (log p(z) - log q(z|x)) of k samples of each datum, [N, k] (Burda et al. 2016, eq. 8).

        The samples are of `q`, by default the encoder's.
        """
        z, log_ratio = gaussian_log_ratio(*(self.posterior(x) if q is None else q), k, seed=seed, offset=offset)
        repeated = x.unsqueeze(1).expand(-1, k, -1, -1, -1).flatten(0, 1)
        return self.log_likelihood(repeated, z.flatten(0, 1)).unflatten(0, (-1, k)) + beta * log_ratio

    def loss(
        self,
        x: Tensor,
        *,
        seed: int | Tensor,
        step: int | Tensor = 0,
        labels: Tensor | None = None,
        share: Share = WHOLE,
    ) -> Tensor:
        """Minus the bound of the config in nats, averaged over the batch; `labels` are not used.

        `x` float32 [N, C, H, W] in [-1, 1], a `share` of its batch; `step` is the optimizer step, which the weight of
        the KL follows.
        """
        config, beta = self.config, self.config.kl_weight(step)
        first = share.first(x.shape[0])
        offset = first * config.latent
        if config.samples > 1:
            log_weights = self.log_weights(x, config.samples, seed=seed, beta=beta, offset=config.samples * offset)
            return math.log(config.samples) - log_weights.logsumexp(1).mean()
        if config.refinement != "none":
            refined = semi_amortized_loss if config.refinement == "semi_amortized" else hmc_loss
            how = {"beta": beta, "steps": config.refinement_steps, "size": config.refinement_size}
            return refined(self, x, seed=seed, first=first, **how)
        if config.free_bits:
            q = self.posterior(x)
            kl = share.gather(gaussian_kl(*q)).mean(0).clamp(min=config.free_bits).sum()
            return beta * kl - self.log_likelihood(x, gaussian_rsample(*q, seed=seed, offset=offset)).mean()
        terms = self.elbo(x, seed=seed, offset=offset)
        return (beta * terms.kl - terms.log_likelihood).mean()

    @torch.no_grad()
    def nll(self, x: Tensor, k: int, *, seed: int, batch: int = 64) -> Tensor:
        """-log p(x) of each datum by k importance samples, float64 [N], nats: from above, tighter with k.

        The samples of a datum depend on `seed` and its number; `batch` data are decoded at a time. Raises TypeError or
        ValueError unless k and batch are integers >= 1.
        """
        check_count("k", k)
        check_count("batch", batch)
        nlls = []
        for first in range(0, len(x), batch):
            stream = ImportanceWeightedNLL()
            for begin in range(0, k, _SAMPLES_AT_ONCE):
                count = min(_SAMPLES_AT_ONCE, k - begin)
                offset = (begin << 40) + first * count * self.config.latent
                stream.update(self.log_weights(x[first : first + batch], count, seed=seed, offset=offset))
            nlls.append(stream.compute())
        return torch.cat(nlls)

    @torch.no_grad()
    def sample(
        self, n: int, *, seed: int, first: int = 0, progress: Callable[[Iterable[int]], Iterable[int]] = iter
    ) -> Tensor:
        """Means of p(x|z), z ~ N(0, I): images `first` ... `first + n - 1` of the stream `seed`.

        Returns [n, C, H, W] in [-1, 1]. `progress` wraps the iterable of steps, of which there is one.
        """
        like = next(self.parameters())
        offset, options = first * self.config.latent, {"dtype": like.dtype, "device": like.device}
        for _ in progress(range(1)):
            z = normal((n, self.config.latent), seed, offset=offset, **options)
            out = self.decoder(z).to(like.dtype)
        if self.config.likelihood == "bernoulli":
            return 2 * out.sigmoid() - 1
        return out[:, : self.image_shape[0]].clamp(-1, 1)
