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
from typing import NamedTuple

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


def updates(
    model: nn.Module, images: Tensor, *, precision: str, recorded: bool, only: str | None
) -> Callable[[int], list[float]]:
    """A training step of all players, or of the phase `only`, as the trainer does it: its number to its losses."""
    labels = torch.zeros(len(images), dtype=torch.int64)
    parts: dict[str, Update | Recorded] = {}
    for phase in phases_of(model, 0):
        if only not in (None, phase.name):
            continue
        optimizer = torch.optim.AdamW(phase.module.parameters(), lr=LR, weight_decay=0.0, fused=True)
        update = Update(phase, optimizer, precision=precision, clip_grad=1e9, ranks=Ranks())
        parts[phase.name] = Recorded(update) if recorded else update

    def step(number: int) -> list[float]:
        return [part(images, labels, number, number, LR).tolist()[0] for part in parts.values()]

    return step


class Work(NamedTuple):
    """A model, its batch, the usual step of the same work, the precision of ours, and the one phase that is timed."""

    make: Callable[[], nn.Module]
    batch: Callable[[], Tensor]
    usual: Callable[[], Step]
    precision: str
    only: str | None = None


WORKS = {
    "VAE, MLP, batch 128": Work(
        lambda: VAE(vae.CONFIG, vae.SHAPE),
        lambda: 2 * torch.rand(128, *vae.SHAPE) - 1,
        lambda: vae.usual(128),
        "fp32",
    ),
    "GAN, MLP, batch 128": Work(lambda: GAN(gan.GAME, gan.SHAPE), gan.images, gan.usual_game, "fp32"),
    "WGAN-GP, MLP critic, batch 128": Work(
        lambda: GAN(gan.CRITIC, gan.SHAPE), gan.images, gan.usual_critic, "fp32", "discriminator"
    ),
    "DDPM, UNet, batch 64": Work(
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


def check_replays(name: str, work: Work, images: Tensor) -> None:
    """AssertionError unless twenty steps with a recording have the losses of those without."""
    found = []
    for recorded in (False, True):
        torch.manual_seed(0)
        step = updates(work.make(), images, precision=work.precision, recorded=recorded, only=work.only)
        found.append([step(number) for number in range(20)])
    tolerance = 1e-3 if work.precision == "fp32" else 2e-2
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
    about = {"machine": machine.machine(options.device), "versions": machine.versions()}
    for name, work in WORKS.items():
        torch.manual_seed(0)
        images = work.batch()
        how = {"precision": work.precision, "only": work.only}
        ours = counted(updates(work.make(), images, recorded=False, **how))
        steps = {"eager, fp32": work.usual(), f"dgmkern, {work.precision}": ours}
        if on_gpu:
            check_replays(name, work, images)
            steps["dgmkern, CUDA graph"] = counted(updates(work.make(), images, recorded=True, **how))
        times = {key: seconds_of(step, repeats) for key, step in steps.items()}
        results[name] = times
        for key, value in times.items():
            rows.append((name, key, duration(value), f"{times['eager, fp32'] / value:.2f}x"))
        if options.out is not None:  # after each, as the time of a GPU may end
            write_json(options.out, {**about, "seconds": results})
    print(table(("model", "step", "time", "vs eager"), rows))


if __name__ == "__main__":
    main()
