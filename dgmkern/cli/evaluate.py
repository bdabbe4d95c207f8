"""`dgmkern evaluate`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from .parsing import UsageError


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained model on images it has not seen: their likelihood, Frechet distance and classes of samples."""

    checkpoint: tyro.conf.Positional[Path]
    """Folder of a run (its newest checkpoint is taken) or a checkpoint file."""
    split: Literal["train", "valid", "test"] = "test"
    """Part of the run's data set."""
    data: Path | None = None
    """The folder of pictures of the run, where it has moved."""
    n: int = 1000
    """Samples drawn, and images whose likelihood is taken (at most all)."""
    importance_samples: int = 100
    """VAE: samples of the posterior of each image."""
    seed: int = 0
    """Seed of samples and noise, and of which images are taken."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: on a GPU if there is one."""
    json: bool = False
    """Print one object of JSON instead."""


def run(command: Evaluate) -> int:
    from ..evaluation import evaluate_likelihood, evaluate_samples
    from ..train import load_model, open_checkpoint, pick_device

    for name, least in (("n", 2), ("importance_samples", 1)):
        if getattr(command, name) < least:
            raise UsageError(f"--{name.replace('_', '-')}: got {getattr(command, name)}, want at least {least}")
    checkpoint = open_checkpoint(command.checkpoint)
    model = load_model(checkpoint).to(pick_device(command.device))
    dataset = checkpoint.config.load(command.split, folder=command.data)
    count = min(command.n, len(dataset))
    record = {"model": checkpoint.config.model, "data": f"{dataset.name}:{command.split}", "step": checkpoint.step}
    record |= {"images": count, "drawn": command.n, "seed": command.seed}
    if record["model"] == "vae":
        record["importance_samples"] = command.importance_samples
    record |= evaluate_likelihood(model, dataset, count, samples=command.importance_samples, seed=command.seed)
    precision = checkpoint.config.train.precision
    record |= evaluate_samples(model, dataset, command.n, seed=command.seed, precision=precision)
    if command.json:
        print(json.dumps(record))
        return 0
    caveats = record.pop("caveats")
    for name, value in record.items():
        if not name.endswith("_standard_error"):
            error = record.get(f"{name}_standard_error")
            shown = f"{value:.6g}" if isinstance(value, float) else str(value)
            print(f"{name.replace('_', ' ')}: {shown}" + ("" if error is None else f" +- {error:.2g}"))
    for caveat in caveats:
        print(f"caveat: {caveat}")
    return 0
