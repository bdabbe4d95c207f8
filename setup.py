"""Builds the native library: one call of CMake with Ninja (CMakeLists.txt is the only build definition).

Without a C++ compiler the package installs all the same and runs on its plain torch reference.
`DGMKERN_REQUIRE_NATIVE=1` makes that an error; `DGMKERN_CMAKE_ARGS` adds arguments for CMake.
"""

import importlib.util
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import sysconfig

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = pathlib.Path(__file__).parent.resolve()


class CMakeExtension(Extension):
    """The whole native build, as one extension for setuptools."""

    def __init__(self):
        super().__init__("dgmkern._native", sources=[], optional=os.environ.get("DGMKERN_REQUIRE_NATIVE") != "1")


class BuildWithCMake(build_ext):
    """Runs CMake and Ninja; keeps its folder, so that editing one kernel rebuilds one kernel."""

    def build_extension(self, ext: Extension) -> None:
        if shutil.which(shlex.split(os.environ.get("CXX", "c++"))[0]) is None and shutil.which("g++") is None:
            message = "dgmkern: no C++ compiler found"
            if not ext.optional:
                raise RuntimeError(message)
            print(f"{message}: installing without native kernels", file=sys.stderr)
            return
        output = pathlib.Path(self.get_ext_fullpath(ext.name)).resolve().parent
        output.mkdir(parents=True, exist_ok=True)
        tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        folder = pathlib.Path(os.environ.get("DGMKERN_BUILD_FOLDER", ROOT / "build" / f"cmake-{tag}"))
        self.spawn_all(
            [tool("cmake"), "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *self.cmake_arguments(output)],
            [tool("cmake"), "--build", str(folder)],
        )

    def copy_extensions_to_source(self) -> None:  # editable and --inplace
        for library in pathlib.Path(self.build_lib, "dgmkern").glob("*.so"):
            beside = ROOT / "dgmkern" / f".{library.name}.new"
            shutil.copy2(library, beside)
            beside.replace(ROOT / "dgmkern" / library.name)  # a process that uses the old file keeps it

    def spawn_all(self, *commands: list[str]) -> None:
        for command in commands:
            try:
                subprocess.run(command, check=True)
            except subprocess.CalledProcessError as error:
                raise RuntimeError(f"dgmkern: `{shlex.join(command)}` failed") from error

    def cmake_arguments(self, output: pathlib.Path) -> list[str]:
        import torch
        from torch.utils.cpp_extension import include_paths

        torch_folder = pathlib.Path(torch.__file__).parent
        pybind11 = importlib.util.find_spec("pybind11")  # optional
        pybind11_folder = pathlib.Path(pybind11.origin).parent / "share" / "cmake" / "pybind11" if pybind11 else ""
        return [
            f"-DDGM_VERSION={self.distribution.get_version()}",
            f"-DDGM_OUTPUT={output}",
            f"-DDGM_TORCH_INCLUDE={';'.join(include_paths())}",
            f"-DDGM_TORCH_LIB={torch_folder / 'lib'}",
            f"-DDGM_TORCH_VERSION={torch.__version__}",
            f"-Dpybind11_DIR={pybind11_folder}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            *shlex.split(os.environ.get("DGMKERN_CMAKE_ARGS", "")),
        ]


def tool(name: str) -> str:
    """Path of cmake or ninja: of this Python's environment if it has one, else on PATH."""
    beside = pathlib.Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise RuntimeError(f"dgmkern: {name} not found; `pip install {name}` or build with isolation")
    return found


setup(ext_modules=[CMakeExtension()], cmdclass={"build_ext": BuildWithCMake})
