"""The polar iteration on batches of matrices, made of products on the device, in a number of launches that is fixed.

In strict mode products are of fp64, in low mode of two bf16 a number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._launch import INTERPRETED, launch, power_of_2
from ._matrix_kernels import multiply, multiply_symmetric, small_steps
from ._polar_steps import OPENING, Quintic, sequence, steps

SMALL = 128  # up to this width one program has a matrix, all steps of the opening in one launch


@dataclass(frozen=True)
class Matrices:
    """[batch, m, n] as fp64, or as bf16 [2, batch, m, n]; may be transposed."""

    data: Tensor

    @property
    def low(self) -> bool:
        return self.data.dtype is torch.bfloat16

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.data.shape[-3:])

    @property
    def mT(self) -> Matrices:
        return Matrices(self.data.mT)

    @property
    def strides(self) -> tuple[int, int, int]:
        return self.data.stride()[-3:]

    @property
    def plane(self) -> int:
        return self.data.stride(0) if self.low else 0

    def empty(self, m: int, n: int) -> Matrices:
        """For as many matrices [m, n] of this kind."""
        return Matrices(self.data.new_empty((*self.data.shape[:-2], m, n)))

    def double(self) -> Tensor:
        """[batch, m, n]"""
        return self.data.double().sum(0) if self.low else self.data


def low_of(x: Tensor) -> Matrices:
    """fp64 [batch, m, n] rounded to two bf16 a number: 16 bits of it."""
    high = x.bfloat16()
    return Matrices(torch.stack([high, (x - high).bfloat16()]))


def _blocks(low: bool, *sides: int) -> dict[str, int]:
    """BLOCK, DEPTH and warps for matrices of these sides."""
    if INTERPRETED:
        side = min(max(power_of_2(max(sides)), 16), 128)
        return {"BLOCK": side, "DEPTH": side}
    if low:
        return {"BLOCK": 128, "DEPTH": 16, "num_warps": 8, "num_stages": 4}  # a depth of 32 spills on sm_80
    return {"BLOCK": 64 if max(sides) > 32 else 32, "DEPTH": 16, "num_warps": 8 if max(sides) > 32 else 4}


def times(a: Matrices, b: Matrices) -> Matrices:
    """A B."""
    (batch, m, k), n = a.shape, b.shape[-1]
    out, how = a.empty(m, n), _blocks(a.low, m, n)
    block = how.pop("BLOCK")
    programs = batch * -(-m // block) * -(-n // block)
    launch(
        multiply, programs, out.data.device, a.data, b.data, out.data, m, n, k, *a.strides, *b.strides,
        a.plane, b.plane, out.plane, ROWS=block, COLUMNS=block, **how,
    )  # fmt: skip
    return out


def symmetric_times(
    a: Matrices, b: Matrices, added: Matrices | None = None, alpha: float = 1.0, beta: float = 0.0, gamma: float = 0.0
) -> Matrices:
    """alpha A B + beta ADDED + gamma I, half of which is computed: A B is symmetric, B is A or its transpose."""
    batch, n, k = a.shape
    out, how = a.empty(n, n), _blocks(a.low, n)
    programs = batch * (-(-n // how["BLOCK"])) ** 2
    launch(
        multiply_symmetric, programs, out.data.device, a.data, b.data, None if added is None else added.data,
        out.data, n, k, *a.strides, *b.strides[1:], a.plane, out.plane, alpha, beta, gamma, **how,
    )  # fmt: skip
    return out


def _stepped(x: Matrices, quintics: list[Quintic]) -> Matrices:
    for a, b, c in quintics:
        gram = symmetric_times(x.mT, x)
        x = times(x, symmetric_times(gram, gram, gram, c, b, a))
    return x


def _stepped_small(x: Tensor) -> Tensor:
    opening, closing, _, _ = steps()
    batch, m, n = x.shape
    y, gram, poly = torch.empty_like(x), x.new_empty((batch, n, n)), x.new_empty((batch, n, n))
    for count, (a, b, c) in [(OPENING["strict"], opening), *((1, quintic) for quintic in closing)]:
        launch(small_steps, batch, x.device, x, y, gram, poly, m, n, a, b, c, count, **_blocks(False, m, n))
        x, y = (y, x) if count % 2 == 1 else (x, y)
    return x


def polar(b: Tensor, low: bool = False) -> Tensor:
    """The polar factor Q of matrices [..., M, N], fp64: B = Q H with |Q|_2 <= 1 up to rounding and H semidefinite.

    Singular values above 2^-52 |B|_F become 1; smaller ones, and over the null space of B rounding errors, anything up
    to 1, so that <Q, B> is |B|_* in any case. In low mode, which larger matrices have, products are of two bf16 a
    number and the limit is 1.5e-9 |B|_F. What is left of the angles between Q and the factor enters <Q, B> squared.
    """
    if b.shape[-2] < b.shape[-1]:
        return polar(b.mT, low).mT
    if b.numel() == 0:
        return torch.zeros_like(b)
    x = (b / _positive(frobenius_norm(b))).reshape(-1, *b.shape[-2:])  # no singular value is larger than the norm
    m, n = x.shape[1:]
    x = torch.nn.functional.pad(x, (0, -n % 16, 0, -m % 16))  # zeros stay zeros, and rows of 16 numbers load at once
    return _of_scaled(x.contiguous(), low)[:, :m, :n].reshape(b.shape)


def frobenius_norm(b: Tensor) -> Tensor:
    """[..., 1, 1]; squares neither overflow nor vanish."""
    largest = _positive(b.abs().amax((-2, -1), keepdim=True))
    return largest * torch.linalg.vector_norm(b / largest, dim=(-2, -1), keepdim=True)


def _positive(x: Tensor) -> Tensor:
    """1 in place of 0."""
    return torch.where(x == 0, 1.0, x)


def _of_scaled(x: Tensor, low: bool) -> Tensor:
    if max(x.shape[1:]) <= SMALL:
        return _stepped_small(x)
    if not low:
        return _stepped(Matrices(x), sequence("strict")).data
    q = Matrices(_stepped(low_of(x), sequence("low")).double())
    return times(q, symmetric_times(q.mT, q, None, -0.5, 0.0, 1.5)).data  # Newton-Schulz: lengths are 1 but for 1e-10
