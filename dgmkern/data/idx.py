"""The IDX format of the MNIST files (http://yann.lecun.com/exdb/mnist: magic, big-endian sizes, raw bytes), gzipped."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from .errors import DataError

_UBYTE = 0x08


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped IDX file of unsigned bytes.

    Returns a uint8 array with the file's own shape. Raises DataError for anything that is not a whole, well-formed
    file: not gzip, cut short, another element type, or a payload that is longer or shorter than its header says.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file ({error})") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _UBYTE:
        raise DataError(f"{path}: not an IDX file of unsigned bytes (starts with {raw[:4].hex() or 'nothing'})")
    header = 4 + 4 * raw[3]
    if len(raw) < header:
        raise DataError(f"{path}: IDX header cut short ({len(raw)} of {header} bytes)")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", count=raw[3], offset=4))
    if len(raw) - header != math.prod(shape):
        raise DataError(f"{path}: {len(raw) - header} bytes of data, its header says {shape} = {math.prod(shape)}")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)
