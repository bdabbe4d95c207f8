"""Factors of batches of symmetric semidefinite matrices on the device, without waiting for it."""

import torch
from torch import Tensor

from ..reference.linalg import EPS
from ._factor_kernels import NEVER, factor_small, panel_columns, pivots, subtract_panel
from ._launch import launch, power_of_2
from ._polar import SMALL

W = 32  # candidates of a panel
OF_LARGEST = 1 / 256  # of the largest diagonal element left: a smaller pivot blows up rounding errors by as much
SPARE = 8  # panels for candidates that had to wait: 256^8 > 1 / eps


def factor(s: Tensor) -> Tensor:
    """L [..., D, D] with S = L L^T up to rounding, fp64: as many columns as S has rank, then zeros.

    By pivoted Cholesky (N. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 10.3); a pivot of up
    to D eps times the largest diagonal element is 0.
    """
    shape, d = s.shape, s.shape[-1]
    if s.numel() == 0:
        return torch.zeros_like(s)
    s = s.reshape(-1, d, d).contiguous()
    batch, result = s.shape[0], torch.zeros_like(s)
    if d > SMALL:
        _by_panels(s, result)
    else:
        block = power_of_2(d)
        launch(factor_small, batch, s.device, s, result, d, EPS, BLOCK=max(block, 16), CHUNK=16, num_warps=4)
    return result.reshape(shape)


def _by_panels(s: Tensor, result: Tensor) -> None:
    """L into `result`, zeros before, in a number of panels that depends on D alone.

    The candidates of a panel are the rows with the largest diagonal elements left. One that the others explain but for
    a small pivot waits for a later panel. Last come panels where every pivot but a rounding error is taken: enough for
    all rows, and without work after a matrix that is done.
    """
    batch, d, _ = s.shape
    rest = (s + s.mT) / 2
    diagonal = rest.diagonal(dim1=-2, dim2=-1).clone()
    least = diagonal.amax(-1) * (d * EPS)
    taken = torch.full((batch, d), NEVER.value, dtype=torch.int32, device=s.device)
    width = torch.zeros((2, batch), dtype=torch.int32, device=s.device)  # columns so far, and of this panel
    solve, columns = s.new_empty((batch, W, W)), s.new_empty((batch, d, W))
    block, full = 64, -(-d // W)
    across = -(-d // block)
    for panel in range(2 * full + SPARE):
        candidates = diagonal.topk(W, dim=-1).indices
        least_of = OF_LARGEST if panel < full + SPARE else 0.0
        of_pivots = (rest, candidates, taken, solve, width, least, panel, d, least_of)
        launch(pivots, batch, s.device, *of_pivots, W=W, num_warps=2)
        of_panel = (rest, candidates, taken, solve, width, result, columns, panel, d, batch)
        launch(panel_columns, batch * across, s.device, *of_panel, ROWS=block, W=W, num_warps=4)
        of_rest = (rest, columns, taken, width, diagonal, d, batch)
        launch(subtract_panel, batch * across**2, s.device, *of_rest, BLOCK=block, W=W, DEPTH=16, num_warps=8)
