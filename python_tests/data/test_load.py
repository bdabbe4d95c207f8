import functools
import hashlib
import http.server
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch
from sklearn import datasets

from dgmkern.data import DataError, binarized_mnist, load, mnist

DATA = os.environ.get("DGMKERN_DATA", "")
needs_mnist = pytest.mark.skipif(
    not Path(DATA, "mnist", "t10k-labels-idx1-ubyte.gz").exists() or not DATA,
    reason="DGMKERN_DATA is not set or has no mnist/: MNIST and Fashion-MNIST readers are NOT tested",
)


def test_digits_are_scikit_learns_on_the_full_grey_scale():
    everything, bunch = load("digits", "all"), datasets.load_digits()
    assert everything.images.shape == (1797, 1, 8, 8)
    assert everything.image_shape == (1, 8, 8)
    assert np.abs(everything.images[:, 0].numpy() / 255 * 16 - bunch.images).max() < 0.04  # half a level of 255
    assert everything.labels.tolist() == bunch.target.tolist()
    assert everything.classes == tuple("0123456789")
    assert everything.images.max() == 255


def test_splits_of_digits_partition_them():
    train, test, everything = (load("digits", split) for split in ("train", "test", "all"))
    assert (len(train), len(test)) == (1437, 360)
    assert torch.equal(torch.cat([train.images, test.images]), everything.images)
    assert torch.equal(torch.cat([train.labels, test.labels]), everything.labels)


@needs_mnist
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_mnist_files_have_their_published_checksums_and_shapes(name):
    train, test = load(name), load(name, "test")
    assert train.images.shape == (60000, 1, 28, 28)
    assert test.images.shape == (10000, 1, 28, 28)
    assert train.labels.bincount(minlength=10).numel() == 10
    assert len(test.classes) == 10


@needs_mnist
def test_mnist_images_and_labels_belong_together():
    test = load("mnist", "test")
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    # ink of a 1 is the least, of a 0 the most: published class statistics
    ink = torch.stack([test.images[test.labels == k].float().mean() for k in range(10)])
    assert ink.argmin() == 1
    assert ink.argmax() == 0


@pytest.mark.skipif(
    not Path(DATA, "binarized-mnist").is_dir() or not DATA, reason="no binarized-mnist/ in DGMKERN_DATA"
)
def test_binarized_mnist_is_black_and_white_in_three_splits():
    parts = [load("binarized-mnist", split) for split in ("train", "valid", "test")]
    assert [len(part) for part in parts] == [50000, 10000, 10000]
    assert all(part.image_shape == (1, 28, 28) and part.images.unique().tolist() == [0, 255] for part in parts)
    everything = load("binarized-mnist", "all")
    assert torch.equal(everything.images, torch.cat([part.images for part in parts]))
    assert everything.labels.shape == (70000,)
    assert 0.1 < (parts[2].images[:, 0] > 0).double().mean() < 0.15


def test_binarized_mnist_is_read_from_its_published_text(folder, monkeypatch):
    bits = torch.randint(2, (3, 784), dtype=torch.uint8)
    text = "".join(" ".join(map(str, row)) + "\n" for row in bits.tolist())
    path = folder.parent / "binarized-mnist" / "binarized_mnist_valid.amat"
    path.parent.mkdir()
    path.write_text(text)
    monkeypatch.setitem(binarized_mnist.SHA256, path.name, hashlib.sha256(text.encode()).hexdigest())
    assert torch.equal(load("binarized-mnist", "valid").images.flatten(1), bits * 255)
    path.write_text(text[2:])
    with pytest.raises(DataError, match="wrong checksum"):
        load("binarized-mnist", "valid")
    monkeypatch.setitem(binarized_mnist.SHA256, path.name, hashlib.sha256(text[2:].encode()).hexdigest())
    with pytest.raises(DataError, match="lines of 784 digits"):
        load("binarized-mnist", "valid")


def test_an_unknown_data_set_or_split_lists_the_known_ones():
    names = "digits, mnist, fashion-mnist, binarized-mnist, cifar10, cifar10-subset"
    with pytest.raises(DataError, match=f"unknown data set 'cifar', want one of {names}"):
        load("cifar")
    with pytest.raises(DataError, match="'valid', want one of train, test, all"):
        load("digits", "valid")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty DGMKERN_DATA, an empty cache, and no network."""
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    monkeypatch.setenv("DGMKERN_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache")
    monkeypatch.setitem(mnist.MIRRORS, "mnist", ("http://127.0.0.1:9/",))
    return tmp_path / "data" / "mnist"


def test_a_missing_file_names_the_variable_and_the_url_tried(folder):
    with pytest.raises(DataError) as raised:
        load("mnist")
    message = str(raised.value)
    assert f"DGMKERN_DATA={folder.parent}" in message
    assert "http://127.0.0.1:9/train-images-idx3-ubyte.gz" in message


def test_without_the_variable_the_message_says_so(folder, monkeypatch):
    monkeypatch.delenv("DGMKERN_DATA")
    with pytest.raises(DataError, match="DGMKERN_DATA is not set"):
        load("mnist")


def test_a_file_with_a_wrong_checksum_is_refused_not_replaced(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(b"truncated")
    with pytest.raises(DataError, match=f"{path}: wrong checksum"):
        load("mnist")
    assert path.read_bytes() == b"truncated"


@pytest.fixture
def mirror(tmp_path):
    """A local HTTP mirror; yields (folder it serves, its URL)."""
    served = tmp_path / "served"
    served.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *details):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=served))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield served, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@needs_mnist
def test_a_download_falls_through_to_the_next_mirror_and_is_cached(folder, mirror, monkeypatch):
    served, url = mirror
    for file in Path(DATA, "mnist").glob("t10k-*"):
        shutil.copy(file, served)
    monkeypatch.setitem(mnist.MIRRORS, "mnist", ("http://127.0.0.1:9/", url))
    assert len(load("mnist", "test")) == 10000
    shutil.rmtree(served)
    assert len(load("mnist", "test")) == 10000


def test_a_download_with_a_wrong_checksum_leaves_nothing_in_the_cache(folder, mirror, monkeypatch):
    served, url = mirror
    (served / "train-images-idx3-ubyte.gz").write_bytes(b"something else")
    monkeypatch.setitem(mnist.MIRRORS, "mnist", (url,))
    with pytest.raises(DataError, match="wrong checksum"):
        load("mnist")
    assert not [path for path in (folder.parents[1] / "cache").rglob("*") if path.is_file()]
