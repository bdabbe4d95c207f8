"""Checkpoints: one safetensors file each, holding every tensor of a run's state, its config and its step.

Format 2. Tensors `model.*`, `ema.*` (the averaged weights) and `optimizer.<parameter>.<state>`; metadata `format`,
`config` (JSON, see RunConfig), `step` (training steps done) and `sha256` (of all of these, so that damage that leaves
the file readable is noticed; in format 1 of the tensors alone). Nothing is pickled.
"""

import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .atomic import write_atomically
from .config import ConfigError, RunConfig

FORMAT = 2
_READABLE = ("1", "2")


class CheckpointError(Exception):
    """A checkpoint that is missing, damaged, of another format, or of another model."""


@dataclass(frozen=True)
class Checkpoint:
    """State of a run after `step` training steps; `tensors` carry the prefixes model., ema., optimizer."""

    config: RunConfig
    step: int
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with `prefix` and a dot, without that."""
        return {name[len(prefix) + 1 :]: t for name, t in self.tensors.items() if name.startswith(prefix + ".")}


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.safetensors"


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep_last: int) -> Path:
    """Write `checkpoint` atomically into `folder`, then delete all but the newest `keep_last`. Returns its path.

    Those of later steps go, too: of a run that went back behind them, because they were damaged.
    """
    # clone() gives tensors their own contiguous memory, which safetensors demands
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in checkpoint.tensors.items()}
    metadata = {
        "format": str(FORMAT),
        "config": checkpoint.config.to_json(),
        "step": str(checkpoint.step),
    }
    metadata["sha256"] = _digest(metadata, tensors)
    path = checkpoint_path(folder, checkpoint.step)
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
    until_now = [other for other in checkpoint_paths(folder) if other <= path]  # names sort as steps do
    for old in set(checkpoint_paths(folder)).difference(until_now[-keep_last:]):
        old.unlink()
    for left in folder.glob(".step-*.tmp.safetensors"):  # by a process that was killed while writing
        left.unlink()
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint. Raises CheckpointError with the path and the reason."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "format" not in metadata or "config" not in metadata:
                raise CheckpointError(f"{path}: not a dgmkern checkpoint")
            if metadata["format"] not in _READABLE:
                readable = " and ".join(_READABLE)
                raise CheckpointError(f"{path}: checkpoint format {metadata['format']}, this version reads {readable}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint ({error})") from error
    if _digest(metadata, tensors) != metadata.get("sha256"):
        raise CheckpointError(f"{path}: damaged checkpoint (its content has another checksum)")
    try:
        return Checkpoint(RunConfig.from_json(metadata["config"]), int(metadata["step"]), tensors)
    except (ConfigError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: checkpoint of another model or version ({error})") from error


def latest_checkpoint(folder: Path) -> Checkpoint:
    """The newest whole checkpoint of a folder; warns about each damaged newer one that it passes over."""
    paths = checkpoint_paths(folder)
    if not paths:
        raise CheckpointError(f"{folder}: no checkpoint here")
    errors = []
    for path in reversed(paths):
        try:
            checkpoint = load_checkpoint(path)
        except CheckpointError as error:
            errors.append(error)
            continue
        for error in errors:
            warnings.warn(f"{error}; falling back to {path.name}", stacklevel=2)
        return checkpoint
    raise errors[0]


def _digest(metadata: dict[str, str], tensors: dict[str, Tensor]) -> str:
    of_tensors = tensors_digest(tensors)
    if metadata["format"] == "1":
        return of_tensors
    about = [metadata.get(name) for name in ("format", "config", "step")]
    return hashlib.sha256(json.dumps([*about, of_tensors]).encode()).hexdigest()


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """sha256 of names, dtypes, shapes and bytes of tensors on the CPU."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
