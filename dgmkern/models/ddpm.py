"""Denoising diffusion probabilistic models (Ho, Jain & Abbeel 2020, arXiv:2006.11239): losses, bits/dim, samplers.

Learned variance, cosine schedule, hybrid loss and importance-sampled steps: Nichol & Dhariwal 2021. v: Salimans & Ho
2022. Guidance: Ho & Salimans 2022. Samplers: Song et al. 2021 (DDIM), Lu et al. 2022 (DPM-Solver++). The network is
`nn.UNet`. Steps are 0-based: t = 0 ... T - 1 here are the paper's 1 ... T.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..nn import LossSecondMoment, Masks, UNet, check_labels, check_unet
from ..ops.bound import diffusion_mse, hybrid_terms, prior_bound, vb_terms
from ..ops.diffusion import q_sample
from ..ops.noise import normal
from ..ops.reverse import ddim_step, dpm_solver_step, p_sample
from ..reference.noise import uniform
from ..rng import seed_tensor
from ..schedule import DiffusionSchedule
from .choices import check_choices
from .share import WHOLE, Share

# Where in the stream of a seed the uniforms of t and of hidden labels are: far beyond the noise of a batch. Masks of
# dropout have the stretches of 2^40 numbers after them.
_STEPS, _HIDDEN, _MASKS = 1 << 40, 2 << 40, 3

Prediction = Literal["eps", "v", "x0"]
Schedule = Literal["linear", "cosine", "sigmoid"]
Objective = Literal["simple", "hybrid", "vlb"]
Variance = Literal["fixed_small", "fixed_large", "learned_range"]
StepSampling = Literal["uniform", "loss-second-moment"]
Sampler = Literal["ddpm", "ddim", "dpm-solver"]


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
    variance: Variance = "fixed_small"
    """Variance of a reverse step: of the posterior, beta_t, or learned between the two."""
    objective: Objective = "simple"
    """Squared error of the prediction; the same + vb_weight * bound, which trains the learned variance; the bound."""
    vb_weight: float = 0.001
    """Weight lambda of the variational bound (bits/dim) in the hybrid objective."""
    min_snr: float | None = None
    """gamma of min-SNR weights of the squared error (Hang et al. 2023 take 5); None: weight 1."""
    step_sampling: StepSampling = "uniform"
    """How training draws t: uniformly, or in proportion to the last losses of each t, weighted to the same mean."""
    classes: int = 0
    """Classes to condition on; 0: none."""
    label_dropout: float = 0.1
    """Probability that training hides a label, for classifier-free guidance."""

    def __post_init__(self) -> None:
        check_unet(self.channels, self.multipliers, self.blocks, self.head_dim, self.dropout, self.classes)
        if self.timesteps < 1:
            raise ValueError(f"timesteps: got {self.timesteps}, want an integer >= 1")
        check_choices(self)
        learned = self.variance == "learned_range"
        if self.objective != "vlb" and learned != (self.objective == "hybrid"):
            want = "hybrid or vlb, which train it" if learned else "simple or vlb: hybrid is for a learned variance"
            raise ValueError(f"objective: got {self.objective} with variance {self.variance}, want {want}")
        if not 0 < self.vb_weight < math.inf:
            raise ValueError(f"vb_weight: got {self.vb_weight}, want a finite number > 0")
        if self.min_snr is not None and not (0 < self.min_snr < math.inf and self.objective != "vlb"):
            got = f"got {self.min_snr} with objective {self.objective}"
            raise ValueError(f"min_snr: {got}, want a finite number > 0, and not vlb")
        if not 0.0 <= self.label_dropout <= 1.0:
            raise ValueError(f"label_dropout: got {self.label_dropout}, want 0 <= label_dropout <= 1")


@dataclass(frozen=True)
class VariationalBound:
    """-log2 p(x) <= L_0 + ... + L_{T-1} + L_T of each image, bits/dim, float64 (Ho et al. 2020, equation 5)."""

    terms: Tensor
    """[N, T]: L_0 (the decoder's), then the divergences of the reverse steps 1 ... T - 1 (K of them with `steps` K)."""
    prior: Tensor
    """[N]: L_T, in which nothing is learned."""

    @property
    def total(self) -> Tensor:
        """The bound, [N]."""
        return self.terms.sum(1) + self.prior


class DDPM(nn.Module):
    """A UNet with its diffusion: `loss` for training, `bits_per_dim` to measure, `sample` to draw."""

    def __init__(self, config: DDPMConfig, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.config = config
        self.image_shape = tuple(image_shape)
        self.schedule = getattr(DiffusionSchedule, config.schedule)(config.timesteps)
        c_out = self.image_shape[0] * (2 if config.variance == "learned_range" else 1)
        names = ("channels", "multipliers", "blocks", "head_dim", "dropout", "classes")
        settings = {name: getattr(config, name) for name in names}
        self.unet = UNet(self.image_shape[0], c_out, time_scale=1000 / config.timesteps, **settings)
        by_loss = config.step_sampling == "loss-second-moment"
        self.step_sampler = LossSecondMoment(config.timesteps) if by_loss else None
        weights = None if config.min_snr is None else self.schedule.min_snr_weights(config.prediction, config.min_snr)
        self.register_buffer("mse_weights", weights, persistent=False)  # [T]

    def networks(self) -> tuple[nn.Module, ...]:
        """What torch.compile may take."""
        return (self.unet,)

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, masks: Masks | None = None) -> Tensor:
        return self.unet(x_t, t, labels, **({} if masks is None else {"masks": masks}))

    # ---- Training: algorithm 1 --------------------------------------------------------------------------------------

    def loss(
        self,
        x0: Tensor,
        *,
        seed: int | Tensor,
        step: int | Tensor = 0,
        labels: Tensor | None = None,
        share: Share = WHOLE,
    ) -> Tensor:
        """The objective on a batch, a scalar: the mean over images of one of these at a random t.

        - simple (equation 14): mean of (target - network(x_t, t))^2 over pixels, with min-SNR weights if asked for;
        - hybrid (Nichol & Dhariwal 2021, equation 16): simple + vb_weight T L_t, where L_t trains the variance alone;
        - vlb: T L_t + L_T, an estimate without bias of the variational bound in bits/dim.

        Args:
            x0: float32 [N, C, H, W] in [-1, 1].
            seed: t, the noise, the masks of dropout and which labels are hidden are functions of it.
            step: of the optimizer; not used.
            labels: int64 [N] in [0, classes); only a model with classes reads them.
            share: which share of its batch x0 is.

        In training mode, importance sampling of t keeps the losses it sees, in buffers.

        Raises:
            TypeError, ValueError: a model with classes got no labels, or some that do not fit.
        """
        n, device = x0.shape[0], x0.device
        total, offset = share.total(n), share.first(n) * x0[:1].numel()
        seed = seed_tensor(seed, device)
        u = uniform(total, seed, _STEPS)  # for the whole batch
        if self.step_sampler is None:
            t_of_batch = (u.double() * self.schedule.steps).long()
        else:
            t_of_batch, weights = self.step_sampler.draw(u)
        t = share.of(t_of_batch)
        if self.config.classes:
            if labels is None:
                raise ValueError(f"labels: got None, want one of {self.config.classes} classes for each image")
            check_labels(labels, n, self.config.classes)
            hidden = uniform(total, seed, _HIDDEN) < self.config.label_dropout
            labels = labels.masked_fill(share.of(hidden), self.config.classes)
        x_t = q_sample(x0, t, self.schedule, seed=seed, offset=offset)
        masks = Masks(seed, share.first(n), _MASKS) if self.config.dropout else None
        model_out = self(x_t, t, labels, masks).to(x_t.dtype)
        losses = self._losses(model_out, x0, x_t, t, seed, offset)
        if self.step_sampler is not None:
            if self.training:
                self.step_sampler.update(t_of_batch, share.gather(losses.detach()))
            losses = share.of(weights).to(losses.dtype) * losses
        prior = prior_bound(x0, self.schedule).mean() if self.config.objective == "vlb" else 0.0
        return losses.mean() + prior

    def _losses(self, model_out: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, seed: Tensor, offset: int) -> Tensor:
        """The objective of each image, [N], without what does not depend on the model."""
        config, s = self.config, self.schedule
        if config.objective == "vlb":
            how = {"prediction": config.prediction, "variance": config.variance}
            return s.steps * vb_terms(model_out, x0, x_t, t, s, **how)
        weight = None if self.mse_weights is None else self.mse_weights[t]
        how = {"seed": seed, "offset": offset, "prediction": config.prediction, "weight": weight}
        if config.objective == "simple":
            return diffusion_mse(model_out, x0, t, s, **how)
        mse, vb = hybrid_terms(model_out, x0, t, s, **how)
        return mse + config.vb_weight * s.steps * vb

    # ---- The variational bound: equation 5 --------------------------------------------------------------------------

    @torch.no_grad()
    def bits_per_dim(
        self,
        x0: Tensor,
        *,
        seed: int,
        first: int = 0,
        labels: Tensor | None = None,
        clip: float | None = 1.0,
        steps: int | None = None,
        batch_size: int = 256,
        progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    ) -> VariationalBound:
        """Every term of the variational bound of images with 256 levels, at one noise for each image and step.

        With `steps` it is the bound of the shorter chain that `sample` draws from with as many ancestral steps.

        Args:
            x0: float32 [N, C, H, W], levels 0..255 as x / 127.5 - 1.
            seed, first: the noise is a function of seed, the image's number (first ... first + N - 1) and the step.
            labels: int64 [N]; None: the model without classes, or of no class.
            clip: the predicted x_0 is clamped to [-clip, clip], as in `sample`; None: as in `loss`.
            steps: this many, evenly spaced, of the T steps; None: all.
            batch_size: images at a time in the network.
            progress: wraps the iterable of batches.

        Raises:
            TypeError, ValueError: labels that do not fit; batch_size < 1; steps outside [1, T].
        """
        if batch_size < 1:
            raise ValueError(f"batch_size: got {batch_size}, want an integer >= 1")
        if labels is not None:
            check_labels(labels, x0.shape[0], self.config.classes)
        s = self.schedule if steps is None else self.schedule.respaced(steps)
        trained, dims = s.timesteps.to(x0.device), x0[:1].numel()
        pairs = torch.arange(x0.shape[0] * s.steps, device=x0.device)  # (image, step), steps fastest
        how = {"prediction": self.config.prediction, "variance": self.config.variance, "clip": clip}
        terms = torch.empty(len(pairs), dtype=torch.float64, device=x0.device)
        for begin in progress(range(0, len(pairs), batch_size)):
            batch = pairs[begin : begin + batch_size]
            image, t = batch // s.steps, batch % s.steps
            x = x0[image]
            x_t = q_sample(x, t, s, seed=seed, offset=(first * s.steps + begin) * dims)
            model_out = self(x_t, trained[t], None if labels is None else labels[image]).to(x_t.dtype)
            terms[begin : begin + batch_size] = vb_terms(model_out, x, x_t, t, s, **how)
        return VariationalBound(terms.reshape(-1, s.steps), prior_bound(x0, s).double())

    # ---- Sampling: algorithm 2 and its successors -------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        seed: int,
        first: int = 0,
        progress: Callable[[Iterable[int]], Iterable[int]] = iter,
        sampler: Sampler = "ddpm",
        steps: int | None = None,
        eta: float = 0.0,
        labels: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Images `first` ... `first + n - 1` of the stream `seed`, float32 [n, C, H, W] in [-1, 1].

        The noise of an image depends on `seed`, its number and the step, not on `n`. x_0 is clamped to [-1, 1].

        Args:
            progress: wraps the iterable of steps.
            sampler: ancestral, "ddim" or "dpm-solver": DPM-Solver++(2M).
            steps: this many, evenly spaced, of the T steps; None: all.
            eta: noise of DDIM, 0: none, 1: as much as "ddpm" with "fixed_small".
            labels: int64 [n], the classes to draw; None: the model without classes, or of no class, which only a
                label_dropout > 0 teaches.
            guidance: w of out = out(no class) + w (out(class) - out(no class)), for the prediction (1 + w of Ho &
                Salimans 2022, equation 6); the variance is that of the class. 1 is the class and 0 no class, in
                one pass of the network; every other w takes two.

        Raises:
            TypeError, ValueError: an unknown sampler, steps outside [1, T], eta of another sampler than "ddim",
                labels that do not fit, guidance without labels, no class of a model that was not taught it.
        """
        if sampler not in get_args(Sampler):
            raise ValueError(f"sampler: unknown sampler {sampler!r}, want one of {', '.join(get_args(Sampler))}")
        if eta != 0 and sampler != "ddim":
            raise ValueError(f"eta: got {eta} with sampler {sampler}, want 0: only ddim has it")
        if labels is not None:
            check_labels(labels, n, self.config.classes)
        elif guidance != 1:
            raise ValueError(f"guidance: got {guidance} without labels, want labels to guide to")
        if self.config.classes and self.config.label_dropout == 0 and (labels is None or guidance != 1):
            raise ValueError("labels, guidance: got some without a class, want one: label_dropout was 0 in training")
        s = self.schedule if steps is None else self.schedule.respaced(steps)
        trained = s.timesteps.tolist()
        shape = (n, *self.image_shape)
        device = next(self.parameters()).device
        begin = first * self.image_shape[0] * self.image_shape[1] * self.image_shape[2]
        x, x0 = normal(shape, seed, offset=begin, device=device), None
        how = {"prediction": self.config.prediction, "clip": 1.0}
        for t in progress(range(s.steps - 1, -1, -1)):
            model_out = self._guided(x, torch.full((n,), trained[t], device=device), labels, guidance)
            # One stretch of 2^40 numbers of the stream `seed` for each step; x_T took the first one.
            noise = {"seed": seed, "offset": ((t + 1) << 40) + begin}
            if sampler == "ddpm":
                x = p_sample(model_out, x, t, s, variance=self.config.variance, **how, **noise)
            elif sampler == "ddim":
                x = ddim_step(model_out, x, t, t - 1, s, eta=eta, **how, **(noise if eta else {}))
            else:
                last = {} if x0 is None else {"x0_last": x0, "t_last": t + 1}
                x, x0 = dpm_solver_step(model_out, x, t, t - 1, s, **how, **last)
        return x

    def _guided(self, x: Tensor, t: Tensor, labels: Tensor | None, guidance: float) -> Tensor:
        if labels is None or guidance in (0, 1):
            return self(x, t, labels if guidance else None).to(x.dtype)
        both = torch.cat([labels, torch.full_like(labels, self.config.classes)])
        of_class, of_none = self(x.repeat(2, 1, 1, 1), t.repeat(2), both).to(x.dtype).chunk(2)
        c = x.shape[1]
        prediction = of_none[:, :c] + guidance * (of_class[:, :c] - of_none[:, :c])
        return torch.cat([prediction, of_class[:, c:]], dim=1)
