"""The op library: loads the native kernels, defines ops, registers their autograd and picks the backend."""

import importlib
import importlib.util
import os
import pathlib
import warnings
from collections.abc import Callable
from operator import itemgetter

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
_FUNCTIONS: dict[torch._ops.OpOverload, type[Function]] = {}


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
    if EMULATED:
        return _load("libdgmkern_emulated.so", "-DDGM_EMULATE=ON")
    return "this torch has no CUDA" if torch.version.cuda is None else _load("libdgmkern_cuda.so", "nvcc")


def _find_triton() -> str | None:
    """None where Triton can be imported, which happens when the first of its kernels runs."""
    try:
        found = importlib.util.find_spec("triton")
    except ValueError:  # an import of it failed before
        found = None
    return "triton is not installed" if found is None else None


def _unless_forced(find: Callable[[], str | None], *others: str) -> str | None:
    """Why kernels are missing: `DGMKERN_BACKEND` names one of `others`, or what `find` finds."""
    return f"DGMKERN_BACKEND={FORCED}" if FORCED in others else find()


def _forced_backend() -> str | None:
    forced = os.environ.get("DGMKERN_BACKEND", "") or None
    if forced is not None and forced not in BACKENDS:
        raise ValueError(f"DGMKERN_BACKEND: expected one of {', '.join(BACKENDS)}, got {forced!r}")
    return forced


FORCED = _forced_backend()
# kernels of a GPU that run on CPU tensors where they are asked for: in the interpreter of Triton, as plain loops of C++
INTERPRETED = FORCED == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
EMULATED = FORCED == "cuda" and os.environ.get("DGMKERN_EMULATE") == "1"
# why an op has no kernel of a backend; None: it may have one
MISSING: dict[str, str | None] = {
    "reference": None,
    "cpp": _unless_forced(
        lambda: f"DGMKERN_BACKEND={FORCED}" if INTERPRETED or EMULATED else _load("libdgmkern.so", "C++ compiler"),
        "reference",
    ),
    "cuda": _unless_forced(_load_cuda, "reference", "triton"),
    "triton": _unless_forced(_find_triton, "reference", "cuda"),
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
    if MISSING["triton"] is None and not torch._C._dispatch_has_kernel_for_dispatch_key(f"dgmkern::{name}", "CUDA"):
        _LIBRARY.impl(name, lambda *args: _triton_or_reference(name)(*with_defaults(op, args)), "CUDA")
        if INTERPRETED:
            _LIBRARY.impl(name, lambda *args: _triton_or_reference(name)(*with_defaults(op, args)), "CPU")
    return op


def triton_kernel(name: str) -> Callable:
    """The Triton implementation of an op: the function of its name in dgmkern/triton/<family>.py, beside its reference.

    Imported when it first runs: importing dgmkern imports no Triton and looks for no GPU.
    """
    family = _REFERENCES[_OPS[name]].__module__.rpartition(".")[2]
    return getattr(importlib.import_module(f"{__package__}.triton.{family}"), name)


def _triton_or_reference(name: str) -> Callable:
    try:
        return triton_kernel(name)
    except AttributeError:
        return _REFERENCES[_OPS[name]]


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
    minus: dict[str, str] | None = None,
    drawn_as: str | Callable[[dict], list[int]] | None = None,
) -> type[Function]:
    """Make `op` differentiable any number of times; returns the Function for `call`.

    `backward` takes the gradients of the outputs of `op`, then its arguments, and returns the gradients by the
    arguments named in `by`; an argument named in `minus` has the negative of another's. Where it takes `Tensor?` for
    the gradients of outputs it gets None for an output that was not used, else zeros.
    What it does not give (the gradient by given noise, and every gradient of `backward` itself) comes from
    torch.func.vjp of the op's reference, on noise materialized from the seed where the op draws: as many numbers as
    the argument named `drawn_as` has, or of the shape that `drawn_as` makes of the arguments by name.
    """
    once = None
    if backward is not None:
        if backward not in _FUNCTIONS:  # the sum and the elements of something share their backward op
            differentiable(backward, drawn_as=drawn_as)
        once = (backward, _FUNCTIONS[backward])
    given = {name: (i, 1) for i, name in enumerate(by)}
    given |= {name: (by.index(other), -1) for name, other in (minus or {}).items()}
    function = _FUNCTIONS[op] = _function(op, given, once, drawn_as)
    register_autograd(op, function)
    return function


