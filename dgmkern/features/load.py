"""One door to the feature extractors, by name."""

from pathlib import Path

from .classifier import ClassifierFeatures
from .inception import InceptionFeatures
from .pixels import PixelFeatures
from .training import trained_classifier

NAMES = ("pixels", "classifier", "inception")


def load_extractor(
    name: str, *, data: str | None = None, weights: Path | str | None = None, progress: bool = True
) -> PixelFeatures | ClassifierFeatures | InceptionFeatures:
    """An extractor by name; any `nn.Module` is one by `ModuleFeatures`.

    - "pixels": x / 255 of each pixel.
    - "classifier": hidden layer of the classifier of `data`, trained the first time (`trained_classifier`).
    - "inception": pooled features of Inception v3, where packages and weights are here (`InceptionFeatures`).

    Args:
        name: one of these.
        data: data set, for "classifier" and no other.
        weights: file, for "inception" and no other; None: the first found.
        progress: whether the training of a classifier shows a bar.

    Raises:
        ValueError: an unknown name, or an argument that is missing or not for this extractor.
        ExtractorError, DataError, OSError: as the extractor itself.
    """
    if name not in NAMES:
        raise ValueError(f"name: expected one of {', '.join(NAMES)}, got {name!r}")
    for option, value, extractor in (("data", data, "classifier"), ("weights", weights, "inception")):
        if value is not None and name != extractor:
            raise ValueError(f"{option}: expected none, it is for {extractor}, got {value!r} for {name}")
    if name == "classifier":
        if data is None:
            raise ValueError("data: expected the data set whose classifier it is, got none")
        return trained_classifier(data, progress=progress)
    return PixelFeatures() if name == "pixels" else InceptionFeatures(weights)
