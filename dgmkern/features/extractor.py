"""What every feature extractor is, and what it does with the images it is given."""

from typing import Protocol

import torch
from torch import Tensor


class ExtractorError(Exception):
    """An extractor that cannot be had here: a package or a file of weights is missing or damaged."""


class FeatureExtractor(Protocol):
    """Features of images. `name` says which ones: distances compare only between features of one name."""

    name: str

    def __call__(self, images: Tensor) -> Tensor:
        """Features [N, D], floating, of images uint8 [N, C, H, W]; each row depends on its own image."""


def check_images(images: Tensor, shape: tuple[int, int, int] | None = None) -> None:
    """Raise TypeError or ValueError unless `images` is uint8 [N, C, H, W], of (C, H, W) = `shape` where it is given."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images: expected a tensor, got {type(images).__name__}")
    if images.dtype != torch.uint8:
        raise TypeError(f"images: expected dtype uint8, got {images.dtype}")
    if images.dim() != 4:
        raise ValueError(f"images: expected [N, C, H, W], got the shape {tuple(images.shape)}")
    if shape is not None and images.shape[1:] != shape:
        raise ValueError(f"images: expected [N, {', '.join(map(str, shape))}], got the shape {tuple(images.shape)}")
