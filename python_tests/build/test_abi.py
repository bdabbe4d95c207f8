"""One binary for torch 2.11 and later: what the native library asks of torch, read off its symbols."""

import pathlib
import re
import shutil
import subprocess

import pytest
import torch

import dgmkern

TARGET = (2, 11)
LIBRARY = pathlib.Path(dgmkern.__file__).parent / "libdgmkern.so"
HEADERS = [
    pathlib.Path(torch.__file__).parent / "include/torch/csrc" / name
    for name in (
        "stable/c/shim.h",
        "inductor/aoti_torch/c/shim.h",
        "inductor/aoti_torch/generated/c_shim_aten.h",  # fill_, new_empty: since 2.9, says stable/ops.h
    )
]
# from the compiler's own start-up code
TOOLCHAIN = {"_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable", "__gmon_start__"}

pytestmark = pytest.mark.skipif(not LIBRARY.exists() or not shutil.which("nm"), reason="needs the library and binutils")


def needed_symbols() -> set[str]:
    lines = subprocess.run(
        ["nm", "-D", "--undefined-only", LIBRARY], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return {line.split()[-1] for line in lines}


def c_functions_by_version() -> dict[str, tuple[int, int]]:
    """The C functions that torch's shim headers declare, with the first version that a guard gives them."""
    found: dict[str, tuple[int, int]] = {}
    for header in HEADERS:
        guards: list[tuple[int, int]] = [(0, 0)]
        text = re.sub(r"/\*.*?\*/|//[^\n]*", "", header.read_text(), flags=re.DOTALL)
        for line in text.replace("\\\n", " ").splitlines():
            line = line.strip()
            if line.startswith("#if"):
                version = re.search(r"TORCH_FEATURE_VERSION >= TORCH_VERSION_(\d+)_(\d+)_\d+", line)
                guards.append((int(version[1]), int(version[2])) if version else guards[-1])
            elif line.startswith("#endif"):
                guards.pop()
            else:
                for name in re.findall(r"\b((?:aoti_)?torch_\w+)\s*\(", line):
                    found.setdefault(name, guards[-1])
        # the dtypes and layouts come from macros
        for kind, prefix in (("aoti_torch", "aoti_torch_"), ("", "torch_")):
            for name in re.findall(rf"{kind}_?dtype_(\w+)\(\)", text):
                found.setdefault(f"{prefix}dtype_{name}", (0, 0))
    return found


def problem_with(symbol: str, functions: dict[str, tuple[int, int]]) -> str | None:
    if "@" in symbol or symbol in TOOLCHAIN:  # libstdc++, libc, libm: versioned by themselves
        return None
    if symbol.startswith("_Z"):
        return "a C++ symbol: not part of any stable ABI"
    if symbol not in functions:
        return "not a C function of torch's shim headers"
    return f"needs torch {functions[symbol]}" if functions[symbol] > TARGET else None


def test_only_c_functions_that_torch_2_11_has():
    functions = c_functions_by_version()
    problems = {s: p for s in needed_symbols() if (p := problem_with(s, functions))}
    assert not problems


def test_the_check_would_notice_a_newer_function_and_a_cxx_symbol():
    functions = c_functions_by_version()
    newer = [name for name, version in functions.items() if version > TARGET]
    assert newer or torch.__version__ < "2.12"
    assert all("needs torch" in problem_with(name, functions) for name in newer)
    assert "C++" in problem_with("_ZN2at4_ops5empty4callEv", functions)
    assert "not a C function" in problem_with("torch_made_up", functions)
    assert functions["torch_parallel_for"] == (2, 10)


def test_it_knows_no_python_and_no_path_of_the_build_machine():
    assert not {s for s in needed_symbols() if s.startswith(("Py", "_Py"))}
    dynamic = subprocess.run(["readelf", "-d", LIBRARY], capture_output=True, text=True, check=True).stdout
    assert "RPATH" not in dynamic
    assert "RUNPATH" not in dynamic
    assert str(pathlib.Path(torch.__file__).parent).encode() not in LIBRARY.read_bytes()


def test_build_info_tells_how_it_was_built():
    info = dgmkern.build_info()
    assert info["stable_abi"] == "2.11"
    assert info["version"] == dgmkern.__version__
    assert set(info) >= {"compiler", "torch", "cpu_levels", "cuda"}
