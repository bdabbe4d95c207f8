"""Every Triton kernel compiles for GPUs that are not here, without running out of registers: see compile_kernels.py."""

import json
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("triton")
# scalar registers that AMD's compiler keeps in lanes of a vector register, not in memory: the constants of fp64
# polynomials take all 102 of them in a loop
LANES = {("gfx942", "fp64"): 32}
SCRIPT = pathlib.Path(__file__).with_name("compile_kernels.py")


def check(target: str, dtype: str, *arguments: str) -> None:
    command = [sys.executable, str(SCRIPT), target, "--dtype", dtype, *arguments]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    assert lines
    broken = [line for line in lines if "error" in line or line["spilled"] > LANES.get((target, dtype), 0)]
    assert not broken, f"{len(broken)} of {len(lines)}, the first: {json.dumps(broken[0], indent=1)}"


@pytest.mark.parametrize(
    ("target", "dtype"),
    [("sm_80", "fp32"), ("sm_90", "bf16"), ("sm_100", "fp16"), ("sm_120", "fp64"), ("gfx942", "fp32")],
)
def test_kernels_compile_for_each_target_without_spills(target, dtype):
    check(target, dtype, "--shapes", "1")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp64", "fp32", "bf16", "fp16"])
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "sm_120", "gfx942"])
def test_kernels_compile_for_every_target_and_size_without_spills(target, dtype):
    check(target, dtype, "--wide")
