"""Which images a training step sees, as a pure function of (seed, step)."""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    # Own stream constant, so that the shuffle shares no numbers with another use of the same run seed.
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(0xBA7C, epoch))))
    order = rng.permutation(size)
    order.setflags(write=False)  # the cached array is handed out
    return order


def batch_indices(size: int, batch_size: int, *, seed: int, step: int) -> np.ndarray:
    """Indices int64 [batch_size] of the images that training step `step` (0-based) sees.

    The steps walk through epoch permutations laid end to end, epoch e's being a function of (seed, e): each image is
    seen exactly once an epoch, none is dropped, and a batch may end one epoch and begin the next. As nothing depends on
    earlier calls, a resumed run sees the same batches as one that was never stopped.
    """
    if size < 1 or batch_size < 1 or step < 0:
        raise ValueError(f"size, batch_size, step: got {size}, {batch_size}, {step}; want at least 1, 1, 0")
    start, stop = step * batch_size, (step + 1) * batch_size
    parts = []
    while start < stop:
        epoch, first = divmod(start, size)
        part = _permutation(size, seed, epoch)[first : first + stop - start]
        parts.append(part)
        start += len(part)
    return np.concatenate(parts)