def _function(
    op: torch._ops.OpOverload,
    given: dict[str, tuple[int, int]],
    backward: tuple[torch._ops.OpOverload, type[Function]] | None,
    drawn_as: str | Callable[[dict], list[int]] | None,
) -> type[Function]:
    """An autograd Function of `op`. With number, sign = given[name], the gradient by argument `name` is output `number`
    of `backward` with that sign; the reference gives the others."""
    schema = op._schema.arguments
    names = [a.name for a in schema]
    tensors = [i for i, a in enumerate(schema) if "Tensor" in str(a.type)]
    others = [i for i in range(len(schema)) if i not in tensors]
    rest = [i for i in tensors if names[i] not in given]
    outputs = [(names.index(name), number, sign) for name, (number, sign) in given.items()]
    takes_none = backward is not None and "Optional" in str(backward[0]._schema.arguments[0].type)
    # each is one call into C, not a loop in Python: 1.7 us less for a forward and backward
    of_tensors, of_others, of_rest, of_given = (_picks(x) for x in (tensors, others, rest, [i for i, _, _ in outputs]))
    in_order = _picks([(tensors + others).index(i) for i in range(len(schema))])

    class Differentiable(Function):
        @staticmethod
        def forward(ctx, *args):
            ctx.save_for_backward(*of_tensors(args))
            ctx.others = of_others(args)
            if takes_none:
                ctx.set_materialize_grads(False)
            return below_autograd(op, *args)

        @staticmethod
        def backward(ctx, *cotangents):
            args = in_order(ctx.saved_tensors + ctx.others)
            needed = ctx.needs_input_grad
            grads = [None] * len(schema)
            if takes_none and all(c is None for c in cotangents):
                return tuple(grads)
            if True in of_given(needed):
                found = call(*backward, *cotangents, *args)
                found = found if isinstance(found, (tuple, list)) else (found,)
                for i, number, sign in outputs:
                    if needed[i]:
                        grads[i] = found[number] if sign > 0 else -found[number]
            if True in of_rest(needed):
                wanted = [i for i in rest if needed[i]]
                known = args if drawn_as is None else _with_noise(names, args, drawn_as)
                for i, grad in zip(wanted, vjp(_REFERENCES[op], known, wanted, cotangents), strict=True):
                    grads[i] = grad
            return tuple(grads)

    Differentiable.__name__ = Differentiable.__qualname__ = op._schema.name.partition("::")[2]
    return Differentiable


def _picks(indices: list[int]) -> Callable[[tuple], tuple]:
    """A function that picks the items of these numbers from a tuple."""
    if not indices:
        return lambda _: ()
    first, last = indices[0], indices[-1] + 1
    return itemgetter(*([slice(first, last)] if indices == [*range(first, last)] else indices))


def _with_noise(names: list[str], args: tuple, drawn_as: str | Callable[[dict], list[int]]) -> list:
    """`args` with the noise of their seed in place of the seed."""
    noise, seed, offset = (names.index(name) for name in ("noise", "seed", "offset"))
    if args[seed] is None:
        return args
    by_name = dict(zip(names, args, strict=True))
    shape = by_name[drawn_as].shape if isinstance(drawn_as, str) else drawn_as(by_name)
    args = list(args)
    args[noise] = torch.ops.dgmkern.normal(shape, args[seed], args[offset], torch.float32)
    args[seed] = None
    return args


def vjp(function: Callable, args: tuple, wanted: list[int], cotangents: tuple) -> tuple[torch.Tensor, ...]:
    """The products of `cotangents` (None: zero) with the Jacobians of `function` by its arguments number `wanted`."""

    def of_wanted(*xs):
        full = list(args)
        for i, x in zip(wanted, xs, strict=True):
            full[i] = x
        return function(*full)

    outputs, pull_back = torch.func.vjp(of_wanted, *[args[i] for i in wanted])
    if len(cotangents) == 1:
        return pull_back(*cotangents)
    pairs = zip(cotangents, outputs, strict=True)
    return pull_back(tuple(torch.zeros_like(output) if c is None else c for c, output in pairs))


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
    keys = {"reference": "CompositeExplicitAutograd", "cpp": "CPU", "cuda": "CPU" if EMULATED else "CUDA"}
    grid = {}
    for name in sorted(_OPS):
        has = torch._C._dispatch_has_kernel_for_dispatch_key
        grid[name] = {
            backend: why or (has(f"dgmkern::{name}", keys[backend]) if backend in keys else _has_triton_kernel(name))
            for backend, why in MISSING.items()
        }
        for backend, there in grid[name].items():
            if there is False:
                grid[name][backend] = f"no {backend} kernel of {name}"
    return grid


def _has_triton_kernel(name: str) -> bool:
    try:
        return callable(triton_kernel(name))
    except (ImportError, AttributeError):
        return False
