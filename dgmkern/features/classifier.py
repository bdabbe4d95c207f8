"""Features of a small classifier that was trained on the data set at hand, as Inception was on ImageNet."""

import torch
from torch import Tensor, nn

from ..train.checkpoint import tensors_digest
from .extractor import check_images
from .module import ModuleFeatures

WIDTH = 128


class Classifier(nn.Module):
    """Two convolutions with batch normalization and pooling, a hidden layer of 128, and classes.

    `hidden` gives the penultimate layer [N, 128] of float32 [N, C, H, W] in [0, 1], `forward` logits [N, classes].
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.hidden = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(64 * (height // 4) * (width // 4), WIDTH),
            nn.ReLU(),
        )
        self.classes = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.hidden(x))


class ClassifierFeatures:
    """The penultimate layer of a trained classifier, float32 [N, 128], and its logits and probabilities.

    Distances compare between features of the same weights only: `name` has the first 8 digits of their checksum.

    Args:
        model: the network; `dgmkern.features.trained_classifier` trains one once.
        data: the data set that it was trained on.
        image_shape: (C, H, W) of that.
        accuracy: on its test split, 0 to 1.
    """

    def __init__(self, model: Classifier, data: str, image_shape: tuple[int, int, int], accuracy: float) -> None:
        self.name = f"classifier:{data}:{tensors_digest(model.state_dict())[:8]}"
        self.data, self.image_shape, self.accuracy = data, image_shape, accuracy
        self.model = model
        self._hidden = ModuleFeatures(model.hidden, to_unit, self.name)
        self._logits = ModuleFeatures(model, to_unit, self.name)

    def __call__(self, images: Tensor) -> Tensor:
        """Features of images uint8 [N, C, H, W]; TypeError or ValueError for images of another dtype or shape."""
        check_images(images, self.image_shape)
        return self._hidden(images)

    def logits(self, images: Tensor) -> Tensor:
        """[N, classes], float32, for `metrics.inception_score`; errors as for features."""
        check_images(images, self.image_shape)
        return self._logits(images)

    def probabilities(self, images: Tensor) -> Tensor:
        """softmax of `logits` in float64; its argmax(1) is for `metrics.class_coverage`."""
        return self.logits(images).double().softmax(1)


def to_unit(images: Tensor) -> Tensor:
    """uint8 0..255 to float32 in [0, 1], channels last, in which the convolutions run."""
    return images.float().div_(255).contiguous(memory_format=torch.channels_last)
