"""One door to every data set, by name."""

from collections.abc import Callable, Iterable
from functools import partial

from .binarized_mnist import PARTS, load_binarized_mnist
from .cifar10 import load_cifar10, load_cifar10_subset
from .digits import load_digits
from .errors import DataError
from .images import ImageDataset
from .mnist import load_mnist

SPLITS = ("train", "test", "all")
# name: (reader of a split, its splits)
_READERS: dict[str, tuple[Callable[[str], ImageDataset], Iterable[str]]] = {
    "digits": (load_digits, SPLITS),
    "mnist": (partial(load_mnist, "mnist"), SPLITS),
    "fashion-mnist": (partial(load_mnist, "fashion-mnist"), SPLITS),
    "binarized-mnist": (load_binarized_mnist, PARTS),
    "cifar10": (load_cifar10, SPLITS),
    "cifar10-subset": (load_cifar10_subset, SPLITS),
}
NAMES = tuple(_READERS)


def load(name: str, split: str = "train") -> ImageDataset:
    """Load a data set as uint8 images [N, C, H, W] with labels and class names.

    - "digits": 8x8, bundled with scikit-learn, no download; 1437 train, 360 test.
    - "mnist", "fashion-mnist": 28x28; 60000 train, 10000 test. Read from the folder in the environment variable
      DGMKERN_DATA (laid out as `mnist/train-images-idx3-ubyte.gz`, ...), else downloaded once into the user's cache
      folder. Either way the sha256 of each file is checked.
    - "binarized-mnist": the same way, 28x28 of levels 0 and 255, without labels; 50000 train, 10000 test and a split
      more, "valid", of 10000.
    - "cifar10": the same way (`cifar10/cifar-10-binary.tar.gz`, or the files in it), 32x32 in RGB; 50000 train,
      10000 test.
    - "cifar10-subset": their first 4000 and first 1000; from `cifar10-subset/cifar10_subset.npz` only, uint8 arrays
      x_train, x_test [N, 32, 32, 3] and y_train, y_test [N].

    Raises DataError for an unknown name or split, and for a missing, corrupt or truncated file.
    """
    if name not in NAMES:
        raise DataError(f"data: unknown data set {name!r}, want one of {', '.join(NAMES)}")
    read, splits = _READERS[name]
    if split not in splits:
        raise DataError(f"split: got {split!r}, want one of {', '.join(splits)}")
    return read(split)
