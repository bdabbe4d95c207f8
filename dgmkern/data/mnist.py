"""MNIST and Fashion-MNIST: 60000 training and 10000 test images of 28x28, from a folder or downloaded, checksummed."""

import hashlib
import os
from pathlib import Path

import torch

from .errors import DataError
from .idx import read_idx
from .images import ImageDataset

CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
}  # fmt: skip

MIRRORS = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion-mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
}

SHA256 = {
    "mnist/train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "mnist/train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "mnist/t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "mnist/t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    "fashion-mnist/train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "fashion-mnist/train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "fashion-mnist/t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "fashion-mnist/t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}


def load_mnist(name: str, split: str) -> ImageDataset:
    """`name` is "mnist" or "fashion-mnist"; `split` is "train", "test" or "all" (train, then test)."""
    parts = {"train": ("train",), "test": ("t10k",), "all": ("train", "t10k")}[split]
    images = [read_idx(_fetch(name, f"{part}-images-idx3-ubyte.gz")) for part in parts]
    labels = [read_idx(_fetch(name, f"{part}-labels-idx1-ubyte.gz")) for part in parts]
    return ImageDataset(
        name=name,
        split=split,
        images=torch.cat([torch.tensor(part) for part in images]).unsqueeze(1),  # [N, 1, 28, 28]
        labels=torch.cat([torch.tensor(part) for part in labels]).long(),
        classes=CLASSES[name],
    )


def _fetch(name: str, file: str) -> Path:
    """Path of one checked file: in $DGMKERN_DATA/<name>/ if it is there, else downloaded once into the user's cache."""
    folder = os.environ.get("DGMKERN_DATA")
    if folder:
        path = Path(folder, name, file)
        if path.exists():
            _check(path, SHA256[f"{name}/{file}"])
            return path
    return _download(name, file)


def _check(path: Path, sha256: str) -> None:
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if found != sha256:
        raise DataError(f"{path}: wrong checksum, the file is corrupt: sha256 {found}, want {sha256}")


def _download(name: str, file: str) -> Path:
    import pooch

    pooch.get_logger().setLevel("WARNING")  # the CLI prints its own lines
    tried = []
    for mirror in MIRRORS[name]:
        url = mirror + file
        try:
            # pooch downloads beside, checks the hash, then renames: nothing half-written is ever found here.
            path = pooch.retrieve(
                url,
                known_hash="sha256:" + SHA256[f"{name}/{file}"],
                fname=file,
                path=Path(pooch.os_cache("dgmkern"), name),
                downloader=pooch.HTTPDownloader(timeout=30),
            )
            return Path(path)
        except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong hash is a ValueError
            tried.append(f"{url} ({_reason(error)})")
    folder = os.environ.get("DGMKERN_DATA")
    where = f"is not in DGMKERN_DATA={folder}" if folder else "is not here (DGMKERN_DATA is not set)"
    raise DataError(
        f"{name}/{file} {where} and could not be downloaded from {' or '.join(tried)}; "
        f"set DGMKERN_DATA to a folder that holds {name}/{file}"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ValueError) and "hash" in str(error):
        return "wrong checksum"
    return type(error).__name__
