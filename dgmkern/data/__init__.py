"""Readers of real data: `load("digits")`, `load("mnist")`, `load("fashion-mnist")`, as uint8 images and labels.

`dgmkern.data.folder.ImageFolder` reads folders of pictures; it is not imported here, as it needs Pillow.
"""

from .batches import batch_indices
from .errors import DataError
from .images import ImageDataset, to_signed, to_uint8
from .load import NAMES, SPLITS, load

__all__ = ["NAMES", "SPLITS", "DataError", "ImageDataset", "batch_indices", "load", "to_signed", "to_uint8"]
