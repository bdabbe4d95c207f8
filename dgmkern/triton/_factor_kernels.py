"""Kernels of rank-revealing Cholesky factors S = L L^T, fp64: of a small matrix in one program, else in panels.

A pivot of at most `least` is a rounding error, of a row that the others explain: it gets no column of L.
"""

import triton
import triton.language as tl

from ._matrix_tile import symmetric_tile
from ._tile import kernel

LOWEST = tl.constexpr(-float("inf"))  # in place of the diagonal element of a row that has been a pivot
NEVER = tl.constexpr(2**30)  # a number of no panel


@triton.jit
def _symmetric_column(s, rows, column, d):
    """Column of (S + S^T) / 2."""
    there = rows < d
    return tl.load(s + rows * d + column, there, other=0.0) / 2 + tl.load(s + column * d + rows, there, other=0.0) / 2


@kernel
def factor_small(s, factor, d, eps, BLOCK: tl.constexpr, CHUNK: tl.constexpr):
    """L [d, d] of a batch, zeros before: columns in the order of pivots, each the largest that is left. One program a
    matrix, whose threads share memory after a barrier."""
    at = tl.program_id(0).to(tl.int64) * d * d
    s, factor = s + at, factor + at
    rows, some = tl.arange(0, BLOCK), tl.arange(0, CHUNK)
    diagonal = tl.where(rows < d, tl.load(s + rows * d + rows, rows < d, other=0.0), LOWEST)
    least = tl.max(diagonal, 0) * d * eps
    for j in range(d):
        pivot, best = tl.argmax(diagonal, 0), tl.max(diagonal, 0)
        if best > least:
            column = _symmetric_column(s, rows, pivot, d)
            for first in range(0, j, CHUNK):
                known = first + some < j
                of_rows = tl.load(
                    factor + rows[:, None] * d + (first + some)[None, :],
                    (rows < d)[:, None] & known[None, :],
                    other=0.0,
                )
                of_pivot = tl.load(factor + pivot * d + first + some, known, other=0.0)
                column -= tl.sum(of_rows * of_pivot[None, :], 1)
            root = tl.sqrt(best)
            column = tl.where(rows == pivot, root, tl.where(diagonal == LOWEST, 0.0, column / root))
            diagonal = tl.where(rows == pivot, LOWEST, diagonal - column * column)
            tl.store(factor + rows * d + j, column, rows < d)
            tl.debug_barrier()


@kernel
def pivots(rest, candidates, taken, solve, width, least, panel, d, of_largest, W: tl.constexpr):
    """Pivots among the W rows that are candidates: the largest that is left, as long as one exceeds `least` and
    `of_largest` times the first. The columns of L are then those of `rest` by candidates times SOLVE [W, W].

    taken [batch, d] becomes the number of the panel of rows that are pivots; width [2, batch] is how many columns L has
    then, and how many of them are of this panel.
    """
    matrix = tl.program_id(0).to(tl.int64)
    rows, columns = tl.arange(0, W)[:, None], tl.arange(0, W)[None, :]
    candidates = candidates + matrix * W
    at, across = tl.load(candidates + rows), tl.load(candidates + columns)
    block = tl.load(rest + matrix * d * d + at * d + across)
    left = tl.sum(tl.where(rows == columns, block, 0.0), 1, keep_dims=True)  # [W, 1]
    known = tl.load(taken + matrix * d + at) < panel
    left = tl.where(known, LOWEST, left)
    threshold = tl.maximum(tl.load(least + matrix), of_largest * tl.maximum(tl.max(left), 0.0))
    solving = tl.zeros([W, W], tl.float64)  # [candidate, column]
    columns_of_l = tl.zeros([W, W], tl.float64)  # [candidate, column]
    count = 0
    for j in range(W):
        best = tl.max(left)
        if best > threshold:
            pivot = tl.min(tl.where(left == best, rows, W))
            root = tl.sqrt(best)
            is_pivot = rows == pivot
            of_pivot = tl.sum(tl.where(is_pivot, columns_of_l, 0.0), 0, keep_dims=True)  # [1, W]
            by_pivot = tl.sum(tl.where(columns == pivot, block, 0.0), 1, keep_dims=True)  # [W, 1]
            column = (by_pivot - tl.sum(columns_of_l * of_pivot, 1, keep_dims=True)) / root
            column = tl.where(is_pivot, root, tl.where(left == LOWEST, 0.0, column))
            solved = (tl.where(is_pivot, 1.0, 0.0) - tl.sum(solving * of_pivot, 1, keep_dims=True)) / root
            columns_of_l = tl.where(columns == j, column, columns_of_l)
            solving = tl.where(columns == j, solved, solving)
            left = tl.where(is_pivot, LOWEST, left - column * column)
            count += 1
    tl.store(solve + matrix * W * W + rows * W + columns, solving)
    tl.store(taken + matrix * d + at, tl.full([W, 1], 0, tl.int32) + panel, (left == LOWEST) & ~known)
    before = tl.load(width + matrix)
    tl.store(width + matrix, before + count)
    tl.store(width + matrix + tl.num_programs(0), count)


