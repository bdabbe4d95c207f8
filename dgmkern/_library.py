"""The op library: loads the native kernels, defines ops, registers their autograd and picks the backend."""

import os
import pathlib
import warnings
from collections.abc import Callable

import torch
from torch._C import _AutoDispatchBelowAutograd
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.forward_ad import _set_fwd_grad_enabled
from torch.autograd.function import Function, _SingleLevelFunction

BACKENDS = ("reference", "cpp", "cuda", "triton")
_FOLDER = pathlib.Path(__file__).parent
_LIBRARY = torch.library.Library("dgmkern", "FRAGMENT")
_OPS: dict[str, torch._ops.OpOverload] = {}
_single_level: dict[type[Function], type] = {}


class MissingBackendError(RuntimeError):
    """`DGMKERN_BACKEND` asks for kernels that are not here."""


def _load(name: str, tool: str) -> str | None:
    """Load a library of kernels; None if that worked, else why not."""
    path = _FOLDER / name
    if not path.exists():
        return f"the native library was not built (no {tool} when dgmkern was installed?)"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"the native library does not load: {error}"
    return None


def _load_cuda() -> str | None:
    """Load the CUDA kernels; no GPU is looked for."""
    return "this torch has no CUDA" if torch.version.cuda is None else _load("libdgmkern_cuda.so", "nvcc")


def _forced_backend() -> str | None:
    forced = os.environ.get("DGMKERN_BACKEND", "") or None
    if forced is not None and forced not in BACKENDS:
        raise ValueError(f"DGMKERN_BACKEND: expected one of {', '.join(BACKENDS)}, got {forced!r}")
    return forced


FORCED = _forced_backend()
# why an op has no kernel of a backend; None: it may have one
MISSING: dict[str, str | None] = {
    "reference": None,
    "cpp": "DGMKERN_BACKEND=reference" if FORCED == "reference" else _load("libdgmkern.so", "C++ compiler"),
    "cuda": "DGMKERN_BACKEND=reference" if FORCED == "reference" else _load_cuda(),
    "triton": "no Triton kernels in this version",
}
if FORCED is not None and MISSING[FORCED] is not None:
    raise MissingBackendError(f"DGMKERN_BACKEND={FORCED}: {MISSING[FORCED]}")
if FORCED is None and MISSING["cpp"] is not None:
    warnings.warn(f"dgmkern runs on its slow reference: {MISSING['cpp']}", RuntimeWarning, stacklevel=3)


def define(schema: str, reference: Callable, fake: Callable) -> torch._ops.OpOverload:
    """Define the op of `schema`: its plain torch `reference` runs wherever no kernel does, `fake` gives shapes."""
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"dgmkern::{name}", fake, lib=_LIBRARY)
    _OPS[name] = getattr(torch.ops.dgmkern, name).default
    return _OPS[name]


def register_autograd(op: torch._ops.OpOverload, function: type[Function]) -> None:
    """Make `function` (whose forward takes the op's arguments and runs the op) the op's autograd.

    It goes to the op's own Autograd key, not only to the public wrapper: torch.func, torch.compile of torch.func and
    forward AD meet the op there. A single-level Function (what torch.func itself uses) handles one level of it.
    """

    def forward(ctx, *args):
        # the levels below this one (grad of grad) must still see a differentiable op
        with torch.enable_grad(), _set_fwd_grad_enabled(True):
            return function.forward(ctx, *args)

    single = type(function.__name__, (_SingleLevelFunction,), {"forward": forward, "backward": function.backward})
    _single_level[function] = single

    def kernel(*args):
        args = with_defaults(op, args)
        if (torch.is_grad_enabled() and torch._C._any_requires_grad(*args)) or forward_ad._current_level >= 0:
            with enable_single_level_autograd_function():
                return single.apply(*args)
        with _AutoDispatchBelowAutograd():
            return op(*args)

    _LIBRARY.impl(op._schema.name.partition("::")[2], kernel, "Autograd")


def with_defaults(op: torch._ops.OpOverload, args: tuple) -> tuple:
    """The dispatcher drops trailing arguments that equal their defaults; put them back."""
    return args + tuple(a.default_value for a in op._schema.arguments[len(args) :])


def call(op: torch._ops.OpOverload, function: type[Function] | None, *args):
    """Run `op`, recording `function` for backward: a short cut around the dispatcher's Autograd key in plain eager
    mode (measured: 14 us less for a forward and backward of 128 x 20), that key everywhere else."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return op(*args)
    if function is not None and torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
        return function.apply(*args)
    return below_autograd(op, *args)


def below_autograd(op: torch._ops.OpOverload, *args):
    """Run `op` without recording anything."""
    with _AutoDispatchBelowAutograd():
        return op(*args)


def cpu_capability() -> str | None:
    """The instruction set that the CPU kernels use: "avx512", "avx2" or "baseline"; None without native kernels.

    The best this CPU has, or what `DGMKERN_CPU` names when dgmkern is first used.
    """
    return None if MISSING["cpp"] is not None else torch.ops.dgmkern.cpu_capability()


def build_info() -> dict[str, str | None]:
    """How the native library was built: compiler, flags, torch headers, stable ABI target; empty without one."""
    if MISSING["cpp"] is not None:
        return {}
    return dict(line.split("=", 1) for line in torch.ops.dgmkern.build_info().splitlines())


def backends() -> dict[str, dict[str, bool | str]]:
    """For each op, the backends it has on this machine: True, or why it is missing."""
    keys = {"reference": "CompositeExplicitAutograd", "cpp": "CPU", "cuda": "CUDA", "triton": "CUDA"}
    grid = {}
    for name in sorted(_OPS):
        has = torch._C._dispatch_has_kernel_for_dispatch_key
        grid[name] = {
            backend: has(f"dgmkern::{name}", keys[backend]) if why is None else why for backend, why in MISSING.items()
        }
        for backend, there in grid[name].items():
            if there is False:
                grid[name][backend] = f"no {backend} kernel of {name}"
    return grid
