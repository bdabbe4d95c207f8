"""Sets of images to compare, as a command line names them, and their features batch by batch."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from ..data import NAMES, DataError, ImageDataset, load
from ..data.folder import ImageFolder
from ..metrics import FeatureStats
from ..train.progress import progress_bar
from .extractor import FeatureExtractor


def data_set_name(source: str) -> str | None:
    """The data set that "mnist" or "mnist:test" is of; None for a path."""
    name = source.partition(":")[0]
    return name if name in NAMES else None


def open_source(
    source: str, *, size: tuple[int, int] | None = None, channels: int | None = None
) -> FeatureStats | ImageFolder | ImageDataset:
    """What `source` names: a data set ("mnist": its train split; "mnist:test"; "digits:all"), a file of statistics
    (.npz), or a folder of pictures, for which `size` and `channels` are as of `ImageFolder`.

    Raises:
        DataError, ValueError, OSError: none of these, or one that cannot be read.
    """
    if name := data_set_name(source):
        return load(name, source.partition(":")[2] or "train")
    if source.endswith(".npz"):
        return FeatureStats.load(source)
    if not Path(source).is_dir():
        raise DataError(
            f"{source}: no such folder; expected one of pictures, an .npz of statistics, or a data set "
            f"({', '.join(NAMES)}, with :train, :test or :all)"
        )
    return ImageFolder(source, size=size, channels=channels)


def features_of(
    images: ImageFolder | ImageDataset,
    extractor: FeatureExtractor,
    *,
    batch_size: int = 64,
    desc: str = "features",
    progress: bool = True,
) -> Iterator[Tensor]:
    """Features [N, D] of each batch of images, with a progress bar on stderr."""
    with progress_bar(total=len(images), desc=desc, unit="img", unit_scale=True, disable=not progress) as bar:
        for batch in images.batches(batch_size):
            yield extractor(batch)
            bar.update(batch.shape[0])
