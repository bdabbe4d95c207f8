"""Memory formats: what an op reads in place, and how its outputs lie in memory."""

import torch
from torch import Tensor


def layout_of(x: Tensor) -> torch.memory_format:
    """The memory format of an op's output for input `x`: channels_last where x is that, else contiguous (a tensor of
    any other layout is copied once)."""
    if not x.is_contiguous():
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            return torch.channels_last
        if x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d):
            return torch.channels_last_3d
    return torch.contiguous_format


def laid_out_as(x: Tensor, out: Tensor) -> Tensor:
    """`out` in the memory format of an output for input `x`."""
    return out.contiguous(memory_format=layout_of(x))


def empty_as(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialized output for input `x`."""
    return torch.empty_like(x, dtype=dtype, memory_format=layout_of(x))
