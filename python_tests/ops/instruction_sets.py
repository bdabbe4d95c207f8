"""The loops of each instruction set that this CPU has, each in a process: one is picked when dgmkern is loaded."""

import os
import subprocess
import sys

import pytest

LEVELS = ["baseline", "avx2", "avx512"]
EACH_LEVEL = pytest.mark.parametrize("level", LEVELS)


def run_on(level: str, code: str) -> str:
    """What `code` prints with the loops of a level; skips where the CPU has none of it."""
    native = pytest.importorskip("dgmkern._native")
    if LEVELS.index(level) > LEVELS.index(native.best_level()):
        pytest.skip(f"this CPU has {native.best_level()} at best")
    code += "\nassert dgmkern.cpu_capability() == " + repr(level)
    env = {**os.environ, "DGMKERN_CPU": level}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout
