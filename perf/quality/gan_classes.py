"""Mode collapse on MNIST: which GANs draw all ten classes, and how near to the data.

    python -m perf.quality.gan_classes FOLDER [--seeds 1] [--variants nonsaturating packed-2 ...]

writes FOLDER/gan_classes.json and .png; runs that the file has already, with these settings, are not repeated.
Batches and optimizer are the same for all variants. The data set's classifier (`dgmkern.features`) tells the classes of
10000 samples of the averaged generator; distances are in its features, from the training images. "test_images" are the
figures of test images: what a perfect generator would have.
"""

import argparse
import base64
import io
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dgmkern.data import ImageDataset, load
from dgmkern.features import ClassifierFeatures, Side, read_side, trained_classifier
from dgmkern.metrics import class_coverage, frechet_distance, inception_score
from dgmkern.models.gan import GANConfig
from dgmkern.train import RunConfig, TrainConfig, Trainer, draw_images
from dgmkern.train.atomic import write_atomically
from perf.quality import gan_runs
from perf.quality.means import means
from perf.report import table

DATA = "mnist"
SAMPLES = 10000
SAMPLE_SEED = 1 << 62
SHOWN = 20
FIGURES = ("classes", "rarest_class", "reverse_kl", "frechet_distance", "inception_score")

BASE = GANConfig(latent=64, hidden=256, layers=2)
FLAT = replace(BASE, gradient_penalty=1.0, penalty_target=0.0)
VARIANTS = {
    "minmax": replace(BASE, kind="minmax"),
    "nonsaturating": BASE,
    "least_squares": replace(BASE, kind="least_squares"),
    "wgan-gp": replace(BASE, kind="wasserstein", gradient_penalty=10.0, discriminator_steps=3),
    "hinge, spectral norm": replace(BASE, kind="hinge", spectral_norm=True),
    "packed-2": replace(BASE, packing=2),
    "flat": FLAT,
    "flat, conv": replace(FLAT, network="conv", channels=16, multipliers=(1, 2, 4)),
}
TRAIN = TrainConfig(
    steps=8000, batch_size=64, lr=1e-3, betas=(0.5, 0.99), warmup=0, ema_decay=0.999, channels_last=True
)


@dataclass(frozen=True)
class Reference:
    """The data that samples are held against: training images, their features, and the classifier that makes them."""

    dataset: ImageDataset
    extractor: ClassifierFeatures
    real: Side

    @classmethod
    def of(cls, data: str) -> "Reference":
        dataset, extractor = load(data), trained_classifier(data)
        return cls(dataset, extractor, read_side(f"{data}:train", dataset, extractor))

    def figures(self, images: Tensor) -> dict[str, Any]:
        """Of images uint8 [N, C, H, W]: classes with a sample, the part of the rarest, their reverse KL from the data's
        (nats), Frechet distance, inception score in one split; `counts` of the classes."""
        labels = torch.zeros(len(images), dtype=torch.int64)
        drawn = ImageDataset(self.dataset.name, "samples", images, labels, self.dataset.classes)
        generated = read_side("samples", drawn, self.extractor, keep=True, progress=False)
        with torch.no_grad():
            logits = self.extractor.model.classes(generated.features)
        classes, seen = len(self.dataset.classes), logits.argmax(1)
        coverage = class_coverage(seen, self.dataset.labels, classes=classes)
        counts = torch.bincount(seen, minlength=classes)
        return {
            "classes": coverage.modes,
            "rarest_class": counts.min().item() / len(images),
            "reverse_kl": coverage.reverse_kl,
            "frechet_distance": frechet_distance(self.real.stats, generated.stats).value,
            "inception_score": inception_score(logits, splits=1).mean,
            "counts": counts.tolist(),
        }


def trained(dataset: ImageDataset, config: GANConfig, train: TrainConfig, seed: int) -> torch.nn.Module:
    """The averaged model of one run."""
    run = RunConfig("gan", config, dataset.name, dataset.image_shape, replace(train, seed=seed))
    trainer = Trainer(run, dataset)
    for _ in range(train.steps):
        trainer.train_step()
    return trainer.ema.module


def measured(reference: Reference, config: GANConfig, train: TrainConfig, seed: int) -> dict[str, Any]:
    """Train once; the figures of the samples, CPU time, and (for the picture) the first samples in a row."""
    start, cpu = time.perf_counter(), time.process_time()
    model = trained(reference.dataset, config, train, seed)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    images = draw_images(model, SAMPLES, seed=SAMPLE_SEED, progress=False)
    return {
        "seed": seed,
        **reference.figures(images),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "samples": row_of(images[:SHOWN]),
    }


def row_of(images: Tensor) -> str:
    """Grey images uint8 [N, 1, H, W] side by side: a PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(torch.cat(list(images[:, 0]), dim=1).numpy()).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def save_picture(runs: gan_runs.Runs, path: Path) -> None:
    """A row of samples of the first run of each variant, above it the figures of that run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.8 * len(runs)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, (run, *_)) in zip(figure.subplots(len(runs), 1, squeeze=False)[:, 0], runs.items(), strict=True):
        row = np.asarray(Image.open(io.BytesIO(base64.b64decode(run["samples"]))))
        axes.imshow(row, cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        classes = f"{run['classes']} classes, rarest {run['rarest_class']:.1%}, reverse KL {run['reverse_kl']:.2g}"
        distance = f"Frechet distance {run['frechet_distance']:.3g}, inception score {run['inception_score']:.3g}"
        axes.set_title(f"{name}: {classes}, {distance}", fontsize=8, loc="left", pad=2)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))


def cells(name: str, seeds: str, found: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    return (name, seeds, *(f"{found[figure]:.3g}" for figure in FIGURES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = arguments.folder / "gan_classes.json"
    reference = Reference.of(DATA)
    test_images = reference.figures(load(DATA, "test").images)
    runs = gan_runs.complete(
        path,
        partial(measured, reference),
        train=TRAIN,
        variants=VARIANTS,
        chosen=arguments.variants,
        seeds=arguments.seeds,
        figures=FIGURES,
        script="gan_classes",
        about={"features": reference.extractor.name, "test_images": test_images},
    )
    save_picture(runs, path.with_suffix(".png"))
    rows = [cells(name, str(len(found)), means(found, FIGURES)) for name, found in runs.items()]
    print(table(("", "seeds", *FIGURES), [cells("test images", "", test_images), *rows], left=1))


if __name__ == "__main__":
    main()
