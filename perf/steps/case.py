"""What a step case is, and the cases there are."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from perf.case import Target

FAMILIES = ("vae", "gan", "ddpm")

Step = Callable[[], object]


@dataclass(frozen=True)
class StepCase:
    """The same work done by several variants, each in a process of its own.

    Args:
        name: slash-separated, for example `vae/mlp/128`.
        variants: builders of a step, in the order they take turns. The first is what the others are compared with.
        check: raises AssertionError where a step of ours is wrong.
        flops: of the products and convolutions of a step.
        precision: of the products of `dgmkern`, which sets the limit.
        steps: how many steps one call of a step does.
    """

    name: str
    variants: Mapping[str, Callable[[], Step]]
    check: Callable[[], None]
    flops: Callable[[], int]
    precision: Literal["fp32", "bf16"] = "fp32"
    steps: int = 1
    targets: tuple[Target, ...] = ()

    @property
    def baseline(self) -> str:
        return next(iter(self.variants))


@cache
def step_cases() -> dict[str, StepCase]:
    """The cases of all families, by name."""
    modules = [importlib.import_module(f"perf.steps.{family}") for family in FAMILIES]
    return {case.name: case for module in modules for case in module.cases()}
