"""Cases of the noise family: standard normals, one thread and all threads."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch

import dgmkern
from perf.case import Case, Setting, Target, Variant
from perf.checks import assert_normal_of_seed

SHAPE = (256, 3, 64, 64)
SEED = 5
# against torch.randn on one thread, by instruction set
SINGLE_THREAD = {"avx512": 2.4, "avx2": 1.15}


def check_normal(inputs: SimpleNamespace, output: torch.Tensor) -> None:
    assert_normal_of_seed(output, inputs.seed)


def normal_case(name: str, shape: tuple[int, ...], dtype: torch.dtype, setting: Setting, *, scaling: bool) -> Case:
    """dgmkern.normal against torch.randn; with `scaling` also both on one thread."""
    elements = torch.Size(shape).numel()

    def setup() -> SimpleNamespace:
        return SimpleNamespace(seed=torch.tensor([SEED], dtype=torch.int64, device=setting.device))

    def ours(inputs: SimpleNamespace) -> torch.Tensor:
        return dgmkern.normal(shape, inputs.seed, dtype=dtype, device=setting.device)

    def peer(inputs: SimpleNamespace) -> torch.Tensor:
        return torch.randn(shape, dtype=dtype, device=setting.device)

    variants = {"torch.randn": Variant(peer), "dgmkern": Variant(ours, check_normal)}
    targets: tuple[Target, ...] = ()
    if scaling:
        variants["torch.randn, 1 thread"] = Variant(peer, threads=1)
        variants["dgmkern, 1 thread"] = Variant(ours, check_normal, threads=1)
        if dtype == torch.float32 and setting.capability in SINGLE_THREAD:
            floor = SINGLE_THREAD[setting.capability]
            targets += (Target("torch.randn, 1 thread", at_least=floor, of="dgmkern, 1 thread"),)
        if setting.threads > 1:  # near-linear
            targets += (Target("dgmkern, 1 thread", at_least=round(0.9 * setting.threads, 2)),)
    return Case(
        name,
        setup,
        variants,
        bytes_moved=elements * dtype.itemsize,
        elements=elements,
        normals=elements,
        targets=targets,
        baseline="torch.randn",
    )


def cases(setting: Setting) -> list[Case]:
    scaling = setting.device == "cpu"
    return [
        normal_case("normal/256x3x64x64/fp32", SHAPE, torch.float32, setting, scaling=scaling),
        normal_case("normal/256x3x64x64/bf16", SHAPE, torch.bfloat16, setting, scaling=scaling),
        normal_case("normal/1x3x32x32/fp32", (1, 3, 32, 32), torch.float32, setting, scaling=False),
    ]


def sweeps(setting: Setting) -> dict[str, Callable[[int], Case]]:
    return {"normal": lambda n: normal_case(f"normal/{n}", (n,), torch.float32, setting, scaling=False)}
