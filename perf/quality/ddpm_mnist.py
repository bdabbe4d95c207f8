"""Quality of a small DDPM on MNIST: Frechet distance of its samples, and its bits/dim with their terms.

    python -m perf.quality.ddpm_mnist FOLDER [--runs fixed short learned eager] [--samplers ...] [--halves]

trains each run in FOLDER/NAME and writes FOLDER/ddpm_mnist.json and .png. A run that was stopped goes on; what the file
has already is not measured again. "fixed" is the preset. Of a quarter of its steps are "short", which is the same,
"learned", with the hybrid objective, and "eager", network and loss in fp32 as they are usually written, with torch's
noise; that and "short" for two more seeds. "classes" knows the class of an image, has twice the channels, more steps.

Distances are in features of MNIST's classifier, all to the same 50000 training images. Those of the 10000 others are
the floor: what a generator that draws from the data would score. With --halves it is those of 30000 samples from a half
of the training images, with that of the other half as the floor.
"""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgmkern.data import ImageDataset, load, to_signed
from dgmkern.evaluation import labels_to_draw
from dgmkern.features import ClassifierFeatures, features_of, load_extractor
from dgmkern.metrics import FeatureStats, class_coverage
from dgmkern.models.ddpm import DDPM
from dgmkern.train import RunConfig, RunFolder, Trainer, draw_images, load_model, losses_of, preset, read_log
from dgmkern.train.atomic import write_atomically, write_text_atomically
from perf import machine
from perf.quality import sessions
from perf.quality.classifiers import distance
from perf.quality.commands import commands
from perf.report import table
from perf.steps.usual_unet import usual
from perf.train import use_eager_loss

DATA, SHAPE = "mnist", (1, 28, 28)
MODEL, TRAIN = preset("ddpm", DATA)
TRAIN = dataclasses.replace(TRAIN, precision="bf16")
LEARNED = {"objective": "hybrid", "variance": "learned_range"}
SHORT = {"steps": TRAIN.steps // 4}
CLASSES = ({"channels": 32, "classes": 10}, {"steps": 20000, "ema_decay": 0.9995})
RUNS = {"fixed": ({}, {}), "short": ({}, SHORT), "learned": (LEARNED, SHORT), "classes": CLASSES}
EAGER = {"precision": "fp32", "channels_last": False}  # and the network and the loss of `trained`
PAIRS = {"short": "eager", "short-1": "eager-1", "short-2": "eager-2"}  # fused and eager, of the same seed
for seed, (fused, eager) in enumerate(PAIRS.items()):
    RUNS |= {fused: ({}, SHORT | {"seed": seed}), eager: ({}, SHORT | EAGER | {"seed": seed})}
SAMPLERS = {"ddpm-200": {}} | {f"dpm-solver-{n}": {"sampler": "dpm-solver", "steps": n} for n in (20, 50, 100)}
PICTURED = ("fixed", "short", "learned", "eager", "classes")
SAMPLES = 10000
# distances of a run in the file, and the name of their floor there
OF_A_HALF = "frechet_distances_from_a_half"
FLOORS = {"frechet_distances": "train", OF_A_HALF: "half of train, from the other half"}
IMAGES = 200  # test images of bits/dim
CHAINS = (None, 50)  # steps of the chain whose bound is taken; None: all
SEED = 1  # of samples, of the noise of the bound, of which images are taken


def config_of(name: str) -> RunConfig:
    model, train = RUNS[name]
    return RunConfig("ddpm", dataclasses.replace(MODEL, **model), DATA, SHAPE, dataclasses.replace(TRAIN, **train))


def settings() -> dict[str, Any]:
    """What the figures follow from, as it stands in the file."""
    runs = {name: dataclasses.asdict(config_of(name)) for name in RUNS}
    return json.loads(json.dumps({"runs": runs, "samples": SAMPLES, "images": IMAGES, "seed": SEED}))


def are_present(recorded: dict[str, Any]) -> bool:
    """Whether settings of a file are those of now; one that is younger than the file was at its default, and a run that
    is younger is not in it."""
    runs = {name: dataclasses.asdict(RunConfig.from_json(json.dumps(run))) for name, run in recorded["runs"].items()}
    now = settings()
    now["runs"] = {name: run for name, run in now["runs"].items() if name in runs}
    return json.loads(json.dumps({**recorded, "runs": runs})) == now


def trained(name: str, folder: Path) -> dict[str, Any]:
    """Train run `name` to its end, or go on with it."""
    run = RunFolder(folder / name)
    trainer = Trainer(config_of(name), load(DATA))
    if name in PAIRS.values():
        use_eager_loss(trainer)
        usual(trainer.model.unet)
    taken = sessions.train(trainer, run)
    last = losses_of(read_log(run.log))["loss"][-500:]
    cpu_seconds = sessions.cpu_seconds(taken)
    return {"steps": trainer.step, "cpu_seconds": cpu_seconds, "loss_of_last_500": sum(last) / len(last)}


class Real:
    """Features of MNIST's classifier of 50000 training images, and the distances of others from them."""

    def __init__(self) -> None:
        train = load(DATA)
        self.classes, self.labels = train.classes, train.labels
        self.extractor: ClassifierFeatures = load_extractor("classifier", data=DATA)
        features = torch.cat(list(features_of(train, self.extractor, desc=f"{DATA}:train")))
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(SEED))
        self.rest = _stats(features[order[SAMPLES:]])
        self.held_out = features[order[:SAMPLES]]
        self.half, other = features[order].chunk(2)
        self.other_half = _stats(other)

    def floors(self) -> dict[str, Any]:
        """Distances of the other training images, of as many test images, which are not in random order, and of a half
        of the training images from the other half."""
        test = torch.cat(list(features_of(load(DATA, "test"), self.extractor, desc=f"{DATA}:test")))
        test = test[torch.randperm(len(test), generator=torch.Generator().manual_seed(SEED))]
        found = {"train": jackknifed(self.held_out, self.rest), "test": jackknifed(test, self.rest)}
        return found | {FLOORS[OF_A_HALF]: jackknifed(self.half, self.other_half)}

    def measured(self, images: Tensor, real: FeatureStats) -> dict[str, Any]:
        """Distance of generated uint8 images [N, C, H, W] from `real`, and what classes they are of."""
        drawn = ImageDataset(DATA, "samples", images, torch.zeros(len(images), dtype=torch.int64), self.classes)
        features = torch.cat(list(features_of(drawn, self.extractor, progress=False)))
        classes = torch.cat([self.extractor.probabilities(batch).argmax(1) for batch in drawn.batches(256)])
        coverage = class_coverage(classes, self.labels, classes=len(self.classes))
        found = {"classes": coverage.modes, "reverse_kl_of_classes": coverage.reverse_kl}
        return jackknifed(features, real) | found


