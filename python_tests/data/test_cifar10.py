"""CIFAR-10: the layout of its records, where its files are looked for, and the first images as others publish them."""

import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch

from dgmkern.data import DataError, cifar10, load

DATA = os.environ.get("DGMKERN_DATA", "")
N = 4  # records of a file here


@pytest.fixture
def batches(tmp_path, monkeypatch):
    """Files of `N` records of random images, by name, which pass for the published ones; no network."""
    rng, files = np.random.default_rng(0), {}
    for name in cifar10.PARTS["all"]:
        records = rng.integers(0, 256, (N, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        files[name] = records.tobytes()
        monkeypatch.setitem(cifar10.SHA256, name, hashlib.sha256(files[name]).hexdigest())
    monkeypatch.setenv("DGMKERN_DATA", str(tmp_path))
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache")
    monkeypatch.setattr(cifar10, "MIRRORS", ("http://127.0.0.1:9/",))
    (tmp_path / "cifar10").mkdir()
    return files


def check(files: dict[str, bytes]) -> None:
    """Each record is a label, then the rows of red, of green and of blue; the training files come in their order."""
    for split in ("train", "test", "all"):
        data = load("cifar10", split)
        count = N * len(cifar10.PARTS[split])
        assert data.images.shape == (count, 3, 32, 32)
        for i, name in enumerate(cifar10.PARTS[split]):
            for j in range(N):
                record = files[name][3073 * j : 3073 * (j + 1)]
                image, label = data.images[N * i + j], data.labels[N * i + j]
                assert label == record[0]
                assert image[0, 0, 0] == record[1]
                assert image[0, 0, 31] == record[32]
                assert image[0, 31, 31] == record[1024]
                assert image[1, 2, 3] == record[1 + 1024 + 2 * 32 + 3]
                assert image[2, 31, 31] == record[3072]


@pytest.mark.parametrize("within", ["", "cifar-10-batches-bin"])
def test_unpacked_files_are_read_where_they_lie(tmp_path, batches, within):
    for name, content in batches.items():
        path = tmp_path / "cifar10" / within / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    check(batches)


def test_the_archive_is_read_as_it_is(tmp_path, batches, monkeypatch):
    path = tmp_path / "cifar10" / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in [("readme.html", b"other"), *batches.items()]:
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz: wrong checksum"):
        load("cifar10")
    monkeypatch.setitem(cifar10.SHA256, path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    check(batches)
    assert [file.name for file in (tmp_path / "cifar10").iterdir()] == [path.name]


def test_files_that_are_missing_or_damaged_are_named(tmp_path, batches):
    folder = tmp_path / "cifar10"
    with pytest.raises(DataError) as raised:
        load("cifar10")
    assert "set DGMKERN_DATA to a folder that holds cifar10/cifar-10-binary.tar.gz" in str(raised.value)
    assert "http://127.0.0.1:9/cifar-10-binary.tar.gz" in str(raised.value)
    name = "test_batch.bin"
    (folder / name).write_bytes(batches[name][:-1])
    with pytest.raises(DataError, match=r"test_batch\.bin: wrong checksum"):
        load("cifar10", "test")


@pytest.mark.skipif(not Path(DATA, "cifar10-subset").is_dir() or not DATA, reason="no cifar10-subset/ in DGMKERN_DATA")
def test_the_subset_begins_as_cifar10_does_elsewhere():
    train, test, everything = (load("cifar10-subset", split) for split in ("train", "test", "all"))
    assert train.images.shape == (4000, 3, 32, 32)
    assert test.images.shape == (1000, 3, 32, 32)
    assert torch.equal(everything.images, torch.cat([train.images, test.images]))
    assert torch.equal(everything.labels, torch.cat([train.labels, test.labels]))
    # as keras.datasets.cifar10 and torchvision have them
    assert train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert train.images[0, :, 0, 0].tolist() == [59, 62, 63]
    assert test.images[0, :, 0, 0].tolist() == [158, 112, 49]
    assert [test.classes[label] for label in test.labels[:4]] == ["cat", "ship", "ship", "airplane"]
    # the sky: blue is the most of aeroplanes and ships, not of frogs and deer
    blue = [(x := train.images[train.labels == k].double().mean((0, 2, 3)))[2] - x[0] for k in range(10)]
    assert min(blue[0], blue[8]) > max(blue[4], blue[6])


def test_without_the_subset_the_message_says_where_it_is_looked_for(batches, tmp_path, monkeypatch):
    message = r"cifar10-subset/cifar10_subset\.npz: is not in DGMKERN_DATA="
    with pytest.raises(DataError, match=message + str(tmp_path)):
        load("cifar10-subset")
    monkeypatch.delenv("DGMKERN_DATA")
    with pytest.raises(DataError, match=message + "not set"):
        load("cifar10-subset")
