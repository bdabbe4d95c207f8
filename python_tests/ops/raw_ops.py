"""What the families' tests of their raw ops share."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

LAYOUTS = pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted"])


def opcheck_in_layout(op: torch._ops.OpOverloadPacket, make: Callable, shape: tuple[int, ...], layout: str) -> None:
    """opcheck of `op` on the arguments that `make` makes of a function that gives tensors of a shape and layout."""

    def x() -> Tensor:
        t = torch.randn(shape)
        if layout == "channels_last":
            t = t.contiguous(memory_format=torch.channels_last)
        elif layout == "permuted":
            t = torch.randn(shape[::-1]).permute(3, 2, 1, 0)
        return t.requires_grad_()

    opcheck(op.default, make(x))
