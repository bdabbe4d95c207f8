"""Posterior collapse of a VAE with a deep decoder, and what each cure does to it, on binarized MNIST.

A signal of z fades in seven layers as they are initialized, and the KL switches units off before the decoder uses them.

`python -m perf.quality.vae_collapse --out FILE.json` trains the same networks once plainly and once with each cure, and
writes FILE.json and FILE.png. The images are those of MNIST with a threshold at 127.5: a static binarization, but not
Larochelle's. KL, information and active units are of the encoder; a cure that works raises them.
Gradients are clipped as the trainer does: semi-amortized training gives NaN in this network without.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgmkern.data import batch_indices, load
from dgmkern.metrics import active_units, mutual_information
from dgmkern.models.vae import VAE, VAEConfig
from perf import machine
from perf.report import check_writable, table, write_json

COLLAPSING = VAEConfig(encoder=(200,), decoder=(200,) * 7, activation="silu", latent=20)
IMAGE_SHAPE = (1, 28, 28)
BATCH_SIZE, LR, CLIP_GRAD = 128, 1e-3, 1.0
NLL_IMAGES, NLL_SAMPLES = 500, 50
CURVE_EVERY = 50  # steps between points of the KL's curve


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
    model, begin = VAE(config, IMAGE_SHAPE), time.perf_counter()
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
    seconds = time.perf_counter() - begin
    with torch.no_grad():
        q, terms = model.posterior(held_out), model.elbo(held_out, seed=seed)
    rate = mutual_information(*q, seed=seed)
    return {
        "log_likelihood": terms.log_likelihood.mean().item(),
        "kl": rate.kl,
        "information": rate.information,
        "marginal_kl": rate.marginal_kl,
        "active_units": active_units(q.mu).count,
        "nll": model.nll(held_out[:NLL_IMAGES], NLL_SAMPLES, seed=seed).mean().item(),
        "kl_curve": curve,
        "seconds": round(seconds, 1),
    }


def plot(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Bars of the final figures, and the KL's curves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4), layout="constrained")
    FigureCanvasAgg(figure)
    *bars, curves = figure.subplots(1, 5, width_ratios=(1, 1, 1, 1, 1.8))
    names = list(results)
    colors = [f"C{i}" for i in range(len(names))]
    titles = {"kl": "KL, nats", "information": "I(x; z), nats", "active_units": "active units", "nll": "NLL, nats"}
    for axes, (key, title) in zip(bars, titles.items(), strict=True):
        axes.barh(names, [result[key] for result in results.values()], color=colors)
        axes.set(title=title)
        axes.invert_yaxis()
        if axes is not bars[0]:
            axes.set_yticks([])
    for (name, result), color in zip(results.items(), colors, strict=True):
        curves.plot(*zip(*result["kl_curve"], strict=True), color=color, label=name)
    curves.set(title="KL while training, held-out images", xlabel="step", yscale="symlog")
    curves.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file; the plot lies beside it")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", type=int, default=2000, help="test images for KL, information and active units")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    check_writable(options.out)
    torch.set_num_threads(options.threads)
    x, held_out = binarized("train"), binarized("test")
    held_out = held_out[torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))[: options.held_out]]
    setting = {
        "data": "mnist, threshold 127.5",
        "config": dataclasses.asdict(COLLAPSING),
        "optimizer": f"Adam, lr {LR}, batch {BATCH_SIZE}, gradient norm <= {CLIP_GRAD}",
        "nll": f"{NLL_SAMPLES} importance samples, {min(NLL_IMAGES, options.held_out)} test images",
        **{key: value for key, value in vars(options).items() if key != "out"},
    }
    document = {"machine": machine.machine(), "versions": machine.versions(), "setting": setting, "results": {}}
    rows = []
    for name, changed in cures(options.steps).items():
        config = dataclasses.replace(COLLAPSING, **changed)
        result = experiment(config, x, held_out, steps=options.steps, seed=options.seed)
        document["results"][name] = {**result, "setting": changed}
        write_json(options.out, document)  # after each: an interrupted run keeps what it has
        plot(document["results"], options.out.with_suffix(".png"))
        figures = (f"{result[key]:.2f}" for key in ("log_likelihood", "kl", "information", "nll"))
        rows.append((name, *figures, str(result["active_units"])))
        print(f"{name}: {result['seconds']} s", flush=True)
    headers = ("cure", "log p(x|z)", "KL", "I(x; z)", f"NLL, k = {NLL_SAMPLES}", "active units")
    print(table(headers, rows, left=1))


if __name__ == "__main__":
    main()
