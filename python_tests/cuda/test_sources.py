"""CUDA kernels without a GPU: compiled without warnings, spills or stack frames, linked, and rounding as the host does.

The build itself compiles every kernel for every architecture with warnings, spills and stack frames as errors
(-DDGM_WERROR=ON, which .ci/run sets); here is what it does not see.
"""

import collections
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import torch

import dgmkern
from dgmkern import _library

ROOT = pathlib.Path(__file__).parents[2]
CUDA = ROOT / "csrc" / "cuda"
LIBRARY = pathlib.Path(dgmkern.__file__).parent / "libdgmkern_cuda.so"
STRICT = [
    "-O3",
    "-std=c++17",
    "-DDGM_CUDA",
    "-Werror",
    "all-warnings",
    "-Xptxas",
    "-Werror,-warn-spills,-warn-lmem-usage",
]

required = os.environ.get("DGMKERN_REQUIRE_CUDA") == "1"
NVCC = pytest.mark.skipif(not shutil.which("nvcc") and not required, reason="NO nvcc: CUDA SOURCES ARE NOT CHECKED")
BUILT = pytest.mark.skipif(not LIBRARY.exists() and not required, reason="NO libdgmkern_cuda.so: IT IS NOT CHECKED")


def nvcc(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(["nvcc", *STRICT, *arguments], capture_output=True, text=True)


@NVCC
def test_the_flags_of_the_build_refuse_spills_and_stack_frames(tmp_path):
    """And let the kernels through, whose registers and instructions are counted."""
    frame = (
        "__global__ void k(int* x) { int a[64]; for (int j = 0; j < 64; ++j) a[x[j] & 63] = j; x[0] = a[x[1] & 63]; }"
    )
    (tmp_path / "frame.cu").write_text(frame)
    refused = nvcc("-arch=sm_90", "-c", tmp_path / "frame.cu", "-o", tmp_path / "frame.o")
    assert refused.returncode != 0
    assert "ocal memory" in refused.stderr + refused.stdout
    fine = nvcc("-arch=sm_90", "-Xptxas", "-v", "-c", CUDA / "noise.cu", "-o", tmp_path / "noise.o")
    assert fine.returncode == 0, fine.stderr
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", fine.stderr)]
    assert len(registers) == 4  # dtypes
    assert max(registers) <= 64, registers  # four blocks of 256 threads on a multiprocessor


@NVCC
def test_the_noise_rounds_on_the_device_exactly_as_on_the_host(tmp_path):
    """One pair of normals is 18 fma, 4 products, 1 sum and 1 square root (csrc/math/normal.h); a counter gives two. The
    kernel draws in two places: four normals for a vector, four to pick one from.

    All must say .rn: without it ptxas is free to contract a product and a sum into another rounding.
    """
    ptx = tmp_path / "noise.ptx"
    assert nvcc("-arch=compute_90", "-ptx", CUDA / "noise.cu", "-o", ptx).returncode == 0
    entries = [part for part in ptx.read_text().split(".entry") if "NormalsIfE" in part[:200]]
    assert len(entries) == 1
    found = re.findall(r"\b(fma|mul|add|sub|sqrt|div|neg|ex2|lg2|sin|cos)((?:\.\w+)*?)\.f32\b", entries[0])
    counted = collections.Counter(f"{op}{how}" for op, how in found if op != "neg")  # a sign is exact
    assert counted == {"fma.rn": 72, "mul.rn": 16, "add.rn": 4, "sqrt.rn": 4}


def cuobjdump() -> str:
    """Of the CUDA toolkit, else the one that comes with Triton."""
    triton = importlib.util.find_spec("triton")
    bundled = pathlib.Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump" if triton else None
    return shutil.which("cuobjdump") or str(bundled)


@NVCC
def test_instructions_of_four_normals_do_not_grow_unseen(tmp_path):
    """SASS of the fp32 kernel on sm_90, both draws, addressing and loops: a change of the noise shows here."""
    assert nvcc("-arch=sm_90", "-cubin", CUDA / "noise.cu", "-o", tmp_path / "noise.cubin").returncode == 0
    sass = subprocess.run([cuobjdump(), "-sass", tmp_path / "noise.cubin"], capture_output=True, text=True, check=True)
    kernel = next(part for part in sass.stdout.split("Function : ") if "NormalsIfE" in part[:200])
    instructions = len(re.findall(r"^\s+/\*[0-9a-f]{4}\*/", kernel, re.MULTILINE))
    assert instructions <= INSTRUCTIONS, instructions


INSTRUCTIONS = 1000


@BUILT
def test_the_library_needs_nothing_that_torch_2_11_lacks():
    """Linked without torch's CUDA libraries: what it asks of them is C functions of the shim headers."""
    sys.path.insert(0, str(ROOT / "python_tests" / "build"))
    from test_abi import c_functions_by_version, problem_with

    lines = subprocess.run(["nm", "-D", "--undefined-only", LIBRARY], capture_output=True, text=True, check=True).stdout
    functions = c_functions_by_version()
    functions["aoti_torch_get_current_cuda_stream"] = (0, 0)  # of libtorch_cuda, since 2.2
    problems = {
        s: why for s in (line.split()[-1] for line in lines.splitlines()) if (why := problem_with(s, functions))
    }
    assert not problems
    dynamic = subprocess.run(["readelf", "-d", LIBRARY], capture_output=True, text=True, check=True).stdout
    assert "libtorch_cuda.so" in dynamic
    assert "libcudart" not in dynamic
    assert "RUNPATH" not in dynamic
    assert str(pathlib.Path(torch.__file__).parent).encode() not in LIBRARY.read_bytes()


@BUILT
def test_it_holds_every_op():
    """Every op but those on matrices, which Triton and plain torch do on a GPU."""
    text = LIBRARY.read_bytes()
    families = {name: _library._REFERENCES[op].__module__.rpartition(".")[2] for name, op in _library._OPS.items()}
    missing = {name for name in families if name.encode() + b"\0" not in text}
    assert {families[name] for name in missing} <= {"linalg", "frechet"}
