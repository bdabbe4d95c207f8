"""The `dgmkern` command: train a model, sample from it, show what this machine has.

Models, data and plotting are imported by the command that needs them.
"""

import argparse
import contextlib
import io
import os
import re
import signal
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

MODELS = ("ddpm",)
SAMPLES = 100  # images of the grid that ends a training run

ModelConfig = TypeVar("ModelConfig")
TrainingConfig = TypeVar("TrainingConfig")


@dataclass(frozen=True)
class Train:
    """Train a model on real data. `dgmkern train MODEL --help` lists its options."""

    model: tyro.conf.Positional[Literal["ddpm"]]
    """The model."""


@dataclass(frozen=True)
class TrainOptions(Generic[ModelConfig, TrainingConfig]):
    """Train a model; writes checkpoints, log.jsonl, loss.png and samples.png into a run folder.

    Ctrl-C finishes the step at hand and saves; --resume goes on from there, with the settings of the run.
    """

    data: Literal["digits", "mnist", "fashion-mnist"]
    """Data set. digits comes with scikit-learn; the others are read from the folder in the environment variable
    DGMKERN_DATA or downloaded."""
    out: Path
    """Folder of the run."""
    resume: bool
    """Go on with the run in that folder."""
    overwrite: bool
    """Throw away the run in that folder and start anew."""
    train: Annotated[TrainingConfig, tyro.conf.arg(name="")]
    model: ModelConfig


@dataclass(frozen=True)
class Sample:
    """Draw images from a trained model into a PNG grid."""

    checkpoint: tyro.conf.Positional[Path]
    """Folder of a run (its newest checkpoint is taken) or a checkpoint file."""
    n: int = 64
    """Number of images."""
    seed: int = 0
    """Seed of the noise; the same seed gives the same images."""
    out: Path = Path("samples.png")
    """The PNG to write."""
    batch_size: int = 128
    """Images drawn at a time."""


class UsageError(ValueError):
    """A command line that does not parse."""


@dataclass(frozen=True)
class Doctor:
    """Show which backends each op has on this machine, and why one is missing."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 after an error of the user's, 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning
            return _run(argv)
    except KeyboardInterrupt:
        print("dgmkern: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        if not isinstance(error, _user_errors()) or os.environ.get("DGMKERN_DEBUG") == "1":
            raise
        return _fail(_message(error))


def _run(argv: list[str]) -> int:
    if argv[:1] == ["train"] and argv[1:2] and argv[1] in MODELS:
        return _train(argv[1], argv[2:])
    command = _parse(
        Annotated[Train, tyro.conf.subcommand("train")]
        | Annotated[Sample, tyro.conf.subcommand("sample")]
        | Annotated[Doctor, tyro.conf.subcommand("doctor")],
        prog="dgmkern",
        description="Fused ops for deep generative models, and models trained with them.",
        args=argv,
    )
    return _sample(command) if isinstance(command, Sample) else _doctor()


def _train(model: str, argv: list[str]) -> int:
    from .data import NAMES as DATA_NAMES
    from .data import load
    from .train import NonFiniteLossError, RunConfig, RunFolder, TrainConfig, Trainer, preset

    # Which defaults hold depends on these three, so they are looked up before the full parse.
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--data", default="digits")
    early.add_argument("--out", type=Path)
    early.add_argument("--resume", action="store_true")
    known, _ = early.parse_known_args(argv)

    data, checkpoint = known.data if known.data in DATA_NAMES else "digits", None
    model_config, train_config = preset(model, data)
    out = known.out or Path("runs", f"{model}-{data}")
    if known.resume:
        checkpoint = RunFolder(out).latest()
        stored = checkpoint.config
        if stored.model != model:
            raise ValueError(f"{out}: a run of {stored.model}, not of {model}")
        model_config, train_config, data = stored.model_config, stored.train, stored.data
    options = _parse(
        TrainOptions[type(model_config), TrainConfig],
        default=TrainOptions(data, out, False, False, train_config, model_config),
        prog=f"dgmkern train {model}",
        args=argv,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if options.resume and options.overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    if options.data != data and options.resume:
        raise ValueError(f"--data: got {options.data}, but the run to resume is on {data}")

    dataset = load(options.data)
    config = RunConfig(model, options.model, options.data, dataset.image_shape, options.train)
    run = RunFolder(options.out)
    trainer = Trainer(config, dataset)
    if checkpoint is not None:
        trainer.restore(checkpoint)
        run.write_config(config)
    else:
        run.create(config, overwrite=options.overwrite)
    again = f"dgmkern train {model} --out {run.path} --resume"
    print(f"{run.path}: {model} on {options.data}, step {trainer.step} of {config.train.steps}", file=sys.stderr)
    try:
        stopped = trainer.fit(run)
    except NonFiniteLossError as error:
        return _fail(f"{error}; reproduce it with: {again}")
    _finish(trainer, run)
    if stopped is not None:
        print(f"dgmkern: stopped at step {trainer.step}, saved; go on with: {again}", file=sys.stderr)
        return 128 + stopped
    return 0


def _parse(command: Any, **options: Any) -> Any:
    """tyro.cli, with the box that it draws around a complaint made one line, as all errors of this command are."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(command, **options)
    except SystemExit as stop:
        if stop.code != 2:  # --help
            raise
        text = re.sub(r"\x1b\[[0-9;]*m", "", box.getvalue())
        lines = [line.strip("│╭╮╰╯─ ") for line in text.splitlines()]
        message = lines[1 : lines.index("", 1) if "" in lines[1:] else None]  # from the title to the first rule
        raise UsageError(" ".join(message or lines)) from None


