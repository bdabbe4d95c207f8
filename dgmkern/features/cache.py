"""Trained extractors on the disk: one safetensors file each, whole and of this recipe, or not used.

Its metadata `dgmkern` is JSON of `recipe` (all that the weights follow from), `accuracy` (on the test split) and
`sha256` (of all tensors): one entry, as safetensors writes several in any order. Nothing is pickled.
"""

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..train.atomic import write_atomically
from ..train.checkpoint import tensors_digest


class StaleCacheError(Exception):
    """A file of the cache that is damaged, or was made by another recipe."""


def cache_folder() -> Path:
    """The folder in the environment variable DGMKERN_CACHE, else the user's cache folder for dgmkern."""
    folder = os.environ.get("DGMKERN_CACHE")
    if folder:
        return Path(folder)
    import pooch

    return Path(pooch.os_cache("dgmkern"))


def save_weights(path: Path, weights: dict[str, Tensor], recipe: dict[str, Any], accuracy: float) -> None:
    """Write `weights` atomically; makes the folder."""
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in weights.items()}
    about = {"recipe": recipe, "accuracy": accuracy, "sha256": tensors_digest(tensors)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata={"dgmkern": json.dumps(about)}))


def load_weights(path: Path, recipe: dict[str, Any]) -> tuple[dict[str, Tensor], float] | None:
    """Weights and accuracy; None where there is no such file; StaleCacheError, which says why, where it is wrong."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["dgmkern"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about["recipe"] != recipe:
            raise StaleCacheError(f"{path}: made by another recipe than that of this version")
        accuracy, sha256 = float(about["accuracy"]), about["sha256"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise StaleCacheError(f"{path}: damaged ({error})") from error
    if tensors_digest(tensors) != sha256:
        raise StaleCacheError(f"{path}: damaged (its tensors have another checksum)")
    return tensors, accuracy
