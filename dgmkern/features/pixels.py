"""Pixels as features."""

from torch import Tensor

from .extractor import check_images


class PixelFeatures:
    """x / 255 of each pixel, float64 [N, C H W]: the Frechet distance of the images themselves."""

    name = "pixels"

    def __call__(self, images: Tensor) -> Tensor:
        """Features of images uint8 [N, C, H, W]; TypeError or ValueError where they are not."""
        check_images(images)
        return images.flatten(1).double() / 255
