"""The noise of CUDA is that of the CPU bit for bit: over 1e9 elements, by chunks, both lanes of every path.

`python -m perf.gpu_noise cuda` with DGMKERN_BACKEND=cuda; cpu rehearses it on fewer elements.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

import dgmkern
from dgmkern import _native

CHUNK = 1 << 25


def differing(seed: int, offset: int, n: int, device: str) -> int:
    """How many of normals offset ... offset + n - 1 differ in any bit."""
    there = dgmkern.normal(n, seed, offset=offset, device=device).cpu().numpy()
    return int(np.count_nonzero(there.view(np.uint32) != _native.normal(seed % 2**64, n, offset).view(np.uint32)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device", choices=("cuda", "cpu"))
    parser.add_argument("--elements", type=int, default=None, help="1e9 on cuda, 4e6 on cpu")
    options = parser.parse_args()
    elements = options.elements or (10**9 if options.device == "cuda" else 4 * 10**6)
    began, done, wrong = time.perf_counter(), 0, 0
    while done < elements:
        n = min(CHUNK, elements - done)
        wrong += differing(7 + done, (1 << 34) - 5 + done, n, options.device)  # odd offsets: one normal at a time
        wrong += differing(-1, 4 * done, n // 2, options.device)  # four at a time
        done += n
    print(f"{done} elements, {wrong} differ, {time.perf_counter() - began:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
