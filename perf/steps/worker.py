"""A process that does one variant's steps when told to: `python -m perf.steps.worker CASE VARIANT THREADS`.

Every variant has a process, because what torch and malloc have done for one of them changes the time of another: a
large block freed once makes malloc keep later ones, which speeds the usual VAE step up by a quarter. Those of dgmkern
keep freed memory, as the command dgmkern does.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import torch

from dgmkern.memory import keep_freed_memory
from perf.steps.case import Step, step_cases

WARM_UP = 3
LIMITS = ("fp32", "bf16")  # "variants" that measure the rate of products
SIZE = 2048


class Worker:
    """The process of a variant, seen from outside. Raises RuntimeError where it fails, with the end of its message."""

    def __init__(self, case: str, variant: str, threads: int) -> None:
        command = [sys.executable, "-m", "perf.steps.worker", case, variant, str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def seconds(self, steps: int) -> float:
        """Do some steps; how long they took."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return float(self._line())

    def ready(self) -> None:
        """Wait until the variant is built and warm."""
        self._line()

    def _line(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            tail = self.process.stderr.read().strip().splitlines()[-1:] or ["no message"]
            raise RuntimeError(tail[0])
        return line

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def product(precision: str) -> Step:
    """A product of SIZE x SIZE matrices."""
    from dgmkern.train.products import fast_products

    x = torch.randn(SIZE, SIZE).to(torch.float32 if precision == "fp32" else torch.bfloat16)

    def step() -> None:
        with fast_products():
            x @ x

    return step


def builder(case: str, variant: str) -> Callable[[], Step]:
    return (lambda: product(variant)) if case == "limit" else step_cases()[case].variants[variant]


def main() -> None:
    case, variant, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    if variant.startswith("dgmkern"):
        keep_freed_memory()
    step = builder(case, variant)()
    for _ in range(WARM_UP):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    main()
