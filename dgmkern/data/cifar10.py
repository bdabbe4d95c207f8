"""CIFAR-10 (A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009) in its binary version."""

import os
import tarfile
from pathlib import Path

import numpy as np
import torch

from .errors import DataError
from .files import fetch, local_file
from .images import ImageDataset

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)
SHA256 = {
    "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    "cifar10_subset.npz": "5e81f99fe5af185b32d0cb5efbf72c956a858f8e684fdfba6995f9e197878f5c",
}
_TRAIN, _TEST = tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",)
PARTS = {"train": _TRAIN, "test": _TEST, "all": _TRAIN + _TEST}
_FOLDER = "cifar-10-batches-bin"  # of the archive


def load_cifar10(split: str) -> ImageDataset:
    """50000 images of 32x32 in RGB ("train"), 10000 ("test") or all, of 10 classes."""
    records = np.frombuffer(b"".join(_batches(PARTS[split])), np.uint8)
    records = torch.tensor(records).view(-1, 3073)  # a label, then the rows of red, of green and of blue
    return _dataset("cifar10", split, records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0])


def load_cifar10_subset(split: str) -> ImageDataset:
    """The first 4000 training and the first 1000 test images of CIFAR-10, from one file in DGMKERN_DATA."""
    name = "cifar10-subset", "cifar10_subset.npz"
    path = local_file(*name, SHA256[name[1]])
    if path is None:
        folder = os.environ.get("DGMKERN_DATA", "not set")
        raise DataError(f"{'/'.join(name)}: is not in DGMKERN_DATA={folder}, and there is no place to download it from")
    parts = {"train": ("train",), "test": ("test",), "all": ("train", "test")}[split]
    with np.load(path, allow_pickle=False) as file:
        images = torch.cat([torch.from_numpy(file[f"x_{part}"]) for part in parts])  # [N, 32, 32, 3]
        labels = torch.cat([torch.from_numpy(file[f"y_{part}"]) for part in parts])
    return _dataset(name[0], split, images.permute(0, 3, 1, 2).contiguous(), labels)


def _batches(names: tuple[str, ...]) -> list[bytes]:
    """The files of these names: unpacked ones in DGMKERN_DATA, else those in the archive."""
    local = [_unpacked(name) for name in names]
    if None not in local:
        return [path.read_bytes() for path in local]
    archive = "cifar-10-binary.tar.gz"
    with tarfile.open(fetch("cifar10", archive, SHA256[archive], MIRRORS)) as tar:
        return [tar.extractfile(f"{_FOLDER}/{name}").read() for name in names]


def _unpacked(name: str) -> Path | None:
    sha256 = SHA256[name]
    return local_file("cifar10", name, sha256) or local_file("cifar10", f"{_FOLDER}/{name}", sha256)


def _dataset(name: str, split: str, images: torch.Tensor, labels: torch.Tensor) -> ImageDataset:
    return ImageDataset(name=name, split=split, images=images, labels=labels.long(), classes=CLASSES)
