"""A folder of pictures as a data set: squares of one size in memory, classes by subfolder, a split by the names."""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from PIL import Image

from .errors import DataError
from .folder import channels_of, find_pictures, picture_tensor, read_picture
from .images import ImageDataset
from .load import SPLITS

_HELD_OUT = 10  # one picture in so many is of the test split


def load_pictures(
    path: Path | str,
    split: str = "train",
    *,
    size: int,
    channels: int | None = None,
    fingerprint: str | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> ImageDataset:
    """The pictures in a folder and the folders in it (`data.folder.find_pictures`), as an `ImageDataset` by its path.

    Of each the middle square is cut out and resized by Pillow's antialiased bicubic filter; pixels are as stored, as in
    `data.folder`. Where every picture lies in a subfolder, the subfolders of `path` are the classes, in the order of
    their names; otherwise there is one class, "picture". A picture is of the "test" split where the first 8 bytes of
    the sha256 of its name (the path in the folder, with /), as a big-endian number, are a multiple of 10, of "train"
    where not: a tenth, which other pictures do not change; "all" are both.

    Args:
        path: the folder.
        split: "train", "test" or "all".
        size: height and width of the squares.
        channels: 1 or 3, to convert each to; None: 1 if all pictures of the folder are grey, else 3.
        fingerprint: that of the data set when it was read before, if the files must still be those.
        progress: wraps the iterable of the pictures read (tqdm, for example).

    Raises:
        DataError: no such folder, no picture in it or in the split; a file, named, that is no whole picture or of more
            than 8 bits a channel; files of another fingerprint. ValueError: size or channels that are none.
    """
    if size < 1:
        raise ValueError(f"size: expected at least 1, got {size}")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels: expected 1, 3 or None, got {channels}")
    if split not in SPLITS:
        raise DataError(f"split: got {split!r}, want one of {', '.join(SPLITS)}")
    folder = Path(path)
    files = find_pictures(folder)
    names = [file.relative_to(folder).as_posix() for file in files]
    found = _fingerprint(names, files)
    if fingerprint not in (None, found):
        raise DataError(f"{path}: has changed since it was read before: {found} now, {fingerprint} then")
    channels = channels or max(map(channels_of, files))
    chosen = [i for i, name in enumerate(names) if split == "all" or _is_held_out(name) == (split == "test")]
    if not chosen:
        raise DataError(f"{path}: the names of its {len(files)} pictures leave none for the split {split!r}")
    images = torch.empty(len(chosen), channels, size, size, dtype=torch.uint8)
    for k in progress(range(len(chosen))):
        square = _middle(read_picture(files[chosen[k]], channels))
        images[k] = picture_tensor(square.resize((size, size), Image.Resampling.BICUBIC))
    classes, labels = _classes(names)
    return ImageDataset(
        name=str(path),
        split=split,
        images=images,
        labels=torch.tensor([labels[i] for i in chosen]),
        classes=classes,
        fingerprint=found,
    )


def _classes(names: list[str]) -> tuple[tuple[str, ...], list[int]]:
    """The classes, and the number of that of each picture."""
    if not all("/" in name for name in names):
        return ("picture",), [0] * len(names)
    subfolders = [name.partition("/")[0] for name in names]
    classes = sorted(set(subfolders))
    number = {name: i for i, name in enumerate(classes)}
    return tuple(classes), [number[name] for name in subfolders]


def _middle(picture: Image.Image) -> Image.Image:
    """The largest square in the middle; of an odd rest, the larger half is right or below."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def _is_held_out(name: str) -> bool:
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") % _HELD_OUT == 0


def _fingerprint(names: list[str], files: list[Path]) -> str:
    """Number of the files, and a digest of their names and sizes in bytes."""
    digest = hashlib.sha256()
    for name, file in zip(names, files, strict=True):
        digest.update(os.fsencode(name) + b"\0%d\0" % file.stat().st_size)
    return f"{len(files)} pictures, names and sizes {digest.hexdigest()[:16]}"
