"""Kernels of the polar iteration: products of batches of matrices, halves of symmetric ones, and all of it in one
program for a small matrix."""

import triton
import triton.language as tl

from ._matrix_tile import product, store_tile, symmetric_tile
from ._tile import kernel


@kernel
def multiply(
    a, b, out, m, n, length, a_batch, a_row, a_column, b_batch, b_row, b_column, a_plane, b_plane, plane,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A B of a batch, dense."""
    down, across = tl.cdiv(m, ROWS), tl.cdiv(n, COLUMNS)
    batch, tile = (tl.program_id(0) // (down * across)).to(tl.int64), tl.program_id(0) % (down * across)
    rows = (tile // across) * ROWS + tl.arange(0, ROWS)
    columns = (tile % across) * COLUMNS + tl.arange(0, COLUMNS)
    x = product(
        a + batch * a_batch, b + batch * b_batch, rows, columns, m, n, length, a_row, a_column, b_row, b_column,
        a_plane, b_plane, ROWS, COLUMNS, DEPTH,
    )  # fmt: skip
    store_tile(out + batch * m * n, plane, x, rows, columns, m, n)


@kernel
def multiply_symmetric(
    a, b, added, out, n, length, a_batch, a_row, a_column, b_row, b_column, a_plane, plane, alpha, beta, gamma,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """alpha A B + beta ADDED + gamma I of a batch, of the lower half alone: for a symmetric A B, A and B of the same
    numbers. ADDED None: none."""
    across = tl.cdiv(n, BLOCK)
    batch, tile = (tl.program_id(0) // (across * across)).to(tl.int64), tl.program_id(0) % (across * across)
    row, column = tile // across, tile % across
    if column <= row:
        at = batch * n * n
        symmetric_tile(
            a + batch * a_batch, b + batch * a_batch, added if added is None else added + at, out + at, row, column,
            n, length, a_row, a_column, b_row, b_column, a_plane, plane, alpha, beta, gamma, BLOCK, DEPTH,
        )  # fmt: skip


@triton.jit
def _step(x, y, gram, poly, m, n, a, b, c, BLOCK: tl.constexpr, DEPTH: tl.constexpr):
    """Y = X (a I + b G + c G^2), G = X^T X, by one program, whose threads share memory after a barrier."""
    down, across = tl.cdiv(m, BLOCK), tl.cdiv(n, BLOCK)
    for tile in range(across * across):
        if tile % across <= tile // across:
            symmetric_tile(
                x, x, None, gram, tile // across, tile % across, n, m, 1, n, n, 1, 0, 0, 1.0, 0.0, 0.0, BLOCK, DEPTH
            )  # fmt: skip
    tl.debug_barrier()
    for tile in range(across * across):
        if tile % across <= tile // across:
            symmetric_tile(
                gram, gram, gram, poly, tile // across, tile % across, n, n, n, 1, n, 1, 0, 0, c, b, a, BLOCK, DEPTH
            )  # fmt: skip
    tl.debug_barrier()
    for tile in range(down * across):
        rows = (tile // across) * BLOCK + tl.arange(0, BLOCK)
        columns = (tile % across) * BLOCK + tl.arange(0, BLOCK)
        z = product(x, poly, rows, columns, m, n, n, n, 1, n, 1, 0, 0, BLOCK, BLOCK, DEPTH)
        store_tile(y, 0, z, rows, columns, m, n)
    tl.debug_barrier()


@kernel
def small_steps(x, y, gram, poly, m, n, a, b, c, count, BLOCK: tl.constexpr, DEPTH: tl.constexpr):
    """`count` steps of the polar iteration from X, [m, n] of a batch, one program each; the last result is in Y where
    their number is odd, else in X."""
    matrix = tl.program_id(0).to(tl.int64)
    x, y = x + matrix * m * n, y + matrix * m * n
    gram, poly = gram + matrix * n * n, poly + matrix * n * n
    for _ in range(count):
        _step(x, y, gram, poly, m, n, a, b, c, BLOCK, DEPTH)
        x, y = y, x