def jackknifed(features: Tensor, rest: FeatureStats) -> dict[str, Any]:
    """Frechet distance of features [N, D] in random order, with its standard error by a jackknife over tenths."""
    parts = features.chunk(10)
    without = [_stats(torch.cat([*parts[:i], *parts[i + 1 :]])) for i in range(len(parts))]
    values = torch.tensor([distance(stats, rest)["value"] for stats in without])
    error = ((len(parts) - 1) * values.var(correction=0)).sqrt().item()
    return distance(_stats(features), rest) | {"standard_error": error}


def _stats(features: Tensor) -> FeatureStats:
    stats = FeatureStats()
    stats.update(features)
    return stats


def opened(name: str, folder: Path) -> DDPM:
    """The averaged weights of a run."""
    return load_model(RunFolder(folder / name).latest()).to(memory_format=torch.channels_last)


def drawn(model: DDPM, n: int, sampler: str) -> Tensor:
    """`n` samples as uint8 [n, C, H, W]; of classes in the shares of the training images."""
    labels = labels_to_draw(model, load(DATA), n, seed=SEED)
    options = {"precision": TRAIN.precision, "progress": False, **SAMPLERS[sampler]}
    return draw_images(model, n, seed=SEED, labels=labels, **options)


def bits(model: DDPM, variance: str, steps: int | None) -> dict[str, Any]:
    """bits/dim of test images, in fp32: means, with the standard errors of so few images, each term's mean, and the
    sum of each image, for differences between models on the same images and noise."""
    test = load(DATA, "test")
    chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(SEED))[:IMAGES]
    model.config = dataclasses.replace(model.config, variance=variance)
    cpu = time.process_time()
    labels = test.labels[chosen] if model.config.classes else None
    bound = model.bits_per_dim(to_signed(test.images[chosen]), seed=SEED, steps=steps, labels=labels)
    parts = {"bits_per_dim": bound.total, "L_0": bound.terms[:, 0], "L_1_to_T-1": bound.terms[:, 1:].sum(1)}
    found: dict[str, Any] = {"cpu_seconds": round(time.process_time() - cpu, 1)}
    for part, values in {**parts, "L_T": bound.prior}.items():
        found |= dict(zip((part, f"{part}_standard_error"), mean_of(values), strict=True))
    found["terms"] = [float(f"{term:.6g}") for term in bound.terms.mean(0).tolist()]
    return found | {"of_each_image": [round(value, 5) for value in bound.total.tolist()]}


def mean_of(values: Tensor) -> tuple[float, float]:
    """Mean, and its standard error."""
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


def measure(
    name: str, run: dict[str, Any], folder: Path, real: Real, samplers: list[str], halves: bool
) -> Iterator[None]:
    """Fill in what `run` lacks; yields after each figure."""
    model = opened(name, folder)
    for variance in variances_of(name):
        for steps in CHAINS:
            if (key := chain(variance, steps)) not in run["bits_per_dim"]:
                run["bits_per_dim"][key] = bits(model, variance, steps)
                yield
    key, n, images = "frechet_distances", SAMPLES, real.rest
    if halves:
        key, n, images = OF_A_HALF, len(real.half), real.other_half
    found = run.setdefault(key, {})
    for sampler in samplers:
        if sampler not in found:
            cpu = time.process_time()
            samples = drawn(model, n, sampler)
            seconds = round(time.process_time() - cpu, 1)
            found[sampler] = {**real.measured(samples, images), "cpu_seconds_of_sampling": seconds}
            yield


