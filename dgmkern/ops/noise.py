"""Counter-based standard normals: number i is a function of (seed, i), the same on every backend."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _library, reference
from ..rng import seed_tensor
from ._arguments import _FLOATING, check_offset


def _normal_fake(size, seed, offset, dtype):
    return torch.empty(size, dtype=dtype, device=seed.device)


_normal = _library.define(
    "normal(SymInt[] size, Tensor seed, SymInt offset, ScalarType dtype) -> Tensor",
    reference.noise.normal,
    _normal_fake,
)


def normal(
    shape: int | Sequence[int],
    seed: int | Tensor,
    *,
    offset: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normals that depend on nothing but (seed, element).

    eps[i] is lane (offset + i) % 4 of Philox4x32-10 (Salmon et al. 2011) with key `seed` and counter
    (offset + i) // 4, through Box-Muller: words (0, 1) give lanes (0, 1), words (2, 3) lanes (2, 3). The same bits on
    every CPU, for any number of threads and any split of a range, and on CUDA; within 2 ulp in Triton. |eps| <= 6.77.

    Args:
        shape: shape of the result; i counts its elements in row-major order.
        seed: int, or int64 tensor of one element on `device`. Ints are taken modulo 2^64.
        offset: number of the first element, for a part of a longer stream (a data-parallel rank, a chunk).
        dtype: float64, float32, bfloat16 or float16. The fp32 normal, rounded (exact in float64).
        device: where to make them.

    Raises:
        TypeError: seed is no int and no int64 tensor; dtype is not one of the four; offset is no int.
        ValueError: a negative dimension or offset; a seed tensor of more than one element.
    """
    shape = (shape,) if isinstance(shape, (int, torch.SymInt)) else tuple(shape)
    if any(n < 0 for n in shape):
        raise ValueError(f"shape: expected dimensions >= 0, got {shape}")
    if dtype not in _FLOATING:
        raise TypeError(f"dtype: expected float64, float32, bfloat16 or float16, got {dtype}")
    check_offset(offset)
    return _normal(shape, seed_tensor(seed, device), offset, dtype)


def eps_of(x: Tensor, noise: Tensor | None, seed: Tensor | None, offset: int, dtype: torch.dtype) -> Tensor:
    """The noise of an op on `x`, materialized in `dtype` (for double backward)."""
    if noise is not None:
        return noise.to(dtype)
    return _normal(x.shape, seed, offset, torch.float32).to(dtype)
