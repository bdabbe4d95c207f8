"""Pictures on the disk, and how they are resized by definition."""

import numpy as np
from PIL import Image


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def bicubic(array, size):
    """[H, W] resized to `size` by the filter below, columns after rows."""
    return _resized(_resized(array.astype(float), size[0]).T, size[1]).T


def _resized(values, size):
    """Rows of `values` resized to `size` by Keys's cubic with a = -1/2, stretched by the scale where that shrinks."""
    length = values.shape[0]
    scale = length / size
    stretch = max(scale, 1.0)
    out = np.empty((size, *values.shape[1:]))
    for i in range(size):
        centre = (i + 0.5) * scale
        x = np.abs(np.arange(length) + 0.5 - centre) / stretch
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
        out[i] = np.tensordot(weights / weights.sum(), values, 1)
    return out
