"""Training throughput of a DDPM on handwritten digits with fused ops and with the usual eager code."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import dgmkern
from dgmkern.data import load
from dgmkern.models import WHOLE, Share
from dgmkern.models.ddpm import DDPM
from dgmkern.reference.noise import uniform
from dgmkern.train.config import RunConfig
from dgmkern.train.presets import preset
from dgmkern.train.trainer import Trainer
from perf.case import Setting
from perf.machine import CpuUse
from perf.measure import is_noisy
from perf.report import duration, table
from perf.timing import Plan, Subject, interleave, paired_speedup

PLAN = Plan(rounds=200, budget=20.0)
FUSED, EAGER = "fused ops on", "fused ops off"


def eager_loss(
    model: DDPM,
    sqrt_abar: Tensor,
    sqrt_one_minus_abar: Tensor,
    x0: Tensor,
    *,
    seed: int,
    step: int = 0,
    labels: Tensor | None = None,
    share: Share = WHOLE,
    noise: Tensor | None = None,
) -> Tensor:
    """`DDPM.loss` as it is usually written: draw, gather from fp32 tables, broadcast, mix, mean squared error.

    The trainer has seeded torch's generator with `seed`. `noise` replaces the draw in the check, where t is that of
    `DDPM.loss`. `step`, `labels` and `share` of the trainer change nothing here.
    """
    if noise is None:
        t = torch.randint(model.schedule.steps, (x0.shape[0],))
        noise = torch.randn_like(x0)
    else:
        t = (uniform(x0.shape[0], torch.tensor([seed]), 1 << 40).double() * model.schedule.steps).long()
    a = sqrt_abar[t].view(-1, 1, 1, 1)
    s = sqrt_one_minus_abar[t].view(-1, 1, 1, 1)
    x_t = a * x0 + s * noise
    target = {"eps": lambda: noise, "x0": lambda: x0, "v": lambda: a * noise - s * x0}[model.config.prediction]()
    return F.mse_loss(model(x_t, t).float(), target)


def make_trainer(*, fused: bool) -> Trainer:
    """A trainer with the settings of `dgmkern train ddpm`; without `fused` its loss is the eager one."""
    dataset = load("digits")
    model_config, train_config = preset("ddpm", "digits")
    trainer = Trainer(RunConfig("ddpm", model_config, "digits", dataset.image_shape, train_config), dataset)
    if not fused:
        use_eager_loss(trainer)
    return trainer


def use_eager_loss(trainer: Trainer) -> None:
    """Train its DDPM with `eager_loss` from here on."""
    schedule = trainer.model.schedule
    tables = schedule.sqrt_alphas_cumprod.float(), schedule.sqrt_one_minus_alphas_cumprod.float()
    trainer.model.loss = partial(eager_loss, trainer.model, *tables)


def check_losses(fused: Trainer, eager: Trainer) -> None:
    """Both compute the same loss when given the same noise; AssertionError otherwise.

    A fresh network predicts zero, so the loss is then the mean square of the target: noise, steps and mixing all show.
    """
    (x0, _), seed = fused.batch(0), 7
    noise = dgmkern.normal(x0.shape, seed)
    with torch.no_grad():
        ours = fused.model.loss(x0, seed=seed)
        theirs = eager.model.loss(x0, seed=seed, noise=noise)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0.0)


def run(setting: Setting, plan: Plan = PLAN, *, markdown: bool = False) -> dict[str, Any]:
    """Train both in turns on the CPU, step by step; print the table, return it as JSON."""
    trainers = {FUSED: make_trainer(fused=True), EAGER: make_trainer(fused=False)}
    check_losses(trainers[FUSED], trainers[EAGER])
    subjects = {name: Subject(trainer.train_step, setting.threads) for name, trainer in trainers.items()}
    use = CpuUse()
    samples, errors = interleave(subjects, plan)
    used_by_others = use.by_others()
    for error in errors.values():
        raise error
    train = trainers[FUSED].config.train
    speedup, (low, high) = paired_speedup(samples[EAGER], samples[FUSED])
    rates = {name: train.batch_size / sample.median for name, sample in samples.items()}
    spread = f"{low:.3f} .. {high:.3f}"
    rows = [
        (
            name,
            f"{rates[name]:.0f}",
            duration(sample.median),
            *((f"{speedup:.3f}x", spread) if name == FUSED else ("", "")),
        )
        for name, sample in samples.items()
    ]
    print(f"training: DDPM on digits, batch {train.batch_size}, {train.precision}, whole steps with optimizer and EMA")
    print(table(("", "images/s", "step", "vs off", "q1 .. q3"), rows, markdown=markdown, left=1), flush=True)
    if is_noisy(used_by_others):
        print(f"training: other processes used {used_by_others:.0%} of the CPU meanwhile", flush=True)
    return {
        "used_by_others": used_by_others,
        "model": "ddpm",
        "data": "digits",
        "batch_size": train.batch_size,
        "images_per_second": {"fused": rates[FUSED], "eager": rates[EAGER]},
        "step_seconds": {"fused": samples[FUSED].median, "eager": samples[EAGER].median},
        "step_samples": {"fused": list(samples[FUSED].seconds), "eager": list(samples[EAGER].seconds)},
        "speedup": speedup,
        "speedup_quartiles": [low, high],
    }
