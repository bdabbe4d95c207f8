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
_REFERENCES: dict[torch._ops.OpOverload, Callable] = {}
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
    op = _OPS[name] = getattr(torch.ops.dgmkern, name).default
    _REFERENCES[op] = reference
    return op


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


def differentiable(
    op: torch._ops.OpOverload,
    backward: torch._ops.OpOverload | None = None,
    by: tuple[str, ...] = (),
    *,
    drawn_as: str | None = None,
) -> type[Function]:
    """Make `op` differentiable any number of times; returns the Function for `call`.

    `backward` takes the gradients of the outputs of `op`, then its arguments, and returns the gradients by the
    arguments named in `by`. What it does not give (the gradient by given noise, and every gradient of `backward`
    itself) comes from torch.func.vjp of the op's reference, on noise materialized from the seed where the op draws:
    as many numbers as the argument named `drawn_as` has.
    """
    again = None
    if backward is not None:
        again = _function(backward, {}, None, drawn_as)
        register_autograd(backward, again)
    once = _function(op, {name: i for i, name in enumerate(by)}, (backward, again), drawn_as)
    register_autograd(op, once)
    return once


def _function(
    op: torch._ops.OpOverload,
    given: dict[str, int],
    backward: tuple[torch._ops.OpOverload, type[Function]] | None,
    drawn_as: str | None,
) -> type[Function]:
    """An autograd Function of `op`. `backward` gives the gradient by argument `name` as its output number given[name];
    the reference gives the others."""
    schema = op._schema.arguments
    names = [a.name for a in schema]
    count = sum("Tensor" in str(a.type) for a in schema)
    if any("Tensor" in str(a.type) for a in schema[count:]):
        raise ValueError(f"{op}: expected a schema with its tensors first")
    by_reference = [i for i in range(count) if names[i] not in given]
    sources = [given.get(name) for name in names]
    nones = (None,) * (len(schema) - len(given))
    in_order = sources == [*range(len(given)), *nones]
    in_order = in_order and all(
        str(a.type) == "Tensor" for a in schema[: len(given)]
    )  # what may be None has no gradient
    one = len(given) > 0 and len(backward[0]._schema.returns) == 1

    # Few steps of Python where `backward` gives all that is wanted: forward and backward of 64 numbers take 45 us
    # instead of 51, of which torch's own share is 29.
    class Differentiable(Function):
        @staticmethod
        def forward(ctx, *args):
            ctx.save_for_backward(*args[:count])
            ctx.others = args[count:]
            with _AutoDispatchBelowAutograd():
                return op(*args)

        @staticmethod
        def backward(ctx, *cotangents):
            args = (*ctx.saved_tensors, *ctx.others)
            needs = ctx.needs_input_grad
            rest = [i for i in by_reference if needs[i]]
            grads = (None,) * len(schema)
            if sum(needs) > len(rest):
                found = call(*backward, *cotangents, *args)
                found = (found,) if one else tuple(found)
                if in_order:
                    grads = (*found, *nones)
                else:
                    grads = [found[k] if needs[i] and k is not None else None for i, k in enumerate(sources)]
            if rest:
                grads = list(grads)
                if drawn_as is not None:
                    args = _with_noise(names, args, drawn_as)
                for i, grad in zip(rest, _vjp(_REFERENCES[op], args, rest, cotangents), strict=True):
                    grads[i] = grad
            return tuple(grads)

    Differentiable.__name__ = Differentiable.__qualname__ = op._schema.name.partition("::")[2]
    return Differentiable


def _with_noise(names: list[str], args: tuple, drawn_as: str) -> tuple | list:
    """`args` with the noise of their seed in place of the seed."""
    noise, seed, offset = (names.index(name) for name in ("noise", "seed", "offset"))
    if args[seed] is None:
        return args
    args = list(args)
    shape = args[names.index(drawn_as)].shape
    args[noise] = torch.ops.dgmkern.normal(shape, args[seed], args[offset], torch.float32)
    args[seed] = None
    return args


def _vjp(function: Callable, args: tuple | list, wanted: list[int], cotangents: tuple) -> tuple[torch.Tensor, ...]:
    """The products of `cotangents` with the Jacobians of `function` by its arguments number `wanted`."""

    def of_wanted(*xs):
        full = list(args)
        for i, x in zip(wanted, xs, strict=True):
            full[i] = x
        return function(*full)

    _, pull_back = torch.func.vjp(of_wanted, *[args[i] for i in wanted])
    return pull_back(cotangents if len(cotangents) > 1 else cotangents[0])


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
    with _AutoDispatchBelowAutograd():
        return op(*args)


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
