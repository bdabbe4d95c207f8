"""What a perf case is, and how the cases of a folder are found."""

from __future__ import annotations

import fnmatch
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

OPS_FOLDER = Path(__file__).parent / "ops"
OURS = "dgmkern"

Inputs = Any
Output = Any


@dataclass(frozen=True)
class Setting:
    """What the cases of a run may depend on."""

    device: str = "cpu"
    threads: int = 1
    capability: str | None = None  # "avx512", "avx2", "baseline"; None without the native library


@dataclass(frozen=True)
class Variant:
    """One way to do the work of a case.

    `run` takes the inputs of the case. `check(inputs, output)` raises AssertionError where the output is wrong; a
    variant of ours cannot be declared without one. `threads` overrides the thread count of the run.
    """

    run: Callable[[Inputs], Output]
    check: Callable[[Inputs, Output], None] | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Target:
    """A ratio an issue asks for: `of` at least so many times faster than `against`, or at most so often its time."""

    against: str
    at_least: float | None = None
    at_most: float | None = None
    of: str = OURS

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"Target against {self.against!r}: give one of at_least and at_most")

    def __str__(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}x {self.against}"
        return f"<= {self.at_most:g}x the time of {self.against}"

    def reached(self, speedup: float) -> tuple[float, bool]:
        """The figure to print beside the target, from how many times faster `of` is than `against`; and whether met."""
        if self.at_least is not None:
            return speedup, speedup >= self.at_least
        return 1 / speedup, 1 / speedup <= self.at_most


@dataclass(frozen=True)
class Case:
    """One row group of the table: the same work done by several variants on the same inputs.

    Args:
        name: slash-separated, for example `q_sample/drawn/256x3x64x64/fp32`.
        setup: makes the inputs; one function feeds the check and the clock.
        variants: in the order they take turns. The one named `baseline` is what the others are compared with.
        bytes_moved: bytes that must be read and written if every input is read once and every output written once.
        normals: standard normals that must be drawn.
        elements: elements of the main input, for time per element.
    """

    name: str
    setup: Callable[[], Inputs]
    variants: Mapping[str, Variant]
    bytes_moved: int
    elements: int
    normals: int = 0
    targets: tuple[Target, ...] = ()
    baseline: str = "eager"
    family: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.baseline not in self.variants:
            raise ValueError(f"case {self.name}: baseline {self.baseline!r} is none of its variants {[*self.variants]}")
        for name, variant in self.variants.items():
            if name.startswith(OURS) and variant.check is None:
                raise ValueError(f"case {self.name}: variant {name!r} has no correctness check")
        for target in self.targets:
            for name in (target.of, target.against):
                if name not in self.variants:
                    raise ValueError(f"case {self.name}: target '{target}' names {name!r}, which is no variant of it")

    def without_compile(self) -> Case:
        """The case without its torch.compile variants, and without targets against them."""
        kept = {name: variant for name, variant in self.variants.items() if not name.startswith("compile")}
        targets = tuple(target for target in self.targets if target.against in kept)
        return replace(self, variants=kept, targets=targets)


def families(folder: Path = OPS_FOLDER) -> dict[str, ModuleType]:
    """The op families in `folder`: one module per file, by file name."""
    modules = {}
    for path in sorted(folder.glob("*.py")):
        if path.stem.startswith("_"):
            continue
        spec = importlib.util.spec_from_file_location(f"perf_ops_{path.stem}", path)
        modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[path.stem])
    return modules


def select(names: Iterable[tuple[str, str]], patterns: Iterable[str], containing: Iterable[str]) -> list[str]:
    """The (family, name) pairs' names that any of `patterns` names and that contain any of `containing`.

    A pattern is a family, a name, the beginning of a name up to a slash, or a glob. No pattern means all.

    Raises:
        ValueError: a pattern that names nothing, or a selection that leaves nothing.
    """
    names = list(names)
    chosen = {name for _, name in names}
    patterns, containing = tuple(patterns), tuple(containing)
    if patterns:
        chosen = set()
        for pattern in patterns:
            hits = {
                name
                for family, name in names
                if pattern in (family, name) or name.startswith(pattern + "/") or fnmatch.fnmatchcase(name, pattern)
            }
            if not hits:
                raise ValueError(f"no case is named by {pattern!r}; `python -m perf --list` names them all")
            chosen |= hits
    if containing:
        chosen = {name for name in chosen if any(text in name for text in containing)}
    if not chosen:
        raise ValueError(f"no case is left: cases {patterns or 'all'}, filter {containing}")
    return [name for _, name in names if name in chosen]
