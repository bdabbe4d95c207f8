"""Compile every Triton kernel ahead of time, as the ops launch it, for GPUs that need not be here.

    python compile_kernels.py TARGET ... [--case NAME] [--dtype NAME ...] [--shapes N] [--wide]

Each op runs on CPU tensors with a recorder in place of the launcher, over the contract cases of the op tests, their
dtypes, layouts and gradients: what is compiled is what would be launched. Prints one JSON line for each kernel, with
registers, bytes of spills and shared memory. Runs in a process of its own, without TRITON_INTERPRET.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable

os.environ["DGMKERN_BACKEND"] = "reference"  # leaves the CPU to the recorder
os.environ["TRITON_INTERPRET"] = "0"
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "ops"))

import torch
import triton
from cases import CASES
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from dgmkern import _library
from dgmkern.triton import _launch

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
}
SHAPES = [(4, 32, 16, 16), (7, 3, 5, 2), (5, 6000), (3, 48), (1, 1)]
CUOBJDUMP = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
OPTIONS = ("num_warps", "num_stages")
LARGE = 2**33  # stands for sizes that do not fit into 32 bits


def _is_one(value: object, parameter: object) -> bool:
    return isinstance(value, int) and value == 1 and not parameter.do_not_specialize


def specialized(kernel, arguments: dict) -> tuple:
    """(signature, constants, arguments divisible by 16, options): what a launch of `kernel` is compiled for."""
    parameters = {p.name: p for p in kernel.params}
    signature, constants, by_16 = {}, {}, []
    for name, parameter in parameters.items():
        value = arguments.get(name, parameter.default if parameter.has_default else None)
        if isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
            by_16.append(name)  # torch's allocations are aligned
        elif parameter.is_constexpr or value is None or _is_one(value, parameter):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and not parameter.do_not_specialize:
                by_16.append(name)
    options = {name: arguments[name] for name in OPTIONS if name in arguments}
    return tuple(signature.items()), tuple(constants.items()), tuple(by_16), tuple(options.items())


def run_on_cpu() -> None:
    """The ops run their Triton code on CPU tensors, too."""

    def through_triton(op):
        name = op._schema.name.partition("::")[2]
        return lambda *args: _library.triton_kernel(name)(*_library.with_defaults(op, args))

    for name, op in _library._OPS.items():
        try:
            _library.triton_kernel(name)
        except (ImportError, AttributeError):
            continue
        _library._LIBRARY.impl(name, through_triton(op), "CPU")


def recorded(cases: str, dtypes: list[str], shapes: list[tuple[int, ...]], wide: bool) -> dict:
    """{what is compiled: its kernel} of all launches of the contract cases whose names contain `cases`."""
    found = {}

    def record(kernel, arguments: dict) -> None:
        if arguments.get("WIDE"):
            arguments |= {name: LARGE for name in ("inner", "offset") if arguments.get(name, 1) > 1}
            if arguments.get("PART"):
                arguments["PART"] = LARGE // _launch.MOST_PARTS
        found[(kernel.__name__, *specialized(kernel, arguments))] = kernel

    _launch.hook = record
    of_cases = itertools.product((c for c in CASES if cases in c.name), dtypes, shapes, [2**31, 0] if wide else [2**31])
    for case, dtype, shape, _launch.WIDE_FROM in of_cases:
        if not case.fits(shape):
            continue
        for layout, drawn, offset in (("dense", False, 0), ("dense", True, 0), ("last", True, 0), ("last", True, 3)):
            if (drawn and not case.draws) or (layout == "last" and len(shape) != 4):
                continue
            x = [t.detach().requires_grad_(t.is_floating_point()) for t in case.make(shape, DTYPES[dtype])]
            if layout == "last":
                x = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in x]
            how = {"seed": 1, "offset": offset} if drawn else {}
            if case.draws and not drawn:
                how = {"noise": torch.randn(case.noise_shape(x)).to(x[case.noise_as].dtype)}
            outputs = [o for o in case.call(*x, **how) if o.requires_grad]
            torch.autograd.grad(outputs, [t for t in x if t.requires_grad], outputs, allow_unused=True)
    if "fp64" in dtypes:
        for name, call in MATRICES.items():
            if cases in name:
                call()
    return found


def _of_matrices(op: str, *args) -> Callable[[], None]:
    """A call of an op on matrices, in fp64, of shapes [..., M, N] in place of the matrices."""
    tensors = [torch.rand(a, dtype=torch.float64) if isinstance(a, tuple) else a for a in args]
    return lambda: getattr(torch.ops.dgmkern, op)(*tensors)


# no contract cases: fp64 inside, and no memory layouts
MATRICES = {
    f"matrices {op} {args}": _of_matrices(op, *args)
    for op, args in (
        ("nuclear_norm", ((3, 256, 192),)),
        ("nuclear_norm", ((131, 150),)),
        ("nuclear_norm", ((100, 64),)),
        ("polar_factor", ((5, 1),)),
        ("polar_factor", ((17, 31),)),
        ("nearest_psd", ((1, 1), "s", 1e-3)),
        ("feature_trace", ((100, 40), (90, 40))),
        *(("trace_sqrtm_product", (shape, shape, 1e-13)) for shape in ((1, 1), (7, 24, 24), (33, 33), (128, 128))),
        *(("trace_sqrtm_product", (shape, shape, 1e-1)) for shape in ((2, 192, 192), (131, 131))),
    )
}


def _run(tool: str | pathlib.Path, *arguments: str) -> str:
    run = subprocess.run([tool, *arguments], capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError(run.stdout + run.stderr)
    return run.stdout + run.stderr


def _spilled(ptx: str, target: GPUTarget) -> int:
    """Bytes of spills, loads and stores, as ptxas counts them."""
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder, "kernel.ptx")
        source.write_text(ptx)
        arch = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)[1]
        text = _run(get_ptxas(target.arch).path, "-arch", arch, "-v", "-o", f"{folder}/kernel.cubin", str(source))
    return sum(int(n) for n in re.findall(r"(\d+) bytes spill", text))


def compiled(kernel, signature, constants, by_16, options, target: GPUTarget) -> dict:
    """Registers, bytes of spills and shared memory of a kernel compiled for `target`."""
    names = [p.name for p in kernel.params]
    attrs = {(names.index(name),): [["tt.divisibility", 16]] for name in by_16}
    source = ASTSource(fn=kernel, signature=dict(signature), constexprs=dict(constants), attrs=attrs)
    out = triton.compile(source, target=target, options={**dict(options), "enable_fp_fusion": True})
    if target.backend == "hip":
        text = out.asm["amdgcn"]
        registers = max(int(n) for n in re.findall(r"\.vgpr_count:\s+(\d+)", text))
        # to memory: scalar registers may go into lanes of a vector one, which costs little
        spilled = sum(int(n) for n in re.findall(r"\.(?:vgpr_spill_count|private_segment_fixed_size):\s+(\d+)", text))
    else:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(out.asm["cubin"])
            file.flush()
            usage = dict(re.findall(r"(REG|STACK):(\d+)", _run(CUOBJDUMP, "-res-usage", file.name)))
        registers, spilled = int(usage["REG"]), 0
        if int(usage["STACK"]) > 0:  # a spill, or the frame of a call (64-bit division)
            spilled = _spilled(out.asm["ptx"], target)
    return {"registers": registers, "spilled": spilled, "shared": out.metadata.shared}


JOBS: list[tuple] = []  # (target, what is compiled, kernel); forked workers have it too


def line_of(job: int) -> dict:
    """What is printed of a job."""
    target, key, kernel = JOBS[job]
    line = {"target": target, "kernel": key[0], "signature": dict(key[1]), "constants": dict(key[2])}
    try:
        return line | compiled(kernel, *key[1:], TARGETS[target])
    except Exception as error:
        return line | {"error": f"{type(error).__name__}: {error}"[:3000]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="+", choices=TARGETS)
    parser.add_argument("--case", default="")
    parser.add_argument("--dtype", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="how many of the shapes, aligned ones first")
    parser.add_argument("--wide", action="store_true", help="also with sizes over 2^31")
    parser.add_argument("--count", action="store_true", help="say how many there are and compile none")
    given = parser.parse_args()
    run_on_cpu()
    for target in given.targets:
        _launch.HIP = TARGETS[target].backend == "hip"
        found = recorded(given.case, given.dtype, SHAPES[: given.shapes], given.wide)
        JOBS.extend((target, *job) for job in found.items())
    if given.count:
        print(len(JOBS))
        return
    with multiprocessing.get_context("fork").Pool(len(os.sched_getaffinity(0))) as pool:
        for line in pool.imap_unordered(line_of, range(len(JOBS))):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
