"""`dgmkern sample`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from .parsing import UsageError


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
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to draw; auto: on a GPU if there is one."""
    sampler: Literal["ddpm", "ddim", "dpm-solver"] | None = None
    """Diffusion: ancestral sampling (the default), DDIM or DPM-Solver++(2M)."""
    steps: int | None = None
    """Diffusion: steps of the sampler; by default all that the model was trained with."""
    eta: float | None = None
    """DDIM: noise of a step, 0 (the default) to 1."""
    label: int | None = None
    """Diffusion with classes: the class of all images; by default each in turn."""
    guidance: float | None = None
    """Diffusion with classes: weight of the class; 1 is the model's own, more exaggerates, 0 is of no class."""


def run(command: Sample) -> int:
    import torch

    from ..train import draw_images, load_model, open_checkpoint, pick_device, require_writable, save_image_grid

    if not command.out.parent.is_dir() or command.out.is_dir():
        raise UsageError(f"--out: got {command.out}, want the path of a PNG in a folder that exists")
    if command.n < 1 or command.batch_size < 1:
        raise UsageError(f"--n, --batch-size: got {command.n}, {command.batch_size}, want integers >= 1")
    require_writable(command.out.parent)
    checkpoint = open_checkpoint(command.checkpoint)
    options = {name: getattr(command, name) for name in ("sampler", "steps", "eta", "label", "guidance")}
    options = {name: value for name, value in options.items() if value is not None}
    if options and checkpoint.config.model != "ddpm":
        raise UsageError(
            f"--{min(options)}: is for diffusion models, {command.checkpoint} is a {checkpoint.config.model}"
        )
    if command.label is not None:
        options["labels"] = torch.full((command.n,), options.pop("label"))
    images = draw_images(
        load_model(checkpoint).to(pick_device(command.device)),
        command.n,
        seed=command.seed,
        batch_size=command.batch_size,
        precision=checkpoint.config.train.precision,
        **options,
    )
    save_image_grid(images, command.out)
    print(command.out)
    return 0
