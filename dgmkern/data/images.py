"""The form in which every reader hands over its images, and their scaling to what a network sees."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageDataset:
    """Labelled images of one split, as stored: `images` uint8 [N, C, H, W], `labels` int64 [N] into `classes`.

    `fingerprint` tells whether a folder of pictures is as it was; a data set that has a name has none.
    """

    name: str
    split: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(f"images: got {self.images.dtype} {list(self.images.shape)}, want uint8 [N, C, H, W]")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels: got {self.labels.dtype} {list(self.labels.shape)}, want int64 [{self.images.shape[0]}]"
            )

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return tuple(self.images.shape[1:])

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """The images in order, uint8 [N, C, H, W], N = `batch_size` but for the last."""
        return iter(self.images.split(batch_size))


def to_signed(images: Tensor) -> Tensor:
    """uint8 0..255 to float32 in [-1, 1]: x / 127.5 - 1, the scaling of DDPM (Ho et al. 2020, section 3.3)."""
    if images.dtype != torch.uint8:
        raise TypeError(f"images: got {images.dtype}, want torch.uint8")
    return images.float().div_(127.5).sub_(1.0)


def to_uint8(x: Tensor) -> Tensor:
    """Inverse of `to_signed`: clamp to [-1, 1], then round (x + 1) * 127.5 to the nearest of 0..255."""
    if not x.is_floating_point():
        raise TypeError(f"x: got {x.dtype}, want a floating-point tensor in [-1, 1]")
    return x.detach().float().clamp(-1.0, 1.0).add(1.0).mul(127.5).round().to(torch.uint8)
