"""The classifiers whose features stand in for Inception's: accuracy, training time, and the distance of data from data.

`python -m perf.quality.classifiers OUT.json` trains each anew and writes the file. The distances are floors: what a
generator that draws from the data would score at these numbers of samples.
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from dgmkern.data import ImageDataset, load
from dgmkern.features import ClassifierFeatures, features_of
from dgmkern.features.training import RECIPES, accuracy_of, train_classifier
from dgmkern.metrics import FeatureStats, frechet_bias, frechet_distance
from dgmkern.train.atomic import write_text_atomically
from perf import machine

SEED = 0  # of the halves; those of the trainings are in the recipes


def measured(data: str) -> dict:
    """Train the classifier of `data`; what it reaches, and the Frechet distances between parts of the data."""
    train, test = load(data), load(data, "test")
    start, cpu = time.perf_counter(), time.process_time()
    model = train_classifier(train, RECIPES[data])
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    accuracy = accuracy_of(model, test)
    extractor = ClassifierFeatures(model.eval(), data, train.image_shape, accuracy)
    halves = {name: _halves(images, extractor) for name, images in (("train", train), ("test", test))}
    pairs = {f"halves of {name}": parts for name, parts in halves.items()}
    pairs["train and test"] = tuple(parts[0] + parts[1] for parts in halves.values())
    return {
        "recipe": asdict(RECIPES[data]),
        "features": extractor.name,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "test_accuracy": accuracy,
        "frechet_distances": {name: distance(*parts) for name, parts in pairs.items()},
    }


def _halves(images: ImageDataset, extractor: ClassifierFeatures) -> tuple[FeatureStats, FeatureStats]:
    """Two halves drawn at random: MNIST's training images of even and of odd number are 26 apart."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    features = torch.cat(list(features_of(images, extractor)))[order]
    stats = FeatureStats(), FeatureStats()
    for half, part in zip(stats, features.chunk(2), strict=True):
        half.update(part)
    return stats


def distance(a: FeatureStats, b: FeatureStats) -> dict:
    """Frechet distance, the bound on its numerical error, and what so few samples alone make of it."""
    value, bound = frechet_distance(a, b)
    return {"n": [a.count, b.count], "value": value, "bound": bound, "expected_bias": frechet_bias(a, b)}


def main() -> None:
    out = Path(sys.argv[1])
    record = {
        "command": f"python -m perf.quality.classifiers {out}",
        "machine": machine.machine(),
        "versions": machine.versions(),
        "threads": "1 in training",
        "seed_of_halves": SEED,
        "classifiers": {data: measured(data) for data in RECIPES},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
