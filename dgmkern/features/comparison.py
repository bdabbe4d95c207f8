"""Two sets of images ready to be compared: their statistics, and what to know about a distance between them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import ImageDataset
from ..data.folder import ImageFolder
from ..metrics import FeatureStats, frechet_bias
from .extractor import FeatureExtractor
from .source import features_of


@dataclass(frozen=True)
class Side:
    """One of the two: statistics, and features [N, D] where they were kept. `source` is what the user called it."""

    source: str
    stats: FeatureStats
    features: Tensor | None = None

    @property
    def samples(self) -> Tensor | FeatureStats:
        """What to take the distance of: features, where there are, as a distance in sample space loses no digits."""
        return self.stats if self.features is None else self.features


def read_side(
    source: str,
    images: ImageFolder | ImageDataset,
    extractor: FeatureExtractor,
    *,
    width: int | None = None,
    keep: bool = False,
    batch_size: int = 64,
    progress: bool = True,
) -> Side:
    """Statistics of the features of `images`, with a progress bar; features are kept where there are no more samples
    than features, so that memory is O(D^2), or where `keep` asks for all.

    Args:
        source: what the user called them.
        width: D of what they will be compared with.

    Raises:
        TypeError, ValueError: under 2 images, or those that the extractor refuses, or of another width: names `source`.
        DataError: as the reader of `images`.
    """
    stats, kept = FeatureStats(width), []
    try:
        for features in features_of(images, extractor, batch_size=batch_size, desc=source, progress=progress):
            if width not in (None, features.shape[1]):
                raise ValueError(
                    f"expected {width} features per image, as of what it is compared with, got "
                    f"{features.shape[1]} ({extractor.name})"
                )
            stats.update(features)
            keep_them = keep or stats.count <= stats.width
            kept = [*kept, features.cpu()] if keep_them else []
        if stats.count < 2:
            raise ValueError(f"expected at least 2 images, got {stats.count}")
    except ValueError as error:
        resized = "; --size resizes" if isinstance(images, ImageFolder) and images.size is None else ""
        raise ValueError(f"{source}: {error}{resized}") from error
    return Side(source, stats, torch.cat(kept) if kept else None)


def caveats(a: Side, b: Side, *, unnamed: Sequence[str] = ()) -> list[str]:
    """What the numbers of samples do to the Frechet distance of a and b, a sentence each.

    Args:
        unnamed: sources that were statistics from files, which do not say of which features they are.
    """
    found, width = [], a.stats.width
    if unnamed:
        found.append(f"{', '.join(dict.fromkeys(unnamed))}: does not say which features it is of; are they the same?")
    for side in (a, b):
        if side.stats.count is None:
            found.append(f"{side.source}: the file does not say of how many samples; its bias is not known")
        elif side.stats.count <= width:
            found.append(
                f"{side.source}: {side.stats.count} samples of {width} features; the covariance has a rank of "
                f"{side.stats.count - 1} at most and the distance is far too large"
            )
    counts = [side.stats.count for side in (a, b)]
    if None in counts:
        return found
    if min(counts) > width:
        found.append(f"too few samples alone make a distance of about {frechet_bias(a.stats, b.stats):.3g} (Gaussian)")
    else:
        least = sum(float(side.stats.covariance.trace()) / side.stats.count for side in (a, b))
        found.append(f"too few samples alone make a distance of more than {least:.3g}")
    if counts[0] != counts[1]:
        found.append(f"{counts[0]} and {counts[1]} samples; distances compare only at equal numbers of samples")
    return found
