"""Argument checks shared by the ops: each failure names the argument, what was given and what is wanted."""

import os

import torch
from torch import Tensor

from ..rng import draw_seed, seed_tensor
from ..schedule import DiffusionSchedule

# look at the steps of a batch on any device, which waits for a GPU; else its kernels make NaN of a wrong one
_DEBUG = os.environ.get("DGMKERN_DEBUG") == "1"
_FLOATING = frozenset((torch.float64, torch.float32, torch.bfloat16, torch.float16))


def check_floating(name: str, x: Tensor) -> None:
    """Raise TypeError unless `x` is a tensor of a dtype that the ops compute in."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
    if x.dtype not in _FLOATING:
        raise TypeError(f"{name}: expected dtype float64, float32, bfloat16 or float16, got {x.dtype}")


def check_batch(name: str, x: Tensor) -> None:
    """Raise unless `x` is a floating tensor with a batch dimension."""
    check_floating(name, x)
    if x.dim() == 0:
        raise ValueError(f"{name}: expected a tensor [N, ...] with a batch dimension, got one without dimensions")


def check_alike(name: str, x: Tensor, like_name: str, like: Tensor) -> None:
    """Raise unless `x` has the shape, dtype and device of `like`."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
    if x.shape != like.shape:
        raise ValueError(f"{name}: expected the shape {tuple(like.shape)} of {like_name}, got {tuple(x.shape)}")
    if x.dtype != like.dtype:
        raise TypeError(f"{name}: expected the dtype {like.dtype} of {like_name}, got {x.dtype}")
    if x.device != like.device:
        raise ValueError(f"{name}: expected the device {like.device} of {like_name}, got {x.device}")


def noise_source(
    x_name: str,
    x: Tensor,
    noise: Tensor | None,
    generator: torch.Generator | None,
    seed: int | Tensor | None,
    offset: int,
) -> tuple[Tensor | None, Tensor | None]:
    """(noise, seed tensor), one of them None: the noise given, else the seed given, else one drawn from torch."""
    if noise is not None:
        if seed is not None or generator is not None:
            raise ValueError("noise: give noise, or one of seed and generator, not both")
        check_alike("noise", noise, x_name, x)
        return noise, None
    return None, drawn_seed(x.device, generator, seed, offset)


def drawn_seed(
    device: torch.device, generator: torch.Generator | None, seed: int | Tensor | None, offset: int
) -> Tensor:
    """The seed given, else one drawn from torch's generator."""
    check_offset(offset)
    if seed is None:
        return draw_seed(device, generator)
    if generator is not None:
        raise ValueError("seed: give one of seed and generator, not both")
    return seed_tensor(seed, device)


def check_offset(offset: int) -> None:
    """Raise unless `offset` counts elements: an int >= 0."""
    if isinstance(offset, bool) or not isinstance(offset, (int, torch.SymInt)):
        raise TypeError(f"offset: expected an int, got {type(offset).__name__}")
    if offset < 0:
        raise ValueError(f"offset: expected a number of elements >= 0, got {offset}")


def check_schedule(schedule: DiffusionSchedule) -> None:
    """Raise TypeError unless `schedule` is a DiffusionSchedule."""
    if not isinstance(schedule, DiffusionSchedule):
        raise TypeError(f"s: expected a dgmkern.DiffusionSchedule, got {type(schedule).__name__}")


def check_prediction(prediction: str) -> None:
    """Raise ValueError unless `prediction` is one that the ops know."""
    if prediction not in ("eps", "x0", "v"):
        raise ValueError(f"prediction: expected 'eps', 'x0' or 'v', got {prediction!r}")


def check_invertible(prediction: str, schedule: DiffusionSchedule) -> None:
    """Raise ValueError unless x_0 follows from what a model predicts, at every step of the schedule."""
    check_prediction(prediction)
    if prediction == "eps" and schedule.zero_terminal:
        raise ValueError(
            "prediction: expected 'v' or 'x0' with a schedule that ends in pure noise (zero terminal SNR): there 'eps' "
            "tells nothing about x_0"
        )


def check_model_out(model_out: Tensor, x_name: str, x: Tensor, *, halves: bool | None) -> None:
    """Raise unless `model_out` fits x: like it, or with twice its channels where it also gives a variance (halves;
    None: either)."""
    if not isinstance(model_out, Tensor) or (not halves and model_out.shape == x.shape):
        return check_alike("model_out", model_out, x_name, x)
    if halves is not False and x.dim() >= 2 and model_out.shape == (x.shape[0], 2 * x.shape[1], *x.shape[2:]):
        return check_alike("model_out", model_out[:, : x.shape[1]], x_name, x)
    if halves:
        raise ValueError(
            f"model_out: expected [N, 2 C, ...], prediction and variance of {x_name} {tuple(x.shape)}, got "
            f"{tuple(model_out.shape)}"
        )
    check_alike("model_out", model_out, x_name, x)


def steps_tensor(
    t: int | Tensor, x_name: str, x: Tensor, schedule: DiffusionSchedule, *, name: str = "t", first: int = 0
) -> Tensor:
    """`t` as int64 [N] on x's device. The values of a tensor are checked by the CPU's kernels, where they are read; on
    CUDA only with DGMKERN_DEBUG=1."""
    n = x.shape[0]
    if not isinstance(t, Tensor):
        if isinstance(t, bool) or not isinstance(t, (int, torch.SymInt)):
            raise TypeError(f"{name}: expected an int64 tensor [N] or an int, got {type(t).__name__}")
        if not first <= t < schedule.steps:
            raise IndexError(f"{name}: expected steps in [{first}, {schedule.steps}), got {t}")
        if n == 1 and not torch.compiler.is_compiling():  # 0.4 us instead of 2: a step of one image takes 12
            return schedule.step_tensor(t, x.device)
        return torch.full((n,), t, dtype=torch.int64, device=x.device)
    if t.dtype != torch.int64:
        raise TypeError(f"{name}: expected dtype int64, got {t.dtype}")
    if t.dim() != 1 or t.shape[0] != n:
        raise ValueError(f"{name}: expected shape ({n},), one step per sample of {x_name}, got {tuple(t.shape)}")
    if t.device != x.device:
        raise ValueError(f"{name}: expected the device {x.device} of {x_name}, got {t.device}")
    if _DEBUG and not torch.compiler.is_compiling() and n > 0:
        low, high = (int(end) for end in torch.aminmax(t))
        if low < first or high >= schedule.steps:
            wrong = low if low < first else high
            raise IndexError(f"{name}: expected steps in [{first}, {schedule.steps}), got {wrong}")
    return t
