"""Mode collapse: which GANs find all modes of PacGAN's ring of 8 and grid of 25 (Lin et al. 2018, section 4.1).

    python -m perf.quality.gan_modes ring FOLDER [--seeds 10] [--variants flat packed-2 ...]

writes FOLDER/gan_modes_ring.json and .png; runs that the file has already, with these settings, are not repeated.
Networks, batches and optimizer are the same for all variants; 2500 samples of the averaged generator are counted.
"""

import argparse
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dgmkern import normal
from dgmkern.metrics import ModeCoverage
from dgmkern.models.gan import GAN, GANConfig
from dgmkern.train import TrainConfig, learning_rate
from dgmkern.train.atomic import write_atomically
from dgmkern.train.ema import AveragedWeights
from dgmkern.train.seeds import step_seed
from perf.quality import gan_runs
from perf.quality.means import means

# Data are trained on divided by the second number: neighbours of the ring are then 3 apart, those of the grid 2.
PROBLEMS = {"ring": (ModeCoverage.ring, 0.25), "grid": (ModeCoverage.grid, 1.0)}
SAMPLES = 2500
SAMPLE_SEED = 1 << 62
FIGURES = ("modes", "high_quality")

BASE = GANConfig(latent=2, hidden=128, layers=3, output="linear")
VARIANTS = {
    "minmax": replace(BASE, kind="minmax"),
    "nonsaturating": BASE,
    "least_squares": replace(BASE, kind="least_squares"),
    "wgan-gp": replace(BASE, kind="wasserstein", gradient_penalty=0.1, discriminator_steps=3),
    "hinge, spectral norm": replace(BASE, kind="hinge", spectral_norm=True),
    "packed-2": replace(BASE, packing=2),
    "packed-4": replace(BASE, packing=4),
    "flat": replace(BASE, gradient_penalty=0.1, penalty_target=0.0),
}
TRAIN = TrainConfig(steps=10000, batch_size=256, lr=2e-3, betas=(0.0, 0.9), warmup=0, ema_decay=0.995, clip_grad=1e9)


def mixture(coverage: ModeCoverage, n: int, seed: int) -> Tensor:
    """`n` true samples [n, 2], every mode equally likely."""
    modes = torch.randint(coverage.centres.shape[0], (n,), generator=torch.Generator().manual_seed(seed))
    return coverage.centres.float()[modes] + coverage.std * normal((n, 2), seed)


def trained(problem: str, config: GANConfig, train: TrainConfig, seed: int) -> GAN:
    """The averaged model of one run; batches are fresh samples of the mixture."""
    make, scale = PROBLEMS[problem]
    coverage = make()
    torch.manual_seed(seed)
    model = GAN(config, (2, 1, 1))
    ema = AveragedWeights(model, train.ema_decay)
    optimizers = {
        phase.module: torch.optim.AdamW(phase.module.parameters(), betas=train.betas, weight_decay=0.0, fused=True)
        for phase in model.phases(0)
    }
    for step in range(train.steps):
        for i, phase in enumerate(model.phases(step)):
            batch_seed = step_seed(seed, step, i)
            # another stream than that of z
            x = mixture(coverage, train.batch_size, batch_seed ^ 1) / scale
            loss = phase.loss(x.view(-1, 2, 1, 1), seed=batch_seed, step=step)
            optimizer = optimizers[phase.module]
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(train, step)
            optimizer.step()
            if phase.after is not None:
                phase.after()
        ema.update()
    return ema.module.eval()


def measured(problem: str, config: GANConfig, train: TrainConfig, seed: int) -> dict:
    """Train once; modes, fraction of high quality, and (for the picture) the first 500 samples."""
    start, cpu = time.perf_counter(), time.process_time()
    make, scale = PROBLEMS[problem]
    samples = trained(problem, config, train, seed).sample(SAMPLES, seed=SAMPLE_SEED).flatten(1) * scale
    coverage = make()
    coverage.update(generated=samples)
    result = coverage.compute()
    return {
        "seed": seed,
        "modes": result.modes,
        "high_quality": result.high_quality,
        "counts": result.counts.tolist(),
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "samples": [[round(v, 3) for v in point] for point in samples[:500].tolist()] if seed == 0 else [],
    }


def save_picture(problem: str, runs: gan_runs.Runs, path: Path) -> None:
    """Samples of the run of seed 0 of each variant, in its title modes and high quality of that run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first = {name: run for name, found in runs.items() for run in found if run["seed"] == 0}
    figure = Figure(figsize=(3 * len(first), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    centres = PROBLEMS[problem][0]().centres
    reach = 1.25 * centres.abs().max().item()
    for axes, (name, run) in zip(figure.subplots(1, len(first), squeeze=False)[0], first.items(), strict=True):
        axes.scatter(*centres.T.tolist(), s=60, facecolors="none", edgecolors="tab:orange")
        axes.scatter(*zip(*run["samples"], strict=True), s=3, alpha=0.5, linewidths=0)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
        axes.set_title(f"{name}\n{run['modes']} of {len(centres)}, {run['high_quality']:.0%}")
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=100))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = arguments.folder / f"gan_modes_{arguments.problem}.json"
    runs = gan_runs.complete(
        path,
        partial(measured, arguments.problem),
        train=TRAIN,
        variants=VARIANTS,
        chosen=arguments.variants,
        seeds=arguments.seeds,
        figures=FIGURES,
        script="gan_modes",
    )
    if any(run["seed"] == 0 for found in runs.values() for run in found):
        save_picture(arguments.problem, runs, path.with_suffix(".png"))
    for name, found in runs.items():
        row = means(found, FIGURES)
        print(f"{name:22} {row['seeds']:3} seeds  modes {row['modes']:5.1f}  high quality {row['high_quality']:6.1%}")


if __name__ == "__main__":
    main()
