"""The folder of a run."""

import os
from dataclasses import dataclass
from pathlib import Path

from .atomic import is_temporary, write_text_atomically
from .checkpoint import Checkpoint, CheckpointError, checkpoint_paths, latest_checkpoint, load_checkpoint
from .config import RunConfig


@dataclass(frozen=True)
class RunFolder:
    """runs/x/ with config.json, log.jsonl, checkpoints/, loss.png, samples.png, samples/ and tensorboard/."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def loss_curve(self) -> Path:
        return self.path / "loss.png"

    @property
    def samples(self) -> Path:
        return self.path / "samples.png"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def samples_at(self, step: int) -> Path:
        return self.path / "samples" / f"step-{step:08d}.png"

    def create(self, config: RunConfig, *, overwrite: bool = False) -> None:
        """Make the folder for a new run and write its config.json.

        Raises FileExistsError if a run (without `overwrite`) or something else is there, OSError if the folder cannot
        be written. `overwrite` deletes the files of the old run and no other. What a kill left before the first
        checkpoint is no run.
        """
        if self.path.exists() and (not self.path.is_dir() or self._holds_more_than_its_beginning()):
            if not self.config.is_file():
                raise FileExistsError(f"{self.path}: is there already and is not the folder of a run")
            if not overwrite:
                raise FileExistsError(f"{self.path}: holds a run already; go on with it (--resume) or --overwrite it")
        self.path.mkdir(parents=True, exist_ok=True)
        require_writable(self.path)
        grids = self.path / "samples"
        events = self.tensorboard.glob("events.out.tfevents.*")
        hidden = (path for place in (self.path, self.checkpoints, grids) for path in place.glob(".*"))
        left = filter(is_temporary, hidden)
        ours = (*grids.glob("step-*.png"), *events, self.log, self.loss_curve, self.samples)
        for old in (*left, *checkpoint_paths(self.checkpoints), *ours):
            old.unlink(missing_ok=True)
        self.write_config(config)
        self.checkpoints.mkdir(exist_ok=True)

    def _holds_more_than_its_beginning(self) -> bool:
        within = {path for path in self.path.iterdir() if not is_temporary(path)} - {self.config, self.checkpoints}
        held = [*self.checkpoints.iterdir()] if self.checkpoints.is_dir() else []
        return bool(within) or not all(map(is_temporary, held))

    def write_config(self, config: RunConfig) -> None:
        write_text_atomically(self.config, config.to_json() + "\n")

    def latest(self) -> Checkpoint:
        """The newest whole checkpoint. Raises CheckpointError if there is none."""
        if not self.path.is_dir():
            raise CheckpointError(f"{self.path}: no such run")
        return latest_checkpoint(self.checkpoints)


def require_writable(folder: Path) -> None:
    """Raise PermissionError now rather than after an hour of training."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder}: cannot write here")


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint that `path` means: a checkpoint file, or the newest one of a run folder."""
    if path.is_dir():
        return RunFolder(path).latest()
    return load_checkpoint(path)
