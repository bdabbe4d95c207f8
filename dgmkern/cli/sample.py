"""`dgmkern sample`."""

from dataclasses import dataclass
from pathlib import Path

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


def run(command: Sample) -> int:
    from ..train import draw_images, load_model, open_checkpoint, require_writable, save_image_grid

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
