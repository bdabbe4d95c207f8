"""Posterior collapse of a VAE with a deep decoder, and what each cure does to it, on binarized MNIST.

A signal of z fades in seven layers as they are initialized, and the KL switches units off before the decoder uses them.

`python -m perf.quality.vae_collapse --out FILE.json --seeds 3` trains the same networks plainly and with each cure, on
three seeds, and writes FILE.json and FILE.png; runs that the file has already, with these settings, are not repeated.
The images are those of MNIST with a threshold at 127.5: a static binarization, but not Larochelle's. KL, information
and active units are of the encoder; a cure that works raises them. Gradients are clipped as the trainer does:
semi-amortized training gives NaN in this network without.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgmkern.data import batch_indices, load
from dgmkern.metrics import active_units, mutual_information
from dgmkern.models.vae import VAE, VAEConfig
from perf import machine
from perf.quality.means import means
from perf.report import check_writable, table, write_json

COLLAPSING = VAEConfig(encoder=(200,), decoder=(200,) * 7, activation="silu", latent=20)
IMAGE_SHAPE = (1, 28, 28)
BATCH_SIZE, LR, CLIP_GRAD = 128, 1e-3, 1.0
NLL_IMAGES, NLL_SAMPLES = 500, 50
CURVE_EVERY = 50  # steps between points of the KL's curve
FIGURES = ("log_likelihood", "kl", "information", "marginal_kl", "active_units", "nll")


def cures(steps: int) -> dict[str, dict[str, Any]]:
    """Settings that differ from the plain VAE, by the name of the cure; annealing takes most of `steps`."""
    return {
        "plain": {},
        "linear annealing": {"kl_schedule": "linear", "kl_steps": 2 * steps // 3},
        "cyclical annealing": {"kl_schedule": "cyclical", "kl_steps": steps // 2},
        "free bits": {"free_bits": 0.5},
        "fixed variance": {"posterior_logvar": -3.0},
        "Skip-VAE": {"skip": True},
        "IWAE, k = 5": {"samples": 5},
        "semi-amortized": {"refinement": "semi_amortized", "refinement_steps": 2, "refinement_size": 0.02},
        "HMC": {"refinement": "hmc", "refinement_steps": 1, "refinement_size": 0.1},
    }


def binarized(split: str) -> Tensor:
    """Images of -1 and 1."""
    return (load("mnist", split).images > 127).float() * 2 - 1


def experiment(config: VAEConfig, x: Tensor, held_out: Tensor, *, steps: int, seed: int) -> dict[str, Any]:
    """Train on `x`; the figures of `held_out` at the end, and the KL along the way."""
    torch.manual_seed(seed)
    model, begin = VAE(config, IMAGE_SHAPE), time.process_time()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)
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
        q, terms = model.posterior(held_out), model.elbo(held_out, seed=seed)
    rate = mutual_information(*q, seed=seed)
    return {
        "seed": seed,
        "log_likelihood": terms.log_likelihood.mean().item(),
        "kl": rate.kl,
        "information": rate.information,
        "marginal_kl": rate.marginal_kl,
        "active_units": active_units(q.mu).count,
        "nll": model.nll(held_out[:NLL_IMAGES], NLL_SAMPLES, seed=seed).mean().item(),
        "kl_curve": curve,
        "cpu_seconds": round(seconds, 1),
    }


def plot(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Bars of the mean figures with their standard deviations over seeds, and the KL's curves: mean, least and most."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4), layout="constrained")
    FigureCanvasAgg(figure)
    *bars, curves = figure.subplots(1, 5, width_ratios=(1, 1, 1, 1, 1.8))
    names = list(results)
    colors = [f"C{i}" for i in range(len(names))]
    titles = {"kl": "KL, nats", "information": "I(x; z), nats", "active_units": "active units", "nll": "NLL, nats"}
    for axes, (key, title) in zip(bars, titles.items(), strict=True):
        found = [result["means"] for result in results.values()]
        spread = [mean[f"{key}_std"] or 0.0 for mean in found]
        axes.barh(names, [mean[key] for mean in found], xerr=spread, color=colors, ecolor="0.3")
        axes.set(title=title)
        axes.invert_yaxis()
        if axes is not bars[0]:
            axes.set_yticks([])
    for (name, result), color in zip(results.items(), colors, strict=True):
        steps = [step for step, _ in result["runs"][0]["kl_curve"]]
        kl = np.array([[value for _, value in run["kl_curve"]] for run in result["runs"]])  # [seeds, points]
        curves.plot(steps, kl.mean(0), color=color, label=name)
        curves.fill_between(steps, kl.min(0), kl.max(0), color=color, alpha=0.2, linewidth=0)
    curves.set(title="KL while training, held-out images", xlabel="step", yscale="symlog")
    curves.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def rows(results: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """A row of the table for each cure: means, with the standard deviation over seeds where there are several."""
    made = []
    for name, result in results.items():
        mean, cells = result["means"], []
        for key in ("log_likelihood", "kl", "information", "nll", "active_units"):
            spread = mean[f"{key}_std"]
            cells.append(f"{mean[key]:.2f}" + ("" if spread is None else f" +- {spread:.2f}"))
        made.append((name, *cells, str(mean["seeds"])))
    return made


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file; the plot lies beside it")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=1, help="how many: 0, 1, ...")
    parser.add_argument("--held-out", type=int, default=2000, help="test images for KL, information and active units")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    check_writable(options.out)
    torch.set_num_threads(options.threads)
    setting = {
        "data": "mnist, threshold 127.5",
        "config": dataclasses.asdict(COLLAPSING),
        "cures": cures(options.steps),
        "optimizer": f"Adam, lr {LR}, batch {BATCH_SIZE}, gradient norm <= {CLIP_GRAD}",
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
    x, held_out = binarized("train"), binarized("test")
    held_out = held_out[torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))[: options.held_out]]
    results = document["results"]
    for seed in range(options.seeds):
        for name, changed in cures(options.steps).items():
            runs = results.setdefault(name, {"means": {}, "runs": []})["runs"]
            if any(run["seed"] == seed for run in runs):
                continue
            config = dataclasses.replace(COLLAPSING, **changed)
            runs.append(experiment(config, x, held_out, steps=options.steps, seed=seed))
            results[name]["means"] = means(runs, FIGURES)
            write_json(options.out, document)  # after each: an interrupted run keeps what it has
            plot(results, options.out.with_suffix(".png"))
            print(f"seed {seed}, {name}: {runs[-1]['cpu_seconds']} s of CPU", flush=True)
    headers = ("cure", "log p(x|z)", "KL", "I(x; z)", f"NLL, k = {NLL_SAMPLES}", "active units", "seeds")
    print(table(headers, rows(results), left=1))


if __name__ == "__main__":
    main()
