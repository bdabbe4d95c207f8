"""Whole training steps on a GPU: the usual code, ours, and ours replayed as CUDA graphs.

`python -m perf.gpu_steps cuda --out FILE`; cpu rehearses it, two steps each, without graphs. Losses of replays and of
the same steps without a recording are compared first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from dgmkern.models import phases_of
from dgmkern.models.gan import GAN
from dgmkern.models.vae import VAE
from dgmkern.train.distributed import Ranks
from dgmkern.train.update import Recorded, Update
from perf import machine
from perf.report import duration, table, write_json
from perf.steps import ddpm, gan, vae
from perf.steps.case import Step

LR = 1e-4


def updates(model: nn.Module, images: Tensor, *, precision: str, recorded: bool) -> Callable[[int], list[float]]:
    """A training step of every player as the trainer does it; its losses, by the number of the step."""
    labels = torch.zeros(len(images), dtype=torch.int64)
    parts: dict[str, Update | Recorded] = {}
    for phase in phases_of(model, 0):
        optimizer = torch.optim.AdamW(phase.module.parameters(), lr=LR, weight_decay=0.0, fused=True)
        update = Update(phase, optimizer, precision=precision, clip_grad=1e9, ranks=Ranks())
        parts[phase.name] = Recorded(update) if recorded else update

    def step(number: int) -> list[float]:
        return [part(images, labels, number, number, LR).tolist()[0] for part in parts.values()]

    return step


def models() -> dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], Callable[[], Step], str]]:
    """By name: the model, its batch, the usual step of the same work, and the precision of ours."""
    return {
        "VAE, MLP, batch 128": (
            lambda: VAE(vae.CONFIG, vae.SHAPE),
            lambda: 2 * torch.rand(128, *vae.SHAPE) - 1,
            lambda: vae.usual(128),
            "fp32",
        ),
        "GAN, MLP, batch 128": (lambda: GAN(gan.GAME, gan.SHAPE), gan.images, gan.usual_game, "fp32"),
        "WGAN-GP, MLP, batch 128": (lambda: GAN(gan.CRITIC, gan.SHAPE), gan.images, gan.usual_critic, "fp32"),
        "DDPM, UNet, batch 64": (
            lambda: ddpm.model().to(memory_format=torch.channels_last),
            lambda: ddpm.images().contiguous(memory_format=torch.channels_last),
            ddpm.eager,
            "bf16",
        ),
    }


def seconds_of(step: Callable[[], object], repeats: int) -> float:
    """Median of a step; every step ends by reading its loss."""
    for _ in range(min(5, repeats)):
        step()
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        step()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def counted(step: Callable[[int], object]) -> Callable[[], object]:
    numbers = iter(range(1 << 60))
    return lambda: step(next(numbers))


def check_replays(name: str, make: Callable[[], nn.Module], images: Tensor, precision: str) -> None:
    """AssertionError unless twenty steps with a recording have the losses of those without."""
    found = []
    for recorded in (False, True):
        torch.manual_seed(0)
        step = updates(make(), images, precision=precision, recorded=recorded)
        found.append([step(number) for number in range(20)])
    tolerance = 1e-3 if precision == "fp32" else 2e-2
    for number, (plain, replayed) in enumerate(zip(*found, strict=True)):
        for a, b in zip(plain, replayed, strict=True):
            assert abs(a - b) <= tolerance * max(abs(a), 0.1), f"{name}, step {number}: {b} replayed, {a} plain"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device", choices=("cuda", "cpu"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_default_device(options.device)
    on_gpu = options.device == "cuda"
    repeats = 50 if on_gpu else 2
    rows, results = [], {}
    for name, (make, batch, usual, precision) in models().items():
        torch.manual_seed(0)
        images = batch()
        ours = counted(updates(make(), images, precision=precision, recorded=False))
        steps = {"eager, fp32": usual(), f"dgmkern, {precision}": ours}
        if on_gpu:
            check_replays(name, make, images, precision)
            steps["dgmkern, CUDA graph"] = counted(updates(make(), images, precision=precision, recorded=True))
        times = {key: seconds_of(step, repeats) for key, step in steps.items()}
        results[name] = times
        for key, value in times.items():
            rows.append((name, key, duration(value), f"{times['eager, fp32'] / value:.2f}x"))
    print(table(("model", "step", "time", "vs eager"), rows))
    if options.out is not None:
        about = {"machine": machine.machine(options.device), "versions": machine.versions()}
        write_json(options.out, {**about, "seconds": results})


if __name__ == "__main__":
    main()
