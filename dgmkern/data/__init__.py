"""Readers of real data: `load("digits")`, `load("mnist")`, `load("fashion-mnist")`, as uint8 images and labels."""

from .batches import batch_indices
from .errors import DataError
from .images import ImageDataset, to_signed, to_uint8
from .load import NAMES, load

__all__ = ["NAMES", "DataError", "ImageDataset", "batch_indices", "load", "to_signed", "to_uint8"]
