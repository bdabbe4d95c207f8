"""Factors of batches of symmetric semidefinite matrices on the device, without waiting for it."""

import torch
from torch import Tensor

from ..reference.linalg import EPS
from ._factor_kernels import NEVER, factor_small, panel_columns, pivots, subtract_panel
from ._launch import INTERPRETED, launch, power_of_2
from ._polar import SMALL

W = 32  # columns of a panel
SPARE = 8
# of the largest diagonal element that is left: a smaller pivot would blow up rounding errors by as much
OF_LARGEST = 1 / 256


def factor(s: Tensor) -> Tensor:
    """L [..., D, D] with S = L L^T up to rounding, fp64: as many columns as S has rank, then zeros.

    By pivoted Cholesky (N. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, 10.3), a pivot of up to D eps
    times the largest being 0.
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
    """L into `result`, zeros before.

    The candidates of a panel are the rows with the largest diagonal elements; those that the better ones among them
    explain wait for a later panel, hence the spare ones. As many panels as would do if all candidates were pivots
    follow, in which any pivot but a rounding error is: with nothing left, as after most matrices, they do nothing.
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
    warps = {} if INTERPRETED else {"num_warps": 8}
    for panel in range(2 * full + SPARE):
        candidates = diagonal.topk(W, dim=-1).indices
        of_largest = OF_LARGEST if panel < full + SPARE else 0.0
        launch(
            pivots, batch, s.device, rest, candidates, taken, solve, width, least, panel, d, of_largest, W=W, num_warps=1
        )
        of_panel = (batch * across, s.device, rest, candidates, taken, solve, width, result, columns, panel, d, batch)
        launch(panel_columns, *of_panel, ROWS=block, W=W, num_warps=4)
        of_rest = (batch * across**2, s.device, rest, columns, taken, width, diagonal, d, batch)
        launch(subtract_panel, *of_rest, BLOCK=block, W=W, DEPTH=16, **warps)
