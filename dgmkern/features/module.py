"""Any network as a feature extractor."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .extractor import check_images


class ModuleFeatures:
    """module(preprocess(images)), in eval mode and without a graph.

    Args:
        module: gives floating features [N, D] of what `preprocess` makes. It runs as it is at the call, where its first
            parameter lies; which of its parts are in training mode is the same after a call as before.
        preprocess: from uint8 [N, C, H, W], on the module's device, to the module's input: scaling, size and channels
            are the user's own.
        name: of the features.
    """

    def __init__(self, module: nn.Module, preprocess: Callable[[Tensor], Tensor], name: str = "module") -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"module: expected an nn.Module, got {type(module).__name__}")
        self.module, self.preprocess, self.name = module, preprocess, name

    def __call__(self, images: Tensor) -> Tensor:
        """Features of images uint8 [N, C, H, W], on the module's device.

        Raises:
            TypeError, ValueError: other images, or an output of the module other than floating [N, D].
        """
        check_images(images)
        parameter = next(self.module.parameters(), None)
        training = [part for part in self.module.modules() if part.training]
        self.module.eval()
        try:
            with torch.inference_mode():
                features = self.module(self.preprocess(images if parameter is None else images.to(parameter.device)))
        finally:
            for part in training:
                part.training = True
        if not isinstance(features, Tensor) or not features.is_floating_point():
            kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
            raise TypeError(f"module: expected an output of floating features [N, D], got {kind}")
        if features.dim() != 2 or features.shape[0] != images.shape[0]:
            raise ValueError(
                f"module: expected an output [{images.shape[0]}, D], a row of features per image, got the shape "
                f"{tuple(features.shape)}"
            )
        return features.clone()  # outside of inference mode: an ordinary tensor
