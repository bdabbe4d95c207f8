"""Handwritten digits bundled with scikit-learn: 1797 images of 8x8, 17 grey levels (UCI optdigits, test part)."""

import torch

from .images import ImageDataset

# The file is ordered by writer, so a cut by position keeps most writers of the test images out of training.
_TRAIN = 1437


def load_digits(split: str) -> ImageDataset:
    """The first 1437 images ("train"), the last 360 ("test") or all 1797 ("all"); levels 0..16 become 0..255."""
    from sklearn import datasets  # a second of import that no other data set needs

    bunch = datasets.load_digits()
    part = {"train": slice(None, _TRAIN), "test": slice(_TRAIN, None), "all": slice(None)}[split]
    levels = torch.from_numpy(bunch.images[part])  # [N, 8, 8] float64, 0..16
    return ImageDataset(
        name="digits",
        split=split,
        images=levels.mul(255 / 16).round().to(torch.uint8).unsqueeze(1),
        labels=torch.from_numpy(bunch.target[part]).long(),
        classes=tuple(str(digit) for digit in bunch.target_names),
    )
