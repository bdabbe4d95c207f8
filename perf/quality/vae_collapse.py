"""Posterior collapse of a VAE in two settings, and what the cures meant for each do, on binarized MNIST.

Deep decoder: the signal of a unit fades in its layers as they are initialized, under the noise of the others, and the
KL switches units off before the decoder uses them. Lagging encoder (He et al. 2019): in the same networks the encoder
learns too slowly to tell the decoder anything (its learning rate is a small part of the decoder's), which learns
without z.

`python -m perf.quality.vae_collapse --out FILE.json --seeds 3` trains the same networks plainly and with each cure, on
three seeds, and writes FILE.json and FILE.png; runs that the file has already, with these settings, are not repeated.
The images are those of MNIST with a threshold at 127.5: a static binarization, but not Larochelle's. Figures are of
q(z|x), the encoder's and, as `refined_...`, the same after SVI on each image, which show what the decoder does with z
where the encoder does not: a lagging one, or IWAE's, whose q is wider than the posterior. A cure that works raises KL
and information. Active units are the encoder's: SVI's noise moves the means of units out of use, too. Gradients are
clipped as the trainer does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dgmkern.data import batch_indices, load
from dgmkern.metrics import active_units, importance_weighted_nll, mutual_information
from dgmkern.models.vae import VAE, Posterior, VAEConfig
from dgmkern.models.vae_inference import svi
from perf import machine
from perf.quality.commands import commands
from perf.quality.means import means
from perf.report import check_writable, table, write_json

IMAGE_SHAPE = (1, 28, 28)
BATCH_SIZE, LR, CLIP_GRAD = 128, 2e-3, 1.0
SVI_STEPS, SVI_LR = 50, 0.1
NLL_IMAGES, NLL_SAMPLES = 500, 50
STEPS = 450
CURVE_EVERY = 50  # steps between points of the KL's curve
FIGURES_OF_Q = ("log_likelihood", "kl", "information", "marginal_kl", "active_units", "nll")
FIGURES = (*FIGURES_OF_Q, *(f"refined_{name}" for name in FIGURES_OF_Q))
SHOWN = {
    "kl": "KL",
    "information": "I(x; z)",
    "active_units": "active units",
    "refined_kl": "KL, refined q",
    "refined_information": "I(x; z), refined q",
    "refined_nll": f"NLL, k = {NLL_SAMPLES}",
}


class Setup(NamedTuple):
    """Networks that collapse, and `cures`: settings that differ from the plain VAE, by name."""

    config: VAEConfig
    cures: dict[str, dict[str, Any]]
    encoder_lr: float = 1.0  # the encoder's learning rate, in LR


def setups(steps: int) -> dict[str, Setup]:
    """Both settings for a training of `steps`, most of which annealing takes."""
    config = VAEConfig(encoder=(100,), decoder=(100,) * 6, activation="silu", latent=50)
    against_depth = {
        "plain": {},
        "linear annealing": {"kl_schedule": "linear", "kl_steps": 6 * steps // 7},
        "cyclical annealing": {"kl_schedule": "cyclical", "kl_steps": steps // 2},
        "free bits": {"free_bits": 0.2},
        "fixed variance": {"posterior_logvar": -3.0},
        "Skip-VAE": {"skip": True},
        "IWAE, k = 5": {"samples": 5},
    }
    against_lag = {
        "plain": {},
        "semi-amortized": {"refinement": "semi_amortized", "refinement_steps": 3, "refinement_size": 0.2},
        "HMC": {"refinement": "hmc", "refinement_steps": 2, "refinement_size": 0.15},
    }
    return {
        "deep decoder": Setup(config, against_depth),
        "lagging encoder": Setup(config, against_lag, encoder_lr=1e-3),
    }


def described(steps: int) -> dict[str, dict[str, Any]]:
    """`setups` as JSON keeps them."""
    return {
        name: {**setup._asdict(), "config": dataclasses.asdict(setup.config)} for name, setup in setups(steps).items()
    }


def binarized(split: str) -> Tensor:
    """Images of -1 and 1."""
    return (load("mnist", split).images > 127).float() * 2 - 1


def figures(model: VAE, x: Tensor, q: Posterior, seed: int) -> dict[str, float]:
    """FIGURES_OF_Q of `q`, nats."""
    with torch.no_grad():
        terms = model.elbo(x, seed=seed, q=q)
        few = Posterior(*(p[:NLL_IMAGES] for p in q))
        log_weights = model.log_weights(x[:NLL_IMAGES], NLL_SAMPLES, seed=seed, q=few)
    rate = mutual_information(*q, seed=seed)
    nll, count = importance_weighted_nll(log_weights).mean().item(), active_units(q.mu).count
    found = (terms.log_likelihood.mean().item(), rate.kl, rate.information, rate.marginal_kl, count, nll)
    return dict(zip(FIGURES_OF_Q, found, strict=True))


def experiment(
    config: VAEConfig, x: Tensor, held_out: Tensor, *, steps: int, seed: int, encoder_lr: float = 1.0
) -> dict[str, Any]:
    """Train on `x`; the figures of `held_out` at the end, and the encoder's KL along the way."""
    torch.manual_seed(seed)
    model, begin = VAE(config, IMAGE_SHAPE), time.process_time()
    groups = {"params": model.encoder.parameters(), "lr": LR * encoder_lr}, {"params": model.decoder.parameters()}
    optimizer = torch.optim.Adam(groups, lr=LR, fused=True)
    curve = []
    for step in range(steps):
        if step % CURVE_EVERY == 0:
            with torch.no_grad():
                curve.append((step, model.elbo(held_out, seed=seed).kl.mean().item()))
        batch = x[torch.from_numpy(batch_indices(len(x), BATCH_SIZE, seed=seed, step=step))]
        optimizer.zero_grad(set_to_none=True)
        model.loss(batch, seed=(seed << 32) + step, step=step).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_GRAD)
        optimizer.step()
    seconds = time.process_time() - begin
    with torch.no_grad():
        q = model.posterior(held_out)
    refined = svi(model, held_out, seed=seed + 1, steps=SVI_STEPS, lr=SVI_LR)  # with other noise than the figures
    return {
        "seed": seed,
        **figures(model, held_out, q, seed),
        **{f"refined_{name}": value for name, value in figures(model, held_out, refined, seed).items()},
        "kl_curve": curve,
        "cpu_seconds": round(seconds, 1),
    }