def _finish(trainer: Any, run: Any) -> None:
    """The pictures of a run: the loss curve always, samples when the training is complete."""
    from .train import draw_images, read_log, save_image_grid, save_loss_curve

    config = trainer.config
    records = read_log(run.log)
    if records:
        title = f"{config.model} on {config.data}"
        save_loss_curve([r["step"] for r in records], [r["loss"] for r in records], run.loss_curve, title=title)
        seconds = sum(r["seconds"] for r in records)
        rate = len(records) * config.train.batch_size / seconds
        print(f"{len(records)} steps in {seconds:.0f} s, {rate:.0f} images/s", file=sys.stderr)
        print(run.loss_curve)
    if trainer.step >= config.train.steps:
        images = draw_images(trainer.ema.module, SAMPLES, seed=config.train.seed, precision=config.train.precision)
        save_image_grid(images, run.samples)
        print(run.samples)


def _sample(command: Sample) -> int:
    from .train import draw_images, load_model, open_checkpoint, require_writable, save_image_grid

    if not command.out.parent.is_dir() or command.out.is_dir():
        raise UsageError(f"--out: got {command.out}, want the path of a PNG in a folder that exists")
    require_writable(command.out.parent)
    checkpoint = open_checkpoint(command.checkpoint)
    images = draw_images(
        load_model(checkpoint),
        command.n,
        seed=command.seed,
        batch_size=command.batch_size,
        precision=checkpoint.config.train.precision,
    )
    save_image_grid(images, command.out)
    print(command.out)
    return 0


def _doctor() -> int:
    import platform

    import torch

    from . import __version__, build_info, cpu_capability, ops

    print(f"dgmkern {__version__}, torch {torch.__version__}, Python {platform.python_version()}")
    print(f"CPU kernels: {cpu_capability() or 'none'}; torch: {torch.backends.cpu.get_cpu_capability()}")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    print(f"threads: {torch.get_num_threads()} of {os.cpu_count()} cores; CUDA device: {gpu}")
    for name, value in build_info().items():
        print(f"build: {name} = {value}")
    for name in ("DGMKERN_BACKEND", "DGMKERN_CPU", "DGMKERN_DATA"):
        print(f"{name}: {os.environ.get(name, 'not set')}")
    print()
    print(_grid(ops.backends()))
    return 0


def _grid(backends: dict[str, dict[str, bool | str]]) -> str:
    """The op grid as text: ops down, backends across, each reason for a missing one in a numbered note."""
    columns = list(next(iter(backends.values()), {}))
    width = max([len(op) for op in backends] + [2])
    lines = [f"{'op':{width}}  " + "  ".join(f"{column:>9}" for column in columns)]
    notes: list[str] = []
    for op, found in backends.items():
        cells = []
        for column in columns:
            if found[column] is not True and found[column] not in notes:
                notes.append(str(found[column]))
            cells.append("yes" if found[column] is True else f"- [{notes.index(str(found[column])) + 1}]")
        lines.append(f"{op:{width}}  " + "  ".join(f"{cell:>9}" for cell in cells))
    return "\n".join(lines + [f"[{i}] {note}" for i, note in enumerate(notes, 1)])


def _user_errors() -> tuple[type[Exception], ...]:
    """What a command may raise because of its input or its surroundings, told in one line."""
    from ._library import MissingBackendError
    from .data import DataError
    from .train import CheckpointError, NonFiniteLossError

    return (ValueError, OSError, MissingBackendError, DataError, CheckpointError, NonFiniteLossError)


def _fail(message: str) -> int:
    print(f"dgmkern: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _print_warning(message: Warning | str, *details: Any, **more: Any) -> None:
    print(f"dgmkern: warning: {message}", file=sys.stderr)
