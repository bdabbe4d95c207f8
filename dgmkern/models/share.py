"""The part of a batch that a loss sees, when several processes share the batch."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Share:
    """Share `rank` of a batch that is cut into `ranks` equal ones; the whole batch by default.

    A loss draws the random numbers of a sample by its number in the whole batch, so that they do not depend on `ranks`;
    the mean of the losses of all shares is the loss of the batch.
    """

    rank: int = 0
    ranks: int = 1

    def first(self, n: int) -> int:
        """Number in the whole batch of the first of the `n` samples of this share."""
        return self.rank * n

    def total(self, n: int) -> int:
        """Samples of the whole batch, where this share has `n`."""
        return self.ranks * n

    def of(self, whole: Tensor) -> Tensor:
        """The rows of this share in `whole`, which has a row for each sample of the batch."""
        n = whole.shape[0] // self.ranks
        return whole[self.first(n) : self.first(n) + n]

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all shares in the order of the samples, differentiable; inverse of `of`."""
        return rows


WHOLE = Share()
