"""Counter-based normals and uniforms (Philox4x32-10), in plain torch."""

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(counter: Tensor, seed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 (Salmon et al. 2011) of counter (low word, high word, 0, 0) under the key `seed`.

    counter int64 [...], seed int64 [1] -> four int64 tensors [...] of 32-bit words.
    """
    c0, c1 = counter & _MASK, (counter >> 32) & _MASK
    c2 = c3 = torch.zeros_like(counter)
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]  # wraps modulo 2^64: both halves are right
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def box_muller(radius_word: Tensor, angle_word: Tensor) -> tuple[Tensor, Tensor]:
    """r (cos, sin)(pi/2 y) in fp64, with r = sqrt(-2 ln u), u = (radius_word + 1/2) / 2^32, and y in [-1/2, 1/2) the
    low 30 bits of the angle word, signed, over 2^30; its bit 31 negates the cosine, then bit 30 swaps the two."""
    r = (-2 * torch.log((radius_word.double() + 0.5) * 2.0**-32)).sqrt()
    low = angle_word & 0x3FFFFFFF
    angle = torch.where(low < 2**29, low, low - 2**30).double() * (math.pi / 2 * 2.0**-30)
    cos, sin = torch.cos(angle), torch.sin(angle)
    cos = torch.where(angle_word & 0x80000000 != 0, -cos, cos)
    swap = angle_word & 0x40000000 != 0
    return r * torch.where(swap, sin, cos), r * torch.where(swap, cos, sin)


def normal(size: list[int], seed: Tensor, offset: int, dtype: torch.dtype) -> Tensor:
    """eps[i] = lane (offset + i) % 4 of the normals of counter (offset + i) // 4, rounded to fp32, then to `dtype`."""
    n = math.prod(size)
    first, skip = offset // 4, offset % 4
    counter = torch.arange(first, first + (n + skip + 3) // 4, dtype=torch.int64, device=seed.device)
    w0, w1, w2, w3 = philox(counter, seed)
    z = torch.stack([*box_muller(w0, w1), *box_muller(w2, w3)], dim=-1)  # [counters, 4]
    return z.flatten()[skip : skip + n].float().to(dtype).reshape(size)


def uniform(n: int, seed: Tensor, offset: int) -> Tensor:
    """u[i] = ((w >> 9) + 1/2) / 2^23 in (0, 1), w = lane (offset + i) % 4 of the words of counter (offset + i) // 4.

    fp32 [n], exact, and so is 1 - u.
    """
    first, skip = offset // 4, offset % 4
    counter = torch.arange(first, first + (n + skip + 3) // 4, dtype=torch.int64, device=seed.device)
    words = torch.stack(philox(counter, seed), dim=-1).flatten()[skip : skip + n]
    return ((words >> 9).float() + 0.5) * 2.0**-23


def eps_like(x: Tensor, noise: Tensor | None, seed: Tensor | None, offset: int) -> Tensor:
    """The noise of an op on `x`, as its formula uses it: `noise` if given, else the fp32 normals of `seed`."""
    return noise if noise is not None else normal(list(x.shape), seed, offset, torch.float32)
