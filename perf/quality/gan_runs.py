"""Trainings of several variants of a GAN over seeds, in one file with the settings that they follow from."""

import json
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dgmkern.models.gan import GANConfig
from dgmkern.train import TrainConfig
from dgmkern.train.atomic import write_text_atomically
from perf import machine
from perf.quality.commands import commands
from perf.quality.means import means

Runs = dict[str, list[dict[str, Any]]]  # by variant, in the order of their seeds


def settings(train: TrainConfig, variants: dict[str, GANConfig]) -> dict:
    """What the runs follow from, as it stands in the file."""
    made = {"train": asdict(train), "variants": {name: asdict(config) for name, config in variants.items()}}
    return json.loads(json.dumps(made))


def are_present(recorded: dict, train: TrainConfig, variants: dict[str, GANConfig]) -> bool:
    """Whether settings of a file are these; one that is younger than the file was at its default."""
    filled = {
        "train": asdict(TrainConfig()) | recorded["train"],
        "variants": {name: asdict(GANConfig()) | found for name, found in recorded["variants"].items()},
    }
    wanted = {name: config for name, config in variants.items() if name in filled["variants"]}
    return json.loads(json.dumps(filled)) == settings(train, wanted)


def complete(
    path: Path,
    measured: Callable[[GANConfig, TrainConfig, int], dict[str, Any]],
    *,
    train: TrainConfig,
    variants: dict[str, GANConfig],
    chosen: list[str],
    seeds: int,
    figures: Collection[str],
    script: str,
    about: dict[str, Any] | None = None,
) -> Runs:
    """All runs of the file at `path`, after those of `chosen` variants and `seeds` that it lacked; written after each.

    SystemExit where the file has runs with other settings.

    Args:
        measured: (config, train, seed) to the record of one run, with "seed" and `figures`, of which there are means.
        script: of perf.quality, for the record of its commands.
        about: what else the file says.
    """
    record = json.loads(path.read_text()) if path.exists() else {}
    runs: Runs = record.get("runs", {})
    if runs and not are_present(record["settings"], train, variants):
        raise SystemExit(f"{path}: has runs with other settings; move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    asked = commands(record, script)
    versions = machine.versions()
    for seed in (bar := tqdm(range(seeds), desc=path.stem, unit="seed")):
        for name in chosen:
            if any(run["seed"] == seed for run in runs.get(name, [])):
                continue
            bar.set_postfix_str(name)
            run = measured(variants[name], train, seed) | {"commit": versions["commit"]}
            runs.setdefault(name, []).append(run)
            record = {
                **(about or {}),
                "commands": asked,
                "machine": machine.machine(),  # of the last call, as versions
                "versions": versions,
                "settings": settings(train, {name: variants[name] for name in runs}),
                "means": {name: means(found, figures) for name, found in runs.items()},
                "runs": runs,
            }
            write_text_atomically(path, json.dumps(record) + "\n")
    return runs
