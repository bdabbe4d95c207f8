"""Other projects' metrics, from the folder that `make .venv/peers` installs them in, without what they depend on."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

FOLDER = Path(sys.prefix, "peers")
NAMES = ("clean-fid", "piq", "prdc", "pytorch-fid", "torch-fidelity", "torchmetrics")

_TORCHVISION = ("", ".datasets", ".models", ".models.inception", ".transforms", ".transforms.functional")


class _Placeholder(ModuleType):
    """A module whose every name is an empty class."""

    __path__ = ()

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)  # torchmetrics looks for one

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@contextmanager
def _importable() -> Iterator[None]:
    """The folder on the path, and placeholders for torchvision: the peers' networks derive from its classes when they
    are imported, their numerics need none of it, and torchvision itself would bring a torch of its own."""
    path = str(FOLDER)
    placeholders = {f"torchvision{name}": _Placeholder(f"torchvision{name}") for name in _TORCHVISION}
    for name, module in placeholders.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(placeholders[parent], child, module)
    added = placeholders if find_spec("torchvision") is None else {}
    sys.modules.update(added)
    sys.path.append(path)
    try:
        yield
    finally:
        sys.path.remove(path)
        for name in added:
            del sys.modules[name]


def peer(module: str) -> ModuleType:
    """The module of that name, for example "torchmetrics.image.fid".

    Raises:
        ModuleNotFoundError: the folder is not there; the message names the command that makes it.
    """
    if not FOLDER.is_dir():
        raise ModuleNotFoundError(f"{module}: expected the folder {FOLDER}; `make .venv/peers` makes it")
    with _importable():
        return importlib.import_module(module)


def versions() -> dict[str, str]:
    """Of the peers installed, by name."""
    found = {d.metadata["Name"].replace("_", "-"): d.version for d in distributions(path=[str(FOLDER)])}
    return {name: found[name] for name in NAMES if name in found}
