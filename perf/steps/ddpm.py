"""Training and sampling steps of a DDPM on 28x28 images, beside the same network in usual code and diffusers'."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dgmkern
from dgmkern.models.ddpm import DDPM, DDPMConfig
from dgmkern.reference.noise import uniform
from dgmkern.schedule import DiffusionSchedule
from perf.case import Target
from perf.steps.case import Step, StepCase
from perf.steps.training import check_autocast, check_gradients, flops_of, normals, our_step, usual_step
from perf.steps.usual_unet import usual

SHAPE = (1, 28, 28)
BATCH, LR = 64, 1e-4
DRAWN, SAMPLING_STEPS = 16, 10
# 64 and 128 channels, attention over 14 x 14 positions with 2 heads of 64 channels; 3.0 million parameters
CONFIG = DDPMConfig(channels=64, multipliers=(1, 2), schedule="linear", timesteps=1000, prediction="eps")


def model() -> DDPM:
    """With random weights everywhere: a new UNet predicts 0, and most of its gradients are 0."""
    made = DDPM(CONFIG, SHAPE)
    for p in made.parameters():
        p.data.add_(0.02 * torch.randn_like(p))
    return made


def images() -> Tensor:
    return 2 * torch.rand(BATCH, *SHAPE) - 1


# ---- Training -------------------------------------------------------------------------------------------------------


def eager(*, precision: str = "fp32", network: Any = None) -> Step:
    """Ho et al. 2020, algorithm 1, as it is usually written, with AdamW."""
    ours, x0 = model(), images()
    s = ours.schedule
    a, b = (table.float().to(x0.device) for table in (s.sqrt_alphas_cumprod, s.sqrt_one_minus_alphas_cumprod))
    network = usual(ours.unet) if network is None else network

    def loss() -> Tensor:
        t = torch.randint(s.steps, (BATCH,))
        noise = torch.randn_like(x0)
        x_t = a[t].view(-1, 1, 1, 1) * x0 + b[t].view(-1, 1, 1, 1) * noise
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            predicted = network(x_t, t)
        return F.mse_loss(getattr(predicted, "sample", predicted).float(), noise)

    return usual_step(loss, torch.optim.AdamW(network.parameters(), lr=LR))


def diffusers_unet() -> nn.Module:
    """A UNet2DModel of as many channels and blocks: 2.8 million parameters, with its default heads of 8 channels."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=SHAPE[1],
        in_channels=1,
        out_channels=1,
        layers_per_block=CONFIG.blocks,
        block_out_channels=[CONFIG.channels * m for m in CONFIG.multipliers],
        down_block_types=["DownBlock2D", "AttnDownBlock2D"],
        up_block_types=["AttnUpBlock2D", "UpBlock2D"],
    )


def ours(*, precision: str) -> Step:
    made = model().to(memory_format=torch.channels_last)
    x0 = images()
    return our_step(made, lambda seed: made.loss(x0, seed=seed), lr=LR, precision=precision)


def check_training() -> None:
    """The usual network and formula in fp64, with the same noise, and beside them under autocast."""
    made, x0 = model().to(memory_format=torch.channels_last), images()[:4]

    def plain(other: DDPM) -> Tensor:
        dtype = next(other.parameters()).dtype
        t = (uniform(len(x0), torch.tensor([7]), 1 << 40).double() * CONFIG.timesteps).long()
        noise = normals(*x0.shape, seed=7)
        alpha = made.schedule.alphas_cumprod[t].double().view(-1, 1, 1, 1)
        x_t = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
        return F.mse_loss(usual(other.unet)(x_t.to(dtype), t).to(dtype), noise.to(dtype))

    check_gradients(made, lambda made: made.loss(x0, seed=7), plain)
    check_autocast(made, lambda made: made.loss(x0, seed=7), plain)


# ---- Sampling -------------------------------------------------------------------------------------------------------


