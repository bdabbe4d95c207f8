"""Tiles of products of matrices, in fp64 or of numbers kept as two bf16 (a high and a low part, in planes).

Of such numbers a product is three of bf16, summed in fp32: high times high, high times low, low times high.
"""

import triton
import triton.language as tl

from ._tile import INTERPRETED, to_bfloat16


@triton.jit
def _dot(x, y, total):
    if INTERPRETED and x.dtype == tl.bfloat16:  # the interpreter would multiply the bits
        total = tl.dot(x.to(tl.float32), y.to(tl.float32), total)
    else:
        total = tl.dot(x, y, total, out_dtype=total.dtype)
    return total


@triton.jit
def product(
    a, b, rows, columns, m, n, length, a_row, a_column, b_row, b_column, a_plane, b_plane,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Rows and columns (int32 [ROWS], [COLUMNS]) of A B; A is [m, length] and B [length, n], of the strides given."""
    inner = tl.arange(0, DEPTH)
    a_at = (a + rows.to(tl.int64) * a_row)[:, None] + inner[None, :] * a_column
    b_at = (b + columns.to(tl.int64) * b_column)[None, :] + inner[:, None] * b_row
    total = tl.zeros([ROWS, COLUMNS], tl.float32 if a.dtype.element_ty == tl.bfloat16 else tl.float64)
    for first in range(0, length, DEPTH):
        of_a = (rows < m)[:, None] & (first + inner < length)[None, :]
        of_b = (first + inner < length)[:, None] & (columns < n)[None, :]
        x, y = tl.load(a_at, of_a, other=0.0), tl.load(b_at, of_b, other=0.0)
        if a.dtype.element_ty == tl.bfloat16:
            total = _dot(x, tl.load(b_at + b_plane, of_b, other=0.0), total)
            total = _dot(tl.load(a_at + a_plane, of_a, other=0.0), y, total)
        total = _dot(x, y, total)
        a_at += DEPTH * a_column
        b_at += DEPTH * b_row
    return total


@triton.jit
def load_tile(pointer, plane, rows, columns, m, n):
    """Rows and columns of a dense matrix [m, n], in fp64 or fp32."""
    at = (pointer + rows.to(tl.int64) * n)[:, None] + columns[None, :]
    mask = (rows < m)[:, None] & (columns < n)[None, :]
    x = tl.load(at, mask, other=0.0)
    if pointer.dtype.element_ty == tl.bfloat16:
        x = x.to(tl.float32) + tl.load(at + plane, mask, other=0.0).to(tl.float32)
    return x


@triton.jit
def store_tile(pointer, plane, x, rows, columns, m, n):
    """Write rows and columns of a dense matrix [m, n]."""
    at = (pointer + rows.to(tl.int64) * n)[:, None] + columns[None, :]
    mask = (rows < m)[:, None] & (columns < n)[None, :]
    if pointer.dtype.element_ty == tl.bfloat16:
        high = to_bfloat16(x)
        tl.store(at, high, mask)
        tl.store(at + plane, to_bfloat16(x - high.to(tl.float32)), mask)
    else:
        tl.store(at, x, mask)


@triton.jit
def symmetric_tile(
    a, b, added, out, row, column, n, length, a_row, a_column, b_row, b_column, a_plane, plane, alpha, beta, gamma,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Tile row, column of alpha A B + beta ADDED + gamma I, which is [n, n] and symmetric, and of its transpose."""
    rows, columns = row * BLOCK + tl.arange(0, BLOCK), column * BLOCK + tl.arange(0, BLOCK)
    x = alpha * product(
        a, b, rows, columns, n, n, length, a_row, a_column, b_row, b_column, a_plane, a_plane, BLOCK, BLOCK, DEPTH
    )  # fmt: skip
    if added is not None:
        x += beta * load_tile(added, plane, rows, columns, n, n)
    x += tl.where(rows[:, None] == columns[None, :], gamma, 0.0)
    store_tile(out, plane, x, rows, columns, n, n)
    if row != column:
        store_tile(out, plane, tl.trans(x), columns, rows, n, n)
