"""`dgmkern doctor`."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Doctor:
    """Show which backends each op has on this machine, and why one is missing."""


def run() -> int:
    import platform

    import torch

    from .. import __version__, build_info, cpu_capability, ops

    print(f"dgmkern {__version__}, torch {torch.__version__}, Python {platform.python_version()}")
    print(f"CPU kernels: {cpu_capability() or 'none'}; torch: {torch.backends.cpu.get_cpu_capability()}")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    print(f"threads: {torch.get_num_threads()} of {os.cpu_count()} cores; CUDA device: {gpu}")
    for name, value in build_info().items():
        print(f"build: {name} = {value}")
    for name in ("DGMKERN_BACKEND", "DGMKERN_CPU", "DGMKERN_DATA", "DGMKERN_CACHE"):
        print(f"{name}: {os.environ.get(name, 'not set')}")
    print()
    print(_grid(ops.backends()))
    return 0


def _grid(backends: dict[str, dict[str, bool | str]]) -> str:
    """The op grid as text: ops down, backends across, each reason for a missing one in a numbered note."""
    columns = list(next(iter(backends.values()), {}))
    width = max([len(op) for op in backends] + [2])
    lines = [f"{'op':{width}}  " + "  ".join(f"{column:>9}" for column in columns)]
    notes: list[str] = []
    for op, found in backends.items():
        cells = []
        for column in columns:
            if found[column] is not True and found[column] not in notes:
                notes.append(str(found[column]))
            cells.append("yes" if found[column] is True else f"- [{notes.index(str(found[column])) + 1}]")
        lines.append(f"{op:{width}}  " + "  ".join(f"{cell:>9}" for cell in cells))
    return "\n".join(lines + [f"[{i}] {note}" for i, note in enumerate(notes, 1)])