class ForPipeline(nn.Module):
    """A network as diffusers' pipelines call it."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self.config = SimpleNamespace(sample_size=SHAPE[1], in_channels=SHAPE[0])
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def forward(self, x: Tensor, t: Tensor | int) -> SimpleNamespace:
        return SimpleNamespace(sample=self.unet(x, torch.as_tensor(t).expand(len(x))))


def pipeline() -> Step:
    """diffusers.DDPMPipeline with the usual network of the same weights."""
    from diffusers import DDPMPipeline, DDPMScheduler

    pipe = DDPMPipeline(ForPipeline(usual(model().unet)), DDPMScheduler(CONFIG.timesteps))
    pipe.set_progress_bar_config(disable=True)
    return lambda: pipe(DRAWN, num_inference_steps=SAMPLING_STEPS, output_type="np")


def our_sampling(*, precision: str) -> Step:
    made = model().to(memory_format=torch.channels_last).eval()

    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return made.sample(DRAWN, seed=0, steps=SAMPLING_STEPS)

    return step


def check_sampling() -> None:
    """The images are those of the usual network in fp64 by the formulas of the paper; under autocast they are at most
    twice as far from them as those of the usual network."""
    made = model().to(memory_format=torch.channels_last).eval()
    network, s = usual(copy.deepcopy(made.unet)), made.schedule.respaced(SAMPLING_STEPS)
    right = by_the_paper(copy.deepcopy(network).double(), s)
    got = made.sample(2, seed=3, steps=SAMPLING_STEPS)
    torch.testing.assert_close(got.double(), right, rtol=0, atol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        got = made.sample(2, seed=3, steps=SAMPLING_STEPS)
        beside = by_the_paper(lambda x, t: network(x.float(), t).double(), s)
    error, allowed = (got - right).norm(), 2 * (beside - right).norm()
    assert error <= allowed, f"images under autocast: off by {error:.1e}, want at most {allowed:.1e}"


def by_the_paper(network: Callable[[Tensor, Tensor], Tensor], s: DiffusionSchedule) -> Tensor:
    """Two images of the stream 3, by algorithm 2 in fp64 with the eps of `network`."""
    x = normals(2, *SHAPE, seed=3)
    abar = [1.0, *s.alphas_cumprod.double().tolist()]
    for t in range(s.steps - 1, -1, -1):
        now, before = abar[t + 1], abar[t]
        beta = 1 - now / before
        with torch.no_grad():
            eps = network(x, s.timesteps[t].expand(2))
        x0 = ((x - (1 - now) ** 0.5 * eps) / now**0.5).clamp(-1, 1)
        mean = before**0.5 * beta / (1 - now) * x0 + (now / before) ** 0.5 * (1 - before) / (1 - now) * x
        noise = dgmkern.normal((2, *SHAPE), 3, offset=(t + 1) << 40).double()
        x = mean + (beta * (1 - before) / (1 - now)) ** 0.5 * noise if t else mean
    return x


def cases() -> list[StepCase]:
    training = {
        "eager": eager,
        "eager, bf16 autocast": lambda: eager(precision="bf16"),
        "diffusers UNet2DModel": lambda: eager(network=diffusers_unet()),
        "dgmkern, fp32": lambda: ours(precision="fp32"),
        "dgmkern": lambda: ours(precision="bf16"),
    }
    sampling = {
        "diffusers DDPMPipeline": pipeline,
        "dgmkern, fp32": lambda: our_sampling(precision="fp32"),
        "dgmkern": lambda: our_sampling(precision="bf16"),
    }
    return [
        StepCase(
            f"ddpm/train/{BATCH}",
            training,
            check_training,
            flops=lambda: flops_of(lambda: ours(precision="fp32")),
            precision="bf16",
            targets=(Target("eager", at_least=2.5), Target("diffusers UNet2DModel", at_least=3.0)),
        ),
        StepCase(
            f"ddpm/sample/{DRAWN}",
            sampling,
            check_sampling,
            flops=lambda: flops_of(lambda: our_sampling(precision="fp32")) // SAMPLING_STEPS,
            precision="bf16",
            steps=SAMPLING_STEPS,
            targets=(Target("diffusers DDPMPipeline", at_least=2.0),),
        ),
    ]