def variances_of(name: str) -> tuple[str, ...]:
    """The variances that the network of a run is measured with."""
    if name == "learned":
        return ("learned_range",)
    return ("fixed_small", "fixed_large") if name in ("fixed", "short") else ("fixed_small",)


def chain(variance: str, steps: int | None) -> str:
    """The key of a bound in the file."""
    return variance if steps is None else f"{variance}, {steps} steps"


def differences(runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """bits/dim of "learned" and eager runs less those of "short", of as many steps, image by image."""
    pairs = [("learned", "learned_range", "short", variance) for variance in ("fixed_small", "fixed_large")]
    pairs += [(eager, "fixed_small", short, "fixed_small") for short, eager in PAIRS.items()]
    found = {}
    for name, of_name, short, of_short in pairs:
        for steps in CHAINS:
            a, b = chain(of_name, steps), chain(of_short, steps)
            bounds = (runs.get(run, {}).get("bits_per_dim", {}).get(key) for run, key in ((name, a), (short, b)))
            ours, theirs = (bound and torch.tensor(bound["of_each_image"]).double() for bound in bounds)
            if ours is not None and theirs is not None:
                mean, error = mean_of(ours - theirs)
                found[f"{name} ({a}) - {short} ({b})"] = {"mean": mean, "standard_error": error}
    return found


def save_picture(record: dict[str, Any], folder: Path) -> None:
    """Samples of runs of one seed, each by its best sampler, and the means of the terms L_t."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    runs = {name: run for name, run in record["runs"].items() if name in PICTURED}
    figure = Figure(figsize=(4 * len(runs) + 6, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    *grids, curves = figure.subplots(1, len(runs) + 1, width_ratios=[4] * len(runs) + [6])
    for i, (axes, (name, run)) in enumerate(zip(grids, runs.items(), strict=True)):
        sampler, found = min(run["frechet_distances"].items(), key=lambda item: item[1]["value"])
        images = drawn(opened(name, folder), 100, sampler)[:, 0]  # [100, H, W]
        rows = [torch.cat([*row], dim=1) for row in images.split(10)]
        axes.imshow(torch.cat(rows).numpy(), cmap="gray")
        axes.set(xticks=[], yticks=[], title=f"{name}, {sampler}\nFrechet distance {found['value']:.2f}")
        for variance, style in zip(variances_of(name), ("-", "--"), strict=False):
            terms = run["bits_per_dim"][variance]
            label = f"{name}, {variance}: {terms['bits_per_dim']:.3f}"
            curves.plot(range(len(terms["terms"])), terms["terms"], style, color=f"C{i}", label=label)
    curves.set(xlabel="t", ylabel="L_t, bits/dim", yscale="log", title="Terms of bits/dim, test images")
    curves.grid(alpha=0.3)
    curves.legend()
    path = folder / "ddpm_mnist.png"
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=90))


def show(record: dict[str, Any]) -> None:
    """The figures, as tables."""
    floors = record["floors"]
    rows = [(f"real, {name}", f"{found['n'][0]}", f"{found['value']:.3f}", "") for name, found in floors.items()]
    for (name, run), (key, floor) in product(record["runs"].items(), FLOORS.items()):
        for sampler, found in run.get(key, {}).items():
            of_floor = found["value"] / floors[floor]["value"]
            rows.append((f"{name}, {sampler}", f"{found['n'][0]}", f"{found['value']:.3f}", f"{of_floor:.2f}"))
    print(table(("", "images", "Frechet distance", "x floor"), rows, left=1))
    parts = ("bits_per_dim", "bits_per_dim_standard_error", "L_0", "L_1_to_T-1", "L_T")
    rows = [
        (f"{name}, {key}", *(f"{found[part]:.4g}" for part in parts))
        for name, run in record["runs"].items()
        for key, found in run["bits_per_dim"].items()
    ]
    print(table((f"{IMAGES} test images", "bits/dim", "+-", *parts[2:]), rows, left=1))
    for name, less in record["differences"].items():
        print(f"{name}: {less['mean']:+.4f} +- {less['standard_error']:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), metavar="NAME")
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS), metavar="NAME")
    parser.add_argument("--halves", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ddpm_mnist.json"
    record = json.loads(path.read_text()) if path.exists() else {"settings": settings(), "runs": {}}
    if not are_present(record["settings"]):
        parser.error(f"{path}: has runs with other settings; move it away")
    record |= {"settings": settings(), "machine": machine.machine(), "versions": machine.versions()}
    record["commands"] = commands(record, "ddpm_mnist")
    real = Real()
    record |= {"features": real.extractor.name, "floors": real.floors()}
    for name in arguments.runs:
        training = trained(name, folder)
        run = record["runs"].setdefault(name, {"frechet_distances": {}, "bits_per_dim": {}})
        run["training"] = training
        for _ in measure(name, run, folder, real, arguments.samplers, arguments.halves):
            record["differences"] = differences(record["runs"])
            write_text_atomically(path, json.dumps(record) + "\n")
    save_picture(record, folder)
    show(record)


if __name__ == "__main__":
    main()
