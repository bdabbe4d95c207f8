"""Checks of matrices and features, and what ops on them share."""

import torch
from torch import Tensor


def like(a, *_):
    return a.new_empty(a.shape)


def symmetric(x: Tensor) -> Tensor:
    return (x + x.mT) / 2


def rounding_of(s: Tensor) -> float:
    """What rounding may have done to a matrix, over its largest number or eigenvalue."""
    return 8 * s.shape[-1] * torch.finfo(s.dtype).eps


def check_real(name: str, x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
    if x.dtype not in (torch.float64, torch.float32):
        raise TypeError(f"{name}: expected dtype float64 or float32, got {x.dtype}")


def check_matrix(name: str, x: Tensor) -> None:
    check_real(name, x)
    if x.dim() < 2:
        raise ValueError(f"{name}: expected a matrix [..., M, N], got {tuple(x.shape)}")


def check_square(name: str, x: Tensor) -> None:
    check_matrix(name, x)
    if x.shape[-1] != x.shape[-2] or x.shape[-1] == 0:
        raise ValueError(f"{name}: expected a square matrix [..., D, D], got {tuple(x.shape)}")


def check_finite(name: str, x: Tensor) -> None:
    """On the CPU and in eager mode, where looking costs nothing."""
    if x.device.type != "cpu" or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return
    if not x.isfinite().all():
        raise ValueError(f"{name}: expected finite numbers, got {int((~x.isfinite()).sum())} that are not")


def check_features(name: str, x: Tensor) -> None:
    check_real(name, x)
    if x.dim() != 2 or x.shape[0] < 2 or x.shape[1] == 0:
        raise ValueError(f"{name}: expected features [N, D] of at least 2 samples, got {tuple(x.shape)}")
    check_finite(name, x)


def checked_gaussian(y: tuple[Tensor, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    if len(y) != 2:
        raise ValueError(f"y: expected features or a pair (mean, factor), got {len(y)} of something")
    for name, given, dims in (("mean", y[0], 1), ("factor", y[1], 2)):
        check_real(f"y: {name}", given)
        if given.dim() != dims or given.shape[-1] != x.shape[1] or given.device != x.device:
            raise ValueError(
                f"y: expected a {name} {'[D]' if dims == 1 else '[R, D]'} with D = {x.shape[1]} on {x.device}, "
                f"got {tuple(given.shape)} on {given.device}"
            )
        check_finite(f"y: {name}", given)
    return y[0].double(), y[1].double()
