"""What every metric does with the features it is given: checks, and lists of batches."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..ops._arguments import check_floating


def check_features(name: str, x: Tensor, width: int | None = None) -> None:
    """Raise unless `x` is finite features [N, D] of a floating dtype, of D = `width` where that is given."""
    check_floating(name, x)
    if x.dim() != 2:
        raise ValueError(f"{name}: expected [N, D], a row of features per sample, got the shape {tuple(x.shape)}")
    if x.shape[1] == 0:
        raise ValueError(f"{name}: expected at least one feature per sample, got the shape {tuple(x.shape)}")
    if width is not None and x.shape[1] != width:
        raise ValueError(f"{name}: expected {width} features per sample, as before, got {x.shape[1]}")
    check_finite(name, x)


def check_finite(name: str, x: Tensor) -> None:
    """Raise ValueError, with how many and where, unless every value of `x` [N, ...] is finite."""
    finite = x.isfinite()
    if bool(finite.all()):
        return
    rows = (~finite).flatten(1).any(1)
    values = f"{int(x.isnan().sum())} NaN and {int(x.isinf().sum())} infinite"
    raise ValueError(
        f"{name}: expected finite values, got {values} in {int(rows.sum())} of {x.shape[0]} rows, the first in row "
        f"{int(rows.nonzero()[0])}"
    )


def check_pair(real: Tensor, generated: Tensor) -> None:
    """Raise unless `real` [N, D] and `generated` [M, D] are features of one width on one device."""
    check_features("real", real)
    check_features("generated", generated)
    if generated.shape[1] != real.shape[1]:
        raise ValueError(f"generated: expected the {real.shape[1]} features of real, got {generated.shape[1]}")
    if generated.device != real.device:
        raise ValueError(f"generated: expected the device {real.device} of real, got {generated.device}")


def check_count(name: str, value: int, least: int = 1) -> None:
    """Raise unless `value` is an int of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")


def with_options(function: Callable, options: dict[str, Any]) -> Callable:
    """`function` with keyword arguments; TypeError where it has none of such a name."""
    inspect.signature(function).bind_partial(**options)
    return partial(function, **options)


class FeatureBatches:
    """Batches of features of real and of generated samples, copied as they come, joined by `joined`."""

    def __init__(self) -> None:
        self._batches: dict[str, list[Tensor]] = {"real": [], "generated": []}

    def update(self, *, real: Tensor | None = None, generated: Tensor | None = None) -> None:
        """Add features [N, D] of either side or both; neither is added where one is refused.

        Raises:
            TypeError, ValueError: not finite features [N, D] of the width and device seen before; neither side given.
        """
        given = {name: x for name, x in (("real", real), ("generated", generated)) if x is not None}
        if not given:
            raise ValueError("update: expected real, generated or both, got neither")
        seen = [batches[0] for batches in self._batches.values() if batches]
        for name, x in given.items():
            check_features(name, x, seen[0].shape[1] if seen else None)
            if seen and x.device != seen[0].device:
                raise ValueError(f"{name}: expected the device {seen[0].device}, as before, got {x.device}")
            seen.append(x)
        for name, x in given.items():
            self._batches[name].append(x.detach().clone())

    def joined(self, name: str) -> Tensor:
        """All features of one side, "real" or "generated": [N, D]; ValueError where there are none."""
        if not self._batches[name]:
            raise ValueError(f"{name}: expected samples by update({name}=...) before, got none")
        return torch.cat(self._batches[name])

    def reset(self) -> None:
        """Forget all batches."""
        for batches in self._batches.values():
            batches.clear()
