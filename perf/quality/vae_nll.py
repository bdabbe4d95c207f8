"""Likelihood of a VAE and of an IWAE on binarized MNIST, in Larochelle's fixed draw of the pixels.

    python -m perf.quality.vae_nll vae|iwae FOLDER [--samples 500] [--runs runs]

trains the runs of `CHAINS`, each in a folder of its own in `--runs`, where a later call goes on bit for bit, and writes
FOLDER/vae_nll-<name>.json: figures of the test split for the averaged weights of the checkpoint with the best bound on
images of "valid". Weights are trained on "train" alone.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from dgmkern.data import ImageDataset, load, to_signed
from dgmkern.evaluation import evaluate_likelihood
from dgmkern.memory import keep_freed_memory
from dgmkern.models.vae import VAE
from dgmkern.train import RunConfig, RunFolder, Trainer, load_model, preset
from dgmkern.train.atomic import write_text_atomically
from dgmkern.train.checkpoint import checkpoint_paths, load_checkpoint
from dgmkern.train.trainer import load_weights
from perf import machine
from perf.quality import sessions
from perf.quality.commands import commands

DATA, IMAGE_SHAPE = "binarized-mnist", (1, 28, 28)
VALIDATION_IMAGES, TEST_IMAGES = 1000, 10000
EVALUATION_SEED = 1 << 40

_MODEL, _TRAIN = preset("vae", DATA)
_TRAIN = replace(_TRAIN, precision="bf16", keep_last=1000)  # every checkpoint: the curve is made of them
RUNS = {
    "vae": RunConfig("vae", _MODEL, DATA, IMAGE_SHAPE, _TRAIN),
    "iwae": RunConfig(
        "vae",
        replace(_MODEL, samples=50),
        DATA,
        IMAGE_SHAPE,
        replace(_TRAIN, steps=1000, batch_size=20, lr=5e-4, checkpoint_every=250),
    ),
}
# Runs in order, each from the best weights of the one before: 50 samples of an image cost almost 50 times the decoder.
CHAINS = {"vae": ("vae",), "iwae": ("vae", "iwae")}


def trained(config: RunConfig, run: RunFolder, start: VAE | None, dataset: ImageDataset) -> list[dict]:
    """Train in `run` from the weights of `start` (None: fresh ones), or go on there; CPU seconds of each session."""
    trainer = Trainer(config, dataset)
    if start is not None:
        for model in (trainer.model, trainer.ema.module):
            load_weights(model, start.state_dict())
    return sessions.train(trainer, run)


def best(run: RunFolder, held_out: ImageDataset) -> tuple[VAE, list[dict]]:
    """The averaged model of the checkpoint with the best bound on `held_out`, and the bound of every checkpoint.

    The bound is that of training, in nats: of one sample the ELBO, of k the importance-weighted one.
    """
    order = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(EVALUATION_SEED))
    x = to_signed(held_out.images[order[:VALIDATION_IMAGES]])
    curve, models = [], {}
    for path in checkpoint_paths(run.checkpoints):
        checkpoint = load_checkpoint(path)
        model = load_model(checkpoint).to(memory_format=torch.channels_last)
        nll = model.nll(x, model.config.samples, seed=EVALUATION_SEED).mean().item()
        curve.append({"step": checkpoint.step, "bound": -nll})
        models[-nll] = model
    return models[max(models)], curve


def measured(name: str, samples: int, runs: Path) -> dict:
    """Train the chain of `name` in folders of `runs`; figures of the test split, and what they follow from."""
    train, held_out, test = (load(DATA, split) for split in ("train", "valid", "test"))
    model, stages = None, {}
    for stage in CHAINS[name]:
        run = RunFolder(runs / f"vae_nll-{stage}")
        taken = trained(RUNS[stage], run, model, train)
        model, curve = best(run, held_out)
        stages[stage] = {"config": json.loads(RUNS[stage].to_json()), "sessions": taken, "validation": curve}
    cpu = time.process_time()
    figures = evaluate_likelihood(model, test, TEST_IMAGES, samples=samples, seed=EVALUATION_SEED)
    return {
        "stages": stages,
        "training_cpu_seconds": sessions.cpu_seconds([s for stage in stages.values() for s in stage["sessions"]]),
        "protocol": {
            "data": "binarized-mnist (Larochelle's), 50000 train, 10000 valid, 10000 test",
            "validation_images": VALIDATION_IMAGES,
            "test_images": TEST_IMAGES,
            "importance_samples": samples,
            "evaluation_seed": EVALUATION_SEED,
            "evaluation_precision": "fp32",
        },
        "evaluation_cpu_seconds": round(time.process_time() - cpu, 1),
        "test": figures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=CHAINS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=500, help="importance samples of a test image")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the runs' folders are")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # decoding takes 1.7 times as long with every block faulted in anew
    name, folder, samples = arguments.name, arguments.folder, arguments.samples
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "commands": commands({}, "vae_nll"),
        "machine": machine.machine(),
        "versions": machine.versions(),
        "threads": 1,
        **measured(name, samples, arguments.runs),
    }
    path = folder / f"vae_nll-{name}.json"
    write_text_atomically(path, json.dumps(record, indent=1) + "\n")
    test = record["test"]
    print(f"-log p(x) {test['nll']:.2f} +- {test['nll_standard_error']:.2f} nats, ELBO {test['elbo']:.2f}: {path}")


if __name__ == "__main__":
    main()
