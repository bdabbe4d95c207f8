"""MNIST and Fashion-MNIST: 60000 training and 10000 test images of 28x28, from a folder or downloaded, checksummed."""

import numpy as np
import torch

from .files import fetch
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
    images = [_read(name, f"{part}-images-idx3-ubyte.gz") for part in parts]
    labels = [_read(name, f"{part}-labels-idx1-ubyte.gz") for part in parts]
    return ImageDataset(
        name=name,
        split=split,
        images=torch.cat([torch.tensor(part) for part in images]).unsqueeze(1),  # [N, 1, 28, 28]
        labels=torch.cat([torch.tensor(part) for part in labels]).long(),
        classes=CLASSES[name],
    )


def _read(name: str, file: str) -> np.ndarray:
    return read_idx(fetch(name, file, SHA256[f"{name}/{file}"], MIRRORS[name]))