@kernel
def panel_columns(
    rest, candidates, taken, solve, width, factor, columns_of_l, panel, d, batches, ROWS: tl.constexpr, W: tl.constexpr
):
    """The columns of L of a panel: to their place in FACTOR [d, d], and to COLUMNS_OF_L [d, W], zeros after those."""
    across = tl.cdiv(d, ROWS)
    matrix = (tl.program_id(0) // across).to(tl.int64)
    count = tl.load(width + batches + matrix)
    if count > 0:
        rows = (tl.program_id(0) % across) * ROWS + tl.arange(0, ROWS)[:, None]
        inner, columns = tl.arange(0, W)[:, None], tl.arange(0, W)[None, :]
        at = tl.load(candidates + matrix * W + columns)
        later = (rows < d) & (tl.load(taken + matrix * d + rows, rows < d, other=-1) >= panel)
        x = tl.load(rest + matrix * d * d + rows.to(tl.int64) * d + at, later, other=0.0)
        x = tl.dot(x, tl.load(solve + matrix * W * W + inner * W + columns), out_dtype=tl.float64)
        tl.store(columns_of_l + (matrix * d + rows) * W + columns, x, rows < d)
        first = tl.load(width + matrix) - count
        place = factor + (matrix * d + rows) * d + first + columns
        tl.store(place, x, (rows < d) & (columns < count))


@kernel
def subtract_panel(
    rest, columns_of_l, taken, width, diagonal, d, batches, BLOCK: tl.constexpr, W: tl.constexpr, DEPTH: tl.constexpr
):
    """REST - L L^T for the columns of a panel, and its diagonal, lowest where a row has been a pivot."""
    across = tl.cdiv(d, BLOCK)
    matrix, tile = (tl.program_id(0) // (across * across)).to(tl.int64), tl.program_id(0) % (across * across)
    row, column = tile // across, tile % across
    if (tl.load(width + batches + matrix) > 0) & (column <= row):
        rest, columns_of_l = rest + matrix * d * d, columns_of_l + matrix * d * W
        symmetric_tile(
            columns_of_l, columns_of_l, rest, rest, row, column, d, W, W, 1, 1, W, 0, 0, -1.0, 1.0, 0.0, BLOCK, DEPTH
        )  # fmt: skip
        if row == column:
            tl.debug_barrier()
            rows = row * BLOCK + tl.arange(0, BLOCK)
            there = rows < d
            x = tl.load(rest + rows.to(tl.int64) * (d + 1), there, other=0.0)
            gone = tl.load(taken + matrix * d + rows, there, other=0) < NEVER
            tl.store(diagonal + matrix * d + rows, tl.where(gone, LOWEST, x), there)
