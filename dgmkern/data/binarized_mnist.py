"""Binarized MNIST: one fixed draw of black or white for each pixel (H. Larochelle and I. Murray, "The neural
autoregressive distribution estimator", 2011), on which likelihoods are compared."""

from pathlib import Path

import numpy as np
import torch

from .errors import DataError
from .files import fetch, local_file
from .images import ImageDataset

MIRRORS = ("http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",)
SHA256 = {
    "binarized_mnist_train.amat": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "binarized_mnist_valid.amat": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "binarized_mnist_test.amat": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
    "binarized_mnist_larochelle.npz": "df14a884cb4aa7ac6692463fb31798a687c4e762c73c23a8ae3114fbec4e6093",
}
PARTS = {"train": ("train",), "valid": ("valid",), "test": ("test",), "all": ("train", "valid", "test")}


def load_binarized_mnist(split: str) -> ImageDataset:
    """50000 images of 28x28 ("train"), 10000 ("valid"), 10000 ("test", sorted by digit) or all, of levels 0 and 255.

    The data have no labels: all are 0, of the one class "digit". Files: one text of 0 and 1 a split, as published, or
    all as bits in `binarized_mnist_larochelle.npz`.
    """
    images = torch.cat([torch.from_numpy(_bits(part)) for part in PARTS[split]])
    return ImageDataset(
        name="binarized-mnist",
        split=split,
        images=images.mul_(255).view(-1, 1, 28, 28),
        labels=torch.zeros(len(images), dtype=torch.int64),
        classes=("digit",),
    )


def _bits(part: str) -> np.ndarray:
    """uint8 [N, 784] of 0 and 1."""
    packed = "binarized_mnist_larochelle.npz"
    if path := local_file("binarized-mnist", packed, SHA256[packed]):
        with np.load(path, allow_pickle=False) as file:
            return np.unpackbits(file[part], axis=1)
    name = f"binarized_mnist_{part}.amat"
    return _read_text(fetch("binarized-mnist", name, SHA256[name], MIRRORS))


def _read_text(path: Path) -> np.ndarray:
    digits = np.frombuffer(path.read_bytes(), dtype=np.uint8)[::2] - ord("0")  # a space or a line's end after each
    if digits.size % 784 or digits.max(initial=0) > 1:
        raise DataError(f"{path}: expected lines of 784 digits 0 or 1")
    return digits.reshape(-1, 784).copy()
