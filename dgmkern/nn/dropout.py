"""Dropout whose masks do not depend on who computes them."""

from statistics import NormalDist
from typing import NamedTuple

from torch import Tensor, nn

from ..ops.noise import normal
from ..rng import draw_seed


class Masks(NamedTuple):
    """Where the masks of a network come from."""

    seed: Tensor
    """int64 [1]."""
    first: int
    """Number in the whole batch of the first sample."""
    stretch: int = 0
    """Of 2^40 numbers of the stream of `seed`: that of the first `Dropout`; the others have the following ones."""


class Dropout(nn.Module):
    """x [N, ...] with each element 0, with probability p, or divided by 1 - p (Srivastava et al. 2014); x in eval mode.

    Which is a function of the seed, of the sample's number and of the element's: the same on every backend, for any
    number of processes that share a batch. An element is kept where its normal number is below the quantile 1 - p.

    Args:
        p: 0 <= p < 1.
        number: of this one among those of a network, from 0, each with numbers of its own.
    """

    def __init__(self, p: float, number: int = 0) -> None:
        super().__init__()
        self.p, self.number = p, number
        self.quantile = NormalDist().inv_cdf(1 - p) if p > 0 else float("inf")

    def forward(self, x: Tensor, masks: Masks | None = None) -> Tensor:
        """`masks` None: a seed drawn from torch's generator."""
        if not self.training or self.p == 0:
            return x
        masks = Masks(draw_seed(x.device), 0) if masks is None else masks
        offset = ((masks.stretch + self.number) << 40) + masks.first * x[:1].numel()
        kept = normal(x.shape, masks.seed, offset=offset, device=x.device) < self.quantile
        return x * (kept.to(x.dtype) / (1 - self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}, number={self.number}"
