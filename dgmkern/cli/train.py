"""`dgmkern train`."""

import argparse
import os
import shlex
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from .parsing import UsageError, fail, parse

MODELS = ("vae", "gan", "ddpm")
SAMPLES = 100  # images of the grid that ends a training run

ModelConfig = TypeVar("ModelConfig")
TrainingConfig = TypeVar("TrainingConfig")


@dataclass(frozen=True)
class Train:
    """Train a model on real data. `dgmkern train MODEL --help` lists its options."""

    model: tyro.conf.Positional[Literal["vae", "gan", "ddpm"]]
    """The model."""


@dataclass(frozen=True)
class TrainOptions(Generic[ModelConfig, TrainingConfig]):
    """Train a model; writes checkpoints, log.jsonl, loss.png and samples.png into a run folder.

    Ctrl-C finishes the step at hand and saves; --resume goes on from there, with the settings of the run. Under
    torchrun every process trains on its share of each batch: torchrun --nproc-per-node 2 -m dgmkern train MODEL.
    """

    data: Literal["digits", "mnist", "fashion-mnist", "binarized-mnist", "cifar10", "cifar10-subset"] | Path
    """Data set, or a folder of pictures. digits comes with scikit-learn; the others are read from the folder in the
    environment variable DGMKERN_DATA or downloaded. A tenth of a folder is held out; where all of its pictures lie in
    subfolders, those are the classes."""
    image_size: int | None
    """Height and width of the pictures of a folder: of each the middle square is resized to it."""
    out: Path
    """Folder of the run."""
    resume: bool
    """Go on with the run in that folder."""
    overwrite: bool
    """Throw away the run in that folder and start anew."""
    train: Annotated[TrainingConfig, tyro.conf.arg(name="")]
    model: ModelConfig


def run(model: str, argv: list[str]) -> int:
    from ..data import NAMES as DATA_NAMES
    from ..train import RunConfig, RunFolder, TrainConfig, preset, process_group, require_tensorboard
    from ..train.progress import progress_bar

    # Which defaults hold depends on these three, so they are looked up before the full parse.
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--data", default="digits")
    early.add_argument("--out", type=Path)
    early.add_argument("--resume", action="store_true")
    try:
        known, _ = early.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UsageError(str(error).removeprefix("argument ")) from None

    data, checkpoint = known.data, None
    model_config, train_config = preset(model, data)
    out = known.out or Path("runs", f"{model}-{Path(data).absolute().name}")
    if known.resume:
        checkpoint = RunFolder(out).latest()
        stored = checkpoint.config
        if stored.model != model:
            raise ValueError(f"{out}: a run of {stored.model}, not of {model}")
        model_config, train_config, data = stored.model_config, stored.train, stored.data
    data = data if data in DATA_NAMES else Path(data)
    options = parse(
        TrainOptions[type(model_config), TrainConfig],
        default=TrainOptions(data, None, out, False, False, train_config, model_config),
        prog=f"dgmkern train {model}",
        args=argv,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if options.resume and options.overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    if options.train.tensorboard:
        require_tensorboard()
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts
    progress = partial(progress_bar, desc="reading pictures", unit="img", disable=not first)
    dataset = _load(options, None if checkpoint is None else checkpoint.config, progress)
    config = RunConfig(model, options.model, dataset.name, dataset.image_shape, options.train, dataset.fingerprint)
    with process_group():
        return _train(config, dataset, RunFolder(options.out), checkpoint, overwrite=options.overwrite)


def _load(options: TrainOptions, stored: Any, progress: Any) -> Any:
    """The images to train on. Raises ValueError where options do not go with them, or with the run to resume."""
    from ..data import NAMES, load
    from ..data.pictures import load_pictures

    folder = options.data.absolute() if isinstance(options.data, Path) else None
    if stored is not None:
        if (folder is None) != (stored.fingerprint is None) or (folder is None and options.data != stored.data):
            raise ValueError(f"--data: got {options.data}, but the run to resume is on {stored.data}")
        if options.image_size not in (None, stored.image_shape[1]):
            raise ValueError(
                f"--image-size: got {options.image_size}, but the run to resume has {stored.image_shape[1]}"
            )
        return stored.load(folder=folder, progress=progress)
    if folder is None:
        if options.image_size is not None:
            raise UsageError(f"--image-size: is for folders of pictures, got it for {options.data}")
        return load(options.data)
    if not folder.is_dir():
        raise UsageError(f"--data: got {options.data}, want one of {', '.join(NAMES)}, or a folder of pictures")
    if options.out.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"--out: got {options.out} inside of --data, whose pictures it would join; want it elsewhere")
    if options.image_size is None:
        raise UsageError(f"--image-size: want the height and width for the pictures of {options.data}")
    return load_pictures(folder, size=options.image_size, progress=progress)


def _train(config: Any, dataset: Any, folder: Any, checkpoint: Any, *, overwrite: bool) -> int:
    """The run on every rank; rank 0 alone touches its folder and says what happens."""
    from ..train import NonFiniteLossError, Trainer

    trainer = Trainer(config, dataset)
    ranks = trainer.ranks
    if checkpoint is not None:
        trainer.restore(checkpoint)
        ranks.on_first(lambda: folder.write_config(config))
        if config != checkpoint.config:
            trainer.save(folder)  # --resume goes by the newest checkpoint
    else:
        ranks.on_first(lambda: folder.create(config, overwrite=overwrite))
    command = ["dgmkern"] if ranks.ranks == 1 else f"torchrun --nproc-per-node {ranks.ranks} -m dgmkern".split()
    again = shlex.join([*command, "train", config.model, "--out", str(folder.path), "--resume"])
    begin = f"{folder.path}: {config.model} on {config.data}, step {trainer.step} of {config.train.steps}"
    if ranks.ranks > 1:
        begin += f", {ranks.ranks} ranks"
    if dataset.fingerprint is not None:
        begin += f", {len(dataset)} pictures of {len(dataset.classes)} classes"
    ranks.on_first(lambda: print(begin, file=sys.stderr))
    try:
        stopped = trainer.fit(folder)
    except NonFiniteLossError as error:
        message = f"{error}; reproduce it with: {again}"
        ranks.on_first(lambda: fail(message))
        return 2
    # the others wait: torchrun kills all when one ends with a status other than 0
    ranks.on_first(lambda: _finish(trainer, folder, stopped, again))
    return 0 if stopped is None else 128 + stopped


def _finish(trainer: Any, run: Any, stopped: int | None, again: str) -> None:
    """The pictures of a run: the loss curve always, samples when the training is complete."""
    from ..train import draw_images, losses_of, read_log, save_image_grid, save_loss_curve

    config = trainer.config
    records = read_log(run.log)
    if records:
        save_loss_curve([r["step"] for r in records], losses_of(records), run.loss_curve, title=config.title)
        seconds = sum(r["seconds"] for r in records)
        rate = len(records) * config.train.batch_size / seconds
        print(f"{len(records)} steps in {seconds:.0f} s, {rate:.0f} images/s", file=sys.stderr)
        print(run.loss_curve)
    if trainer.step >= config.train.steps:
        images = draw_images(trainer.ema.module, SAMPLES, seed=config.train.seed, precision=config.train.precision)
        save_image_grid(images, run.samples)
        print(run.samples)
    if stopped is not None:
        print(f"dgmkern: stopped at step {trainer.step}, saved; go on with: {again}", file=sys.stderr)
