"""Statistics files of pytorch-fid: an .npz with the arrays mu [D] and sigma [D, D]; ours say n, too."""

import os
from pathlib import Path

import numpy as np


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write `arrays`; the file is whole or absent: written beside, then renamed."""
    if path.suffix != ".npz":
        raise ValueError(f"path: expected a name that ends in .npz, by which pytorch-fid knows it, got {str(path)!r}")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.npz")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """mu and sigma, as float64, and n where it is there; never a pickle. ValueError where they are not right."""
    with open(path, "rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in ("mu", "sigma", "n") if name in archive}
        except Exception as error:  # zlib, zipfile and numpy have a dozen kinds for a damaged file
            raise ValueError(f"{path}: not a whole .npz file of plain arrays ({error})") from error
    for name in ("mu", "sigma"):
        if name not in arrays:
            raise ValueError(f"{path}: expected arrays mu and sigma, got no {name}")
        if arrays[name].dtype.kind != "f":
            raise ValueError(f"{path}: expected {name} of a floating dtype, got {arrays[name].dtype}")
        wrong = int((~np.isfinite(arrays[name])).sum())
        if wrong:
            raise ValueError(f"{path}: expected finite values in {name}, got {wrong} that are not")
        arrays[name] = np.ascontiguousarray(arrays[name], dtype=np.float64)
    mu, sigma = arrays["mu"], arrays["sigma"]
    if mu.ndim != 1 or mu.size == 0 or sigma.shape != (mu.size, mu.size):
        raise ValueError(f"{path}: expected mu [D] and sigma [D, D], got {mu.shape} and {sigma.shape}")
    if "n" in arrays and (arrays["n"].shape != () or arrays["n"].dtype.kind not in "iu" or arrays["n"] < 2):
        raise ValueError(f"{path}: expected n, one integer of at least 2, got {arrays['n']!r}")
    return arrays
