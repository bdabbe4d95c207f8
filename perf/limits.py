"""The limits of this machine, measured in the run that quotes them: copy bandwidth and normals per second."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import Any

import torch

import dgmkern
from perf.case import Setting
from perf.machine import CpuUse
from perf.timing import Plan, Stopwatch, Subject, interleave

NORMAL_ELEMENTS = 1 << 22  # 16 MB of fp32: long enough to hide start-up, short enough to time in a second


def copy_subject(bytes_moved: int, setting: Setting, copies: int = 1) -> Subject:
    """`dst.copy_(src)` of buffers that together read and write `bytes_moved` bytes, over `copies` pairs in rotation."""
    elements = max(1, bytes_moved // 8)  # fp32, read once and written once
    pairs = itertools.cycle(
        [
            (torch.zeros(elements, device=setting.device), torch.ones(elements, device=setting.device))
            for _ in range(copies)
        ]
    )

    def copy() -> None:
        dst, src = next(pairs)
        dst.copy_(src)

    return Subject(copy, setting.threads)


def normals_subject(setting: Setting) -> Subject:
    """`dgmkern.normal` of NORMAL_ELEMENTS numbers, whatever the size of the case: the rate without the start-up."""
    seed = torch.tensor([1], dtype=torch.int64, device=setting.device)
    return Subject(lambda: dgmkern.normal((NORMAL_ELEMENTS,), seed, device=setting.device), setting.threads)


@dataclass(frozen=True)
class NormalRate:
    """Standard normals per second, fp32, at the run's thread count."""

    dgmkern: float | None
    torch: float
    used_by_others: float | None = None  # share of all cores that other processes took meanwhile

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_normal_rate(setting: Setting, plan: Plan) -> NormalRate:
    """Rate of `dgmkern.normal` and of `torch.randn` on a large buffer."""
    subjects = {
        "dgmkern": normals_subject(setting),
        "torch": Subject(lambda: torch.randn((NORMAL_ELEMENTS,), device=setting.device), setting.threads),
    }
    use = CpuUse()
    samples, _ = interleave(subjects, plan, Stopwatch.of(setting.device))
    used_by_others = use.by_others()
    rates = {name: NORMAL_ELEMENTS / sample.median for name, sample in samples.items()}
    return NormalRate(rates.get("dgmkern"), rates["torch"], used_by_others)


@dataclass(frozen=True)
class Limit:
    """The shortest time the work of a case could take here, in seconds, and what sets it."""

    copy_seconds: float  # bytes that must move, at the speed of a copy of as many bytes in the same rounds
    normal_seconds: float  # normals that must be drawn, at the rate measured in the same rounds

    @property
    def seconds(self) -> float:
        return max(self.copy_seconds, self.normal_seconds)

    @property
    def set_by(self) -> str:
        return "normals" if self.normal_seconds > self.copy_seconds else "copy"
