"""What a measurement must say about where it was taken: machine, versions, commit, memory allocator."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import dgmkern

_CACHE_FOLDER = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def cpu_model() -> str:
    """The CPU's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def caches() -> dict[str, int]:
    """Bytes of each data cache a core sees, by level: {"L1": ..., "L2": ..., "L3": ...}; empty where unknown."""
    found = {}
    for index in sorted(_CACHE_FOLDER.glob("index*")):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        if kind != "Instruction":
            found[f"L{level}"] = int(size.rstrip("KMG")) * _UNITS.get(size[-1], 1)
    return found


def machine(device: str = "cpu") -> dict[str, Any]:
    """CPU (and accelerator) on which the run takes place."""
    found = {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "caches": caches(),
        "capability": dgmkern.cpu_capability(),
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = {"name": properties.name, "memory": properties.total_memory}
    return found


def git_commit() -> str | None:
    """Commit of the checkout this file stands in, with `-dirty` where files differ; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, Any]:
    """Python, torch, the build of dgmkern, and the commit."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "dgmkern": dgmkern.build_info(),
        "commit": git_commit(),
    }


class CpuUse:
    """How busy other processes kept the machine since this object was made, as a share of all cores, 0 to 1."""

    def __init__(self) -> None:
        self._start = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """(total, busy, ours) CPU seconds up to now; busy includes time stolen by other virtual machines."""
        try:
            user, nice, system, idle, iowait, irq, softirq, steal = (
                int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
            )
        except (OSError, ValueError):
            return None
        busy = user + nice + system + irq + softirq + steal
        ticks = os.sysconf("SC_CLK_TCK")
        return (busy + idle + iowait) / ticks, busy / ticks, sum(os.times()[:4])

    def by_others(self) -> float | None:
        """None where the system does not tell, or too little time has passed to tell."""
        now = self._read()
        if self._start is None or now is None:
            return None
        total, busy, ours = (after - before for before, after in zip(self._start, now, strict=True))
        return min(1.0, max(0.0, (busy - ours) / total)) if total >= 0.5 else None
