"""The constants of csrc/math and of the Triton kernels are what their derivation gives."""

import pathlib
import subprocess
import sys

MATH = pathlib.Path(__file__).parents[2] / "csrc" / "math"
NORMAL = MATH / "normal.h"
OTHERS = sorted(MATH.glob("*.h"))
OTHERS.remove(NORMAL)
TRITON = sorted((MATH.parents[1] / "dgmkern" / "triton").glob("_*.py"))


def check(*files: pathlib.Path, without: tuple[str, ...] = ("MILLS_F64",)) -> subprocess.CompletedProcess:
    command = [sys.executable, MATH / "derive_coefficients.py", "--check", *files, "--without", *without]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_headers_hold_the_derived_constants():
    run = check(NORMAL, *OTHERS)
    assert run.returncode == 0, run.stdout


def test_the_triton_kernels_hold_them_too():
    run = check(*TRITON, without=("LN2", "SIGMOID_EXP"))
    assert run.returncode == 0, run.stdout


def test_a_changed_digit_is_noticed(tmp_path):
    spoiled = tmp_path / "normal.h"
    spoiled.write_text(NORMAL.read_text().replace("0x1.fffec0p-4f", "0x1.fffee0p-4f"))
    run = check(spoiled, *OTHERS)
    assert run.returncode == 1
    assert "RADIUS[0]" in run.stdout
