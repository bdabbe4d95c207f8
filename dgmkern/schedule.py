"""Diffusion noise schedules: fp64 tables of Ho et al. 2020 (DDPM), cached on each device they are used on."""

import math

import torch
from torch import Tensor

_MAX_BETA = 0.999
_FP64 = {"dtype": torch.float64, "device": "cpu"}  # whatever torch's default device is


class DiffusionSchedule:
    """The tables of a diffusion process with T steps, 0-based: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps.

    Every table is an fp64 CPU tensor [T]; ops read device copies of them, which are made once per device.

    Attributes:
        betas: beta_t.
        alphas, alphas_cumprod, alphas_cumprod_prev: alpha_t = 1 - beta_t, abar_t = prod_{s<=t} alpha_s, abar_{t-1}
            (1 at t = 0).
        last_abar: abar of the last step, a float.
        zero_terminal: whether the last step is pure noise, from which "eps" tells nothing about x_0.
        sqrt_alphas_cumprod, sqrt_one_minus_alphas_cumprod: the two coefficients of q(x_t | x_0) (DDPM eq. 4).
        posterior_variance: of q(x_{t-1} | x_t, x_0): beta_t (1 - abar_{t-1}) / (1 - abar_t) (eq. 7); 0 at t = 0.
        posterior_log_variance_clipped: its log, with the value of t = 1 in place of log 0 at t = 0.
        posterior_mean_coef1, posterior_mean_coef2: the factors of x_0 and of x_t in that posterior's mean (eq. 7).
        fixed_large_log_variance: log beta_t, with the posterior's value of t = 1 at t = 0, where beta_0 makes a poor
            decoder (Nichol & Dhariwal 2021).
        snr: abar_t / (1 - abar_t).
        timesteps: int64 [T], the step of the original process that each step is; 0..T-1 unless `respaced`.
        name: what it was made by, for logs.
    """

    def __init__(self, betas: Tensor, *, name: str = "betas", timesteps: Tensor | None = None):
        betas = torch.as_tensor(betas, **_FP64).detach().clone()
        if betas.dim() != 1 or betas.numel() == 0:
            raise ValueError(f"betas: expected a 1-D tensor of at least one step, got shape {tuple(betas.shape)}")
        bad = ~((betas > 0) & (betas <= 1))
        if bad.any():
            i = int(bad.nonzero()[0])
            raise ValueError(f"betas: expected values in (0, 1], got {betas[i].item()} at step {i}")
        self.name = name
        self.betas = betas
        self.alphas = 1 - betas
        # expm1 of a sum of logs: 1 - abar keeps all its digits where abar is near 1
        log_abar = torch.log1p(-betas).cumsum(0)
        one_minus_abar = -torch.expm1(log_abar)
        self.alphas_cumprod = torch.exp(log_abar)
        self.alphas_cumprod_prev = torch.cat([torch.ones(1, **_FP64), self.alphas_cumprod[:-1]])
        self.sqrt_alphas_cumprod = torch.exp(log_abar / 2)
        self.sqrt_one_minus_alphas_cumprod = one_minus_abar.sqrt()
        one_minus_prev = torch.cat([torch.zeros(1, **_FP64), one_minus_abar[:-1]])
        self.posterior_variance = betas * one_minus_prev / one_minus_abar
        floor = self.posterior_variance[1:2] if betas.numel() > 1 else betas[:1]
        self.posterior_log_variance_clipped = torch.cat([floor, self.posterior_variance[1:]]).log()
        self.posterior_mean_coef1 = betas * self.alphas_cumprod_prev.sqrt() / one_minus_abar
        self.posterior_mean_coef2 = one_minus_prev * self.alphas.sqrt() / one_minus_abar
        self.fixed_large_log_variance = torch.cat([floor, betas[1:]]).log()
        self.snr = self.alphas_cumprod / one_minus_abar
        timesteps = torch.arange(betas.numel(), device="cpu") if timesteps is None else timesteps
        self.timesteps = timesteps.to(torch.int64).clone()
        self._q_table = torch.stack([self.sqrt_alphas_cumprod, self.sqrt_one_minus_alphas_cumprod])
        self._p_table = torch.stack(
            [
                *self._q_table,
                self.posterior_mean_coef1,
                self.posterior_mean_coef2,
                self.posterior_log_variance_clipped,
                self.fixed_large_log_variance,
                betas.log(),
            ]
        )
        self.last_abar = self.alphas_cumprod[-1].item()
        self.zero_terminal = self.last_abar == 0
        self._steps_on_device: dict[str, tuple[Tensor, ...]] = {}
        self._on_device: dict[str, tuple[Tensor, Tensor]] = {"cpu": (self._q_table, self._p_table)}

    @property
    def steps(self) -> int:
        """T, the number of steps."""
        return self.betas.numel()

    def q_table(self, device: torch.device | str) -> Tensor:
        """fp64 [2, T] on `device`: sqrt(abar_t), sqrt(1 - abar_t). Copied to a device once, not per call."""
        return self._tables(device)[0]

    def p_table(self, device: torch.device | str) -> Tensor:
        """fp64 [7, T] on `device`: the rows of `q_table`, posterior_mean_coef1, posterior_mean_coef2,
        posterior_log_variance_clipped, fixed_large_log_variance, log beta_t."""
        return self._tables(device)[1]

    def _tables(self, device: torch.device | str) -> tuple[Tensor, Tensor]:
        key = str(device)
        tables = self._on_device.get(key)
        if tables is None:
            tables = (self._q_table.to(device), self._p_table.to(device))
            if not torch.compiler.is_compiling():  # a tensor of a graph must not outlive it
                self._on_device[key] = tables
        return tables

    def step_tensor(self, t: int, device: torch.device | str) -> Tensor:
        """Step t, -1 <= t < T, as an int64 tensor [1] on `device`, made once; not to be written to."""
        key = str(device)
        steps = self._steps_on_device.get(key)
        if steps is None:
            steps = self._steps_on_device[key] = torch.arange(-1, self.steps, device=device).split(1)
        return steps[t + 1]

    def min_snr_weights(self, prediction: str = "eps", gamma: float = 5.0) -> Tensor:
        """Loss weights of the steps, fp64 [T] (Hang et al. 2023, "Efficient diffusion training via min-SNR weighting",
        section 3.4): min(snr, gamma) / snr for "eps", min(snr, gamma) for "x0", min(snr, gamma) / (snr + 1) for "v"."""
        if not gamma > 0:
            raise ValueError(f"gamma: expected a positive number, got {gamma}")
        least = self.snr.clamp(max=gamma)
        if prediction == "eps":  # min(1, gamma / snr): no 0 / 0 at zero terminal SNR
            return (gamma / self.snr).clamp(max=1)
        if prediction not in ("x0", "v"):
            raise ValueError(f"prediction: expected 'eps', 'x0' or 'v', got {prediction!r}")
        return least if prediction == "x0" else least / (self.snr + 1)

    @classmethod
    def linear(cls, steps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> "DiffusionSchedule":
        """Linear betas (Ho et al. 2020, section 4); start and end are given for 1000 steps and scaled by 1000 / T."""
        _check_steps(steps)
        scale = 1000 / steps
        if not 0 < beta_start * scale < 1 or not 0 < beta_end * scale < 1:
            raise ValueError(
                f"steps: a linear schedule from {beta_start} to {beta_end}, scaled by 1000 / {steps}, leaves (0, 1); "
                f"expected at least {math.floor(1000 * max(beta_start, beta_end)) + 1} steps"
            )
        betas = torch.linspace(beta_start * scale, beta_end * scale, steps, **_FP64)
        return cls(betas, name=f"linear({steps})")

    @classmethod
    def cosine(cls, steps: int, s: float = 0.008) -> "DiffusionSchedule":
        """abar(u) = cos^2((u + s) / (1 + s) pi / 2) (Nichol & Dhariwal 2021, eq. 17), betas clipped at 0.999."""
        _check_steps(steps)
        u = torch.linspace(0, 1, steps + 1, **_FP64)
        return cls(_betas_of(torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2), name=f"cosine({steps})")

    @classmethod
    def sigmoid(cls, steps: int, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> "DiffusionSchedule":
        """abar(u) = (sig(end) - sig((u (end - start) + start) / tau)) / (sig(end) - sig(start)), both ends over tau
        (Jabri et al. 2022, algorithm 3), betas clipped at 0.999."""
        _check_steps(steps)
        if not start < end or not tau > 0:
            raise ValueError(f"start, end, tau: expected start < end and tau > 0, got {start}, {end}, {tau}")
        u = torch.linspace(0, 1, steps + 1, **_FP64)
        lo, hi = torch.sigmoid(torch.tensor([start / tau, end / tau], **_FP64))
        abar = (hi - torch.sigmoid((u * (end - start) + start) / tau)) / (hi - lo)
        return cls(_betas_of(abar), name=f"sigmoid({steps})")

    @classmethod
    def from_betas(cls, betas: Tensor) -> "DiffusionSchedule":
        """Any betas [T] in (0, 1]: a tensor, an array or a list; taken to fp64."""
        return cls(torch.as_tensor(betas, **_FP64))

    @classmethod
    def from_diffusers(cls, scheduler: object) -> "DiffusionSchedule":
        """The schedule of a diffusers scheduler (anything with `betas` [T])."""
        betas = getattr(scheduler, "betas", None)
        if betas is None:
            raise TypeError(f"scheduler: expected an object with `betas`, got {type(scheduler).__name__}")
        return cls(torch.as_tensor(betas, **_FP64), name=type(scheduler).__name__)

    def respaced(self, steps: int) -> "DiffusionSchedule":
        """`steps` of this schedule's steps, evenly spaced, first and last included (Nichol & Dhariwal 2021, section 4):
        same abar at the kept steps, `timesteps` maps back to the steps that the model was trained on."""
        if not 1 <= steps <= self.steps:
            raise ValueError(f"steps: expected 1 to {self.steps}, got {steps}")
        if steps == 1:
            keep = torch.tensor([self.steps - 1], device="cpu")
        else:
            keep = torch.linspace(0, self.steps - 1, steps, **_FP64).round().to(torch.int64)
        # beta'_i = 1 - abar_{k_i} / abar_{k_{i-1}}, from logs for its digits
        log_abar = torch.log1p(-self.betas).cumsum(0)[keep]
        betas = -torch.expm1(torch.diff(log_abar, prepend=torch.zeros(1, **_FP64)))
        return DiffusionSchedule(betas, name=f"{self.name}.respaced({steps})", timesteps=self.timesteps[keep])

    def zero_terminal_snr(self) -> "DiffusionSchedule":
        """sqrt(abar) shifted and scaled so that the last step is pure noise (Lin et al. 2024, algorithm 1)."""
        first, last = self.sqrt_alphas_cumprod[0], self.sqrt_alphas_cumprod[-1]
        root = (self.sqrt_alphas_cumprod - last) * first / (first - last)
        alphas = torch.cat([root[:1] ** 2, (root[1:] / root[:-1]) ** 2])
        return DiffusionSchedule(1 - alphas, name=f"{self.name}.zero_terminal_snr()", timesteps=self.timesteps)

    def __repr__(self) -> str:
        return f"DiffusionSchedule.{self.name}, abar {self.alphas_cumprod[0]:.4g} to {self.alphas_cumprod[-1]:.4g}"


def _betas_of(abar: Tensor) -> Tensor:
    """beta_t = 1 - abar(t + 1) / abar(t), clipped at 0.999, from abar on T + 1 points. [T + 1] -> [T]"""
    return (1 - abar[1:] / abar[:-1]).clamp(max=_MAX_BETA)


def _check_steps(steps: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise TypeError(f"steps: expected an int, got {type(steps).__name__}")
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
