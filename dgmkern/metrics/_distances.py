"""Euclidean distances between rows, as compared with each other: the bits of differences at the speed of products.

|a|^2 + |b|^2 - 2 a.b takes a fraction of the time of sum (a - b)^2, but loses the digits of near duplicates. So it only
decides what its error bound lets it decide; every other pair gets the sum of squared differences, which depends on the
pair alone: duplicates are at 0 and ties are ties, in any block and in either order.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

_ENTRIES = 1 << 20  # distances kept at once, in whole rows, fast in cache
_ROWS = 256  # or at least as many rows: each block of them converts the whole other side to fp64
_COLUMNS = 4096  # rows of the other side converted to fp64 at once
_GATHERED = 1 << 22  # elements of the pairs gathered at once


def neighbour_distances(x: Tensor, ks: tuple[int, ...]) -> Tensor:
    """Distance of each row of x [N, D] to its k-th nearest other row, for each k < N: [N, len(ks)], float64."""
    shift = _shift(x)
    found = x.new_empty(x.shape[0], len(ks), dtype=torch.float64)
    order = torch.tensor(ks, device=x.device)  # the nearest is the row itself, at 0
    for rows in _row_blocks(x.shape[0], x.shape[0]):
        squares, slack = _approximate(x[rows], x, shift)
        bound = squares.topk(max(ks) + 1, 1, largest=False).values[:, -1:] + 2 * slack
        squares = _exact(x[rows], x, (squares > bound).logical_not_(), squares)
        found[rows] = squares.topk(max(ks) + 1, 1, largest=False).values.sqrt()[:, order]
    return found


def compared_squares(x: Tensor, y: Tensor, x_radii: Tensor, y_radii: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of x [N, D], and squared distances [rows, M] to y [M, D] that compare with squared radii as exact ones do:
    with those of the row in x_radii [N, *], and of the column in y_radii [M, *]."""
    shift = _shift(x)
    for rows in _row_blocks(x.shape[0], y.shape[0]):
        squares, slack = _approximate(x[rows], y, shift)
        limits = [r[:, None].square() for r in x_radii[rows].unbind(1)] + [r.square() for r in y_radii.unbind(1)]
        unsure = torch.zeros_like(squares, dtype=torch.bool)
        for limit in limits:
            unsure |= ((squares - limit).abs_() > slack).logical_not_()
        yield rows, _exact(x[rows], y, unsure, squares)


def _row_blocks(n: int, columns: int) -> Iterator[slice]:
    step = max(_ROWS, _ENTRIES // columns)
    return (slice(start, start + step) for start in range(0, n, step))


def _shift(x: Tensor) -> Tensor:
    """A point amid the data: the error bound grows with the square of the distance from it."""
    return torch.stack([block.double().sum(0) for block in x.split(_COLUMNS)]).sum(0) / x.shape[0]


def _approximate(a: Tensor, b: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances [A, B], and a bound [A, 1] of their error and of what an exact comparison rounds."""
    a = a.double() - shift
    norms = a.square().sum(1, keepdim=True)
    squares, largest = a.new_empty(a.shape[0], b.shape[0]), norms.new_zeros(())
    for start in range(0, b.shape[0], _COLUMNS):
        part = b[start : start + _COLUMNS].double() - shift
        part_norms = part.square().sum(1)
        largest = torch.maximum(largest, part_norms.max())
        torch.addmm(norms + part_norms, a, part.T, alpha=-2, out=squares[:, start : start + _COLUMNS])
    # a sum of D products errs by at most D eps times that of their sizes; here are three of them and a shift
    return squares, (norms + largest) * (8 * (a.shape[1] + 8) * torch.finfo(torch.float64).eps)


def _exact(a: Tensor, b: Tensor, wanted: Tensor, squares: Tensor) -> Tensor:
    """`squares` with those of the `wanted` pairs made of differences."""
    count = int(wanted.sum())
    if count * 4 > wanted.numel():  # not worth gathering
        for start in range(0, b.shape[0], _COLUMNS):
            columns = slice(start, start + _COLUMNS)
            distances = _differences(a.double(), b[columns].double())
            squares[:, columns] = torch.where(wanted[:, columns], distances.square(), squares[:, columns])
        return squares
    for pairs in wanted.nonzero().split(max(1, _GATHERED // a.shape[1])):
        i, j = pairs.unbind(1)
        squares[i, j] = _differences(a[i, None].double(), b[j, None].double()).flatten().square()
    return squares


def _differences(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