def plot(results: dict[str, dict[str, dict[str, Any]]], path: Path) -> None:
    """A row for each setting: bars of mean figures with standard deviations over seeds, and the encoder's KL over the
    steps: mean, least and most."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(18, 3.4 * len(results)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(results), len(SHOWN) + 1, width_ratios=(*(1 for _ in SHOWN), 2), squeeze=False)
    for (setup, found), (*bars, curves) in zip(results.items(), grid, strict=True):
        names = list(found)
        colors = [f"C{i}" for i in range(len(names))]
        for axes, (key, title) in zip(bars, SHOWN.items(), strict=True):
            bar = [result["means"] for result in found.values()]
            spread = [mean[f"{key}_std"] or 0.0 for mean in bar]
            axes.barh(names, [mean[key] for mean in bar], xerr=spread, color=colors, ecolor="0.3")
            axes.set(title=title)
            axes.invert_yaxis()
            if axes is not bars[0]:
                axes.set_yticks([])
        bars[0].set(ylabel=setup)
        for (name, result), color in zip(found.items(), colors, strict=True):
            steps = [step for step, _ in result["runs"][0]["kl_curve"]]
            kl = np.array([[value for _, value in run["kl_curve"]] for run in result["runs"]])  # [seeds, points]
            curves.plot(steps, kl.mean(0), color=color, label=name)
            curves.fill_between(steps, kl.min(0), kl.max(0), color=color, alpha=0.2, linewidth=0)
        curves.set_yscale("symlog", linthresh=1)
        curves.set(title="the encoder's KL while training", xlabel="step", ylim=(0, None))
        curves.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def rows(results: dict[str, dict[str, dict[str, Any]]]) -> list[tuple[str, ...]]:
    """A row of the table for each cure: means, with the standard deviation over seeds where there are several."""
    made = []
    for setup, found in results.items():
        for name, result in found.items():
            mean, cells = result["means"], []
            for key in SHOWN:
                spread = mean[f"{key}_std"]
                cells.append(f"{mean[key]:.2f}" + ("" if spread is None else f" +- {spread:.2f}"))
            made.append((setup, name, *cells, str(mean["seeds"])))
    return made


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file; the plot lies beside it")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=1, help="how many: 0, 1, ...")
    parser.add_argument("--held-out", type=int, default=1000, help="test images for KL, information and active units")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    check_writable(options.out)
    torch.set_num_threads(options.threads)
    setting = {
        "data": "mnist, threshold 127.5",
        "setups": described(options.steps),
        "optimizer": f"Adam, lr {LR}, batch {BATCH_SIZE}, gradient norm <= {CLIP_GRAD}",
        "svi": f"{SVI_STEPS} steps of Adam, lr {SVI_LR}",
        "nll": f"{NLL_SAMPLES} importance samples, {min(NLL_IMAGES, options.held_out)} test images",
        "steps": options.steps,
        "held_out": options.held_out,
        "threads": options.threads,
    }
    document = {"machine": machine.machine(), "versions": machine.versions(), "setting": setting, "results": {}}
    if options.out.exists():
        recorded = json.loads(options.out.read_text())
        if recorded["setting"] != json.loads(json.dumps(setting)):
            parser.error(f"--out: {options.out} has runs with other settings; move it away")
        document = recorded
    document["commands"] = commands(document, "vae_collapse", argv)
    x, held_out = binarized("train"), binarized("test")
    held_out = held_out[torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))[: options.held_out]]
    results = document["results"]
    for seed in range(options.seeds):
        for setup, (config, cures, encoder_lr) in setups(options.steps).items():
            how = {"steps": options.steps, "seed": seed, "encoder_lr": encoder_lr}
            for name, changed in cures.items():
                found = results.setdefault(setup, {}).setdefault(name, {"means": {}, "runs": []})
                if any(run["seed"] == seed for run in found["runs"]):
                    continue
                found["runs"].append(experiment(dataclasses.replace(config, **changed), x, held_out, **how))
                found["means"] = means(found["runs"], FIGURES)
                write_json(options.out, document)  # after each: an interrupted run keeps what it has
                print(f"seed {seed}, {setup}, {name}: {found['runs'][-1]['cpu_seconds']} s of CPU", flush=True)
    plot(results, options.out.with_suffix(".png"))
    headers = ("setting", "cure", *SHOWN.values(), "seeds")
    print(table(headers, rows(results), left=2))


if __name__ == "__main__":
    main()
