"""Every Triton kernel compiles for GPUs that are not here, without running out of registers: see compile_kernels.py."""

import json
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("triton")
SCRIPT = pathlib.Path(__file__).with_name("compile_kernels.py")


TARGETS = ["sm_80", "sm_90", "sm_100", "sm_120", "gfx942"]


def check(*arguments: str) -> None:
    run = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    assert lines
    broken = [line for line in lines if "error" in line or line["spilled"]]
    assert not broken, f"{len(broken)} of {len(lines)}, the first: {json.dumps(broken[0], indent=1)}"


@pytest.mark.parametrize("target", TARGETS)
def test_kernels_of_every_dtype_and_variant_compile_without_spills(target):
    check(target)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_kernels_of_sizes_over_2_to_the_31_compile_without_spills(target):
    check(target, "--wide")
