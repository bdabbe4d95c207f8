"""Readers of real data, as uint8 images and labels: `load` of a data set by its name, one of `NAMES`.

`dgmkern.data.folder.ImageFolder` reads folders of pictures batch by batch, `dgmkern.data.pictures.load_pictures` as a
data set in memory; they are not imported here, as they need Pillow.
"""

from .batches import batch_indices
from .errors import DataError
from .images import ImageDataset, to_signed, to_uint8
from .load import NAMES, SPLITS, load

__all__ = ["NAMES", "SPLITS", "DataError", "ImageDataset", "batch_indices", "load", "to_signed", "to_uint8"]
