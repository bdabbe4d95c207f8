"""Counter-based normals."""

import torch
import triton.language as tl
from torch import Tensor

from ._launch import Operands
from ._random import eps_of
from ._tile import elements_of, kernel, store, tile_of


@kernel
def _normal(
    out,
    source,
    offset,
    samples,
    inner,
    channels,
    NOISE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    WIDE: tl.constexpr,
):
    rows, first = tile_of(inner, ROWS, COLS, WIDE)
    at, mask = elements_of(rows, first, samples, inner, channels, NOISE, COLS)
    eps = eps_of(source, offset, rows, first, at, mask, inner, channels, NOISE, ROWS, COLS)
    store(out + at, eps, mask)


def normal(size: list[int], seed: Tensor, offset: int, dtype: torch.dtype) -> Tensor:
    """eps[i] = lane (offset + i) % 4 of the normals of counter (offset + i) // 4, rounded from fp32 to `dtype`."""
    out = torch.empty(size, dtype=dtype, device=seed.device)
    tensors = Operands(out, by_sample=False)
    tensors.run(_normal, out, **tensors.noise(None, seed, offset))
    return out
