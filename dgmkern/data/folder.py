"""A folder of pictures, read as batches of uint8 images in constant memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .errors import DataError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Pillow's modes of 8 bits or less a channel -> channels
_CHANNELS = {"1": 1, "L": 1, "LA": 1, "P": 3, "PA": 3, "RGB": 3, "RGBA": 3, "CMYK": 3, "YCbCr": 3}


class ImageFolder:
    """The pictures in a folder and the folders in it, sorted by path, all of one size.

    Grey pictures are [1, H, W], others [3, H, W] in RGB; what is transparent is taken as it is stored, without its
    alpha. Pixels are as stored (no turning by EXIF), the first picture of an animation.

    Args:
        path: the folder. Files count that end in .bmp, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff or .webp.
        size: (H, W) to resize each to, by Pillow's bicubic filter, which is antialiased, as clean-fid's (Parmar et al.
            2022) is; rounded to uint8. None: none is resized.
        channels: 1 or 3, to convert each to (RGB to grey: ITU-R 601 luma); None: as stored.

    Raises:
        DataError: no such folder, or no picture in it. ValueError: size or channels that are none.
    """

    def __init__(self, path: Path | str, *, size: tuple[int, int] | None = None, channels: int | None = None) -> None:
        self.path = Path(path)
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError(f"size: expected (H, W), both at least 1, got {size}")
        if channels not in (None, 1, 3):
            raise ValueError(f"channels: expected 1, 3 or None, got {channels}")
        self.size, self.channels = size, channels
        self.files = find_pictures(self.path)

    def __len__(self) -> int:
        return len(self.files)

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """uint8 [N, C, H, W], N = `batch_size` but for the last.

        Raises:
            DataError: a file, named, that is no whole picture, of more than 8 bits a channel, or of another size or
                number of channels than the first.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        first = None
        for start in range(0, len(self.files), batch_size):
            images = []
            for file in self.files[start : start + batch_size]:
                image = self._read(file)
                first = image.shape if first is None else first
                if image.shape != first:
                    option = "size" if image.shape[1:] != first[1:] else "channels"
                    raise DataError(
                        f"{file}: expected {_described(first)} like {self.files[0].name}, got "
                        f"{_described(image.shape)}; give {option} to convert each"
                    )
                images.append(image)
            yield torch.stack(images)

    def _read(self, file: Path) -> Tensor:
        picture = read_picture(file, self.channels)
        if self.size is not None:
            picture = picture.resize(self.size[::-1], Image.Resampling.BICUBIC)
        return picture_tensor(picture)


def find_pictures(folder: Path) -> list[Path]:
    """The pictures in a folder and the folders in it, by suffix, sorted by path; DataError if there are none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    found = sorted(files, key=lambda file: file.relative_to(folder).parts)
    if not found:
        raise DataError(f"{folder}: no picture in this folder (looked for {', '.join(SUFFIXES)})")
    return found


def channels_of(file: Path) -> int:
    """1 for a grey picture, 3 for others; its header alone is read. DataError, which names it, as `read_picture`."""
    with _opened(file) as picture:
        return _CHANNELS[picture.mode]


def read_picture(file: Path, channels: int | None = None) -> Image.Image:
    """The picture in a file, in mode L (`channels` 1) or RGB (3); None: whichever it is stored in.

    Raises DataError, which names the file, unless it is a whole picture of at most 8 bits a channel.
    """
    with _opened(file) as picture:
        return picture.convert("L" if (channels or _CHANNELS[picture.mode]) == 1 else "RGB")


def picture_tensor(picture: Image.Image) -> Tensor:
    """uint8 [1, H, W] of a picture in mode L, [3, H, W] of one in RGB."""
    pixels = torch.from_numpy(np.array(picture))  # [H, W] or [H, W, 3]
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as picture:
            if picture.mode not in _CHANNELS:
                raise DataError(f"{file}: expected 8 bits a channel, got a picture of Pillow's mode {picture.mode}")
            yield picture
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders have a dozen kinds for a damaged file
        raise DataError(f"{file}: not a whole picture ({error})") from error


def _described(shape: torch.Size) -> str:
    channels, height, width = shape
    return f"{'grey' if channels == 1 else 'RGB'} {height}x{width}"
