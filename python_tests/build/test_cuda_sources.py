"""CUDA kernels without a GPU: every .cu compiles for every architecture, without warnings, spills or stack frames."""

import collections
import pathlib
import re
import shutil
import subprocess

import pytest

CUDA = pathlib.Path(__file__).parents[2] / "csrc" / "cuda"
ARCHITECTURES = (80, 90, 100, 120)
NVCC = pytest.mark.skipif(not shutil.which("nvcc"), reason="NO nvcc: CUDA SOURCES ARE NOT CHECKED")


@pytest.mark.parametrize("source", sorted(CUDA.glob("*.cu")), ids=lambda p: p.name)
@NVCC
def test_compiles_for_every_architecture_without_warnings_or_spills(source, tmp_path):
    command = ["nvcc", "-O3", "-std=c++17", "-Xcompiler", "-fPIC,-Wall,-Wextra,-Werror", "-Werror", "all-warnings"]
    command += [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    done = subprocess.run(
        [*command, "-Xptxas", "-v", "-c", source, "-o", tmp_path / "out.o"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert len(frames) >= len(ARCHITECTURES)
    assert all(frame == ("0", "0", "0") for frame in frames), done.stderr


@NVCC
def test_the_noise_rounds_on_the_device_exactly_as_on_the_host(tmp_path):
    """One pair of normals is 18 fma, 4 products, 1 sum and 1 square root (csrc/math/normal.h); a counter gives two.

    All must say .rn: without it ptxas is free to contract a product and a sum into another rounding.
    """
    ptx = tmp_path / "noise.ptx"
    command = ["nvcc", "-O3", "-std=c++17", "-arch=compute_90", "-ptx", CUDA / "noise.cu", "-o", ptx]
    subprocess.run(command, check=True, capture_output=True)
    kernel = next(part for part in ptx.read_text().split(".entry") if part.lstrip().startswith("_ZN3dgm7normalsIfE"))
    found = re.findall(r"\b(fma|mul|add|sub|sqrt|div|neg|ex2|lg2|sin|cos)((?:\.\w+)*?)\.f32\b", kernel)
    counted = collections.Counter(f"{op}{how}" for op, how in found if op != "neg")  # a sign is exact
    assert counted == {"fma.rn": 36, "mul.rn": 8, "add.rn": 2, "sqrt.rn": 2}
