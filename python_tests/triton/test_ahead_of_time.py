"""Every Triton kernel compiles for GPUs that are not here, without running out of registers: see compile_kernels.py."""

import json
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("triton")
# bytes that ptxas saves around calls of fp64 division, once a program and with most registers free; a kernel that runs
# out of registers spills hundreds
AROUND_CALLS = 64
SCRIPT = pathlib.Path(__file__).with_name("compile_kernels.py")


def check(*arguments: str) -> None:
    run = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    assert lines
    broken = [line for line in lines if "error" in line or line["spilled"] > AROUND_CALLS]
    assert not broken, f"{len(broken)} of {len(lines)}, the first: {json.dumps(broken[0], indent=1)}"


@pytest.mark.parametrize(
    ("target", "dtype"),
    [("sm_80", "fp32"), ("sm_90", "bf16"), ("sm_100", "fp16"), ("sm_120", "fp64"), ("gfx942", "fp32")],
)
def test_kernels_compile_for_each_target_without_spills(target, dtype):
    check(target, "--dtype", dtype, "--shapes", "1")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp64", "fp32", "bf16", "fp16"])
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "sm_120", "gfx942"])
def test_kernels_compile_for_every_target_and_size_without_spills(target, dtype):
    check(target, "--dtype", dtype, "--wide")
