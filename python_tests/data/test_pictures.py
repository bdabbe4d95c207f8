"""Folders of pictures as data sets."""

import hashlib
import os

import numpy as np
import pytest
import torch
from picture_files import bicubic, pixels, save

from dgmkern.data import DataError
from dgmkern.data.pictures import load_pictures


def is_held_out(name):
    return int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) % 10 == 0


def named(count, held_out):
    """`count` names of the one split."""
    return [name for i in range(40 * count) if is_held_out(name := f"{i}.png") == held_out][:count]


@pytest.mark.parametrize("shape", [(20, 31), (31, 20), (24, 24), (5, 9)])
def test_the_middle_square_is_resized_by_antialiased_bicubic(tmp_path, shape):
    array = (pixels(*shape).astype(float) * 0.4 + 70).astype(np.uint8)  # no overshoot to clip
    save(tmp_path / "x.png", array)
    got = load_pictures(tmp_path, "all", size=8).images
    assert got.shape == (1, 1, 8, 8)
    side = min(shape)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    want = bicubic(array[top : top + side, left : left + side], (8, 8))
    assert np.abs(got[0, 0].numpy() - want).max() <= 1.01  # rounded twice, once a direction


def test_a_square_of_the_size_asked_for_is_as_stored(tmp_path):
    colours = pixels(8, 8, 3)
    save(tmp_path / "x.png", colours)
    assert np.array_equal(load_pictures(tmp_path, "all", size=8).images[0].numpy(), colours.transpose(2, 0, 1))


def test_a_tenth_is_held_out_by_name_whatever_else_is_there(tmp_path):
    for i in range(400):
        save(tmp_path / f"{i % 3}" / f"{i}.png", np.full((2, 2), i % 256, np.uint8))
    parts = {split: load_pictures(tmp_path, split, size=2) for split in ("train", "test", "all")}
    names = sorted((f"{i % 3}", f"{i}.png") for i in range(400))
    held_out = torch.tensor([is_held_out("/".join(name)) for name in names])
    everything = parts["all"].images
    assert everything[:, 0, 0, 0].tolist() == [int(name[:-4]) % 256 for _, name in names]
    assert torch.equal(parts["test"].images, everything[held_out])
    assert torch.equal(parts["train"].images, everything[~held_out])
    assert torch.equal(parts["test"].labels, parts["all"].labels[held_out])
    assert torch.equal(parts["train"].labels, parts["all"].labels[~held_out])
    assert 20 <= len(parts["test"]) <= 60  # 40 +- 6
    for i in range(0, 400, 3):
        (tmp_path / "0" / f"{i}.png").unlink()
    test = load_pictures(tmp_path, "test", size=2)
    assert torch.equal(test.images, parts["test"].images[parts["test"].labels > 0])


def test_subfolders_are_classes_where_every_picture_is_in_one(tmp_path):
    for name in ("b/x.png", "a/deep/y.png", "a/z.png", "10/w.png"):
        save(tmp_path / name, pixels(4, 4))
    data = load_pictures(tmp_path, "all", size=4)
    assert data.classes == ("10", "a", "b")
    assert data.labels.tolist() == [0, 1, 1, 2]
    save(tmp_path / "stray.png", pixels(4, 4))
    data = load_pictures(tmp_path, "all", size=4)
    assert data.classes == ("picture",)
    assert data.labels.tolist() == [0] * 5


def test_grey_among_colours_of_any_split_becomes_rgb(tmp_path):
    grey, colours = pixels(4, 4), pixels(4, 4, 3, seed=1)
    (train,), (test,) = named(1, held_out=False), named(1, held_out=True)
    save(tmp_path / train, grey)
    assert np.array_equal(load_pictures(tmp_path, size=4).images.numpy(), grey[None, None])
    save(tmp_path / test, colours)
    assert np.array_equal(load_pictures(tmp_path, size=4).images.numpy(), np.stack([grey] * 3)[None])
    assert np.array_equal(load_pictures(tmp_path, "test", size=4).images[0].numpy(), colours.transpose(2, 0, 1))
    luma = colours @ np.array([0.299, 0.587, 0.114])
    assert np.abs(load_pictures(tmp_path, "test", size=4, channels=1).images[0, 0].numpy() - luma).max() <= 1


def add(folder):
    save(folder / "new.png", pixels(4, 4))


def remove(folder):
    (folder / "0.png").unlink()


def rename(folder):
    (folder / "0.png").rename(folder / "zero.png")


def grow(folder):
    with (folder / "0.png").open("ab") as file:
        file.write(b"\0")


@pytest.mark.parametrize("change", [add, remove, rename, grow])
def test_a_folder_that_has_changed_is_refused(tmp_path, change):
    for i in range(3):
        save(tmp_path / f"{i}.png", pixels(4, 4))
    then = load_pictures(tmp_path, "all", size=4).fingerprint
    os.utime(tmp_path / "0.png", (0, 0))
    (tmp_path / "notes.txt").write_text("no picture")
    assert load_pictures(tmp_path, "all", size=4, fingerprint=then).fingerprint == then
    change(tmp_path)
    with pytest.raises(DataError, match=rf"{tmp_path}: has changed .* pictures, .* now, 3 pictures, .* then"):
        load_pictures(tmp_path, "all", size=4, fingerprint=then)


def test_the_fingerprint_is_that_of_the_folder_not_of_its_place_or_of_how_it_is_read(tmp_path):
    for folder in ("here", "there"):
        for name in (*named(2, held_out=False), *named(2, held_out=True)):
            save(tmp_path / folder / name, pixels(6, 6, 3))
    found = {
        load_pictures(tmp_path / folder, split, size=size, channels=channels).fingerprint
        for folder in ("here", "there")
        for split, size, channels in (("train", 4, None), ("test", 2, 1))
    }
    assert len(found) == 1


def test_progress_wraps_what_is_read(tmp_path):
    for name in (*named(3, held_out=False), *named(1, held_out=True)):
        save(tmp_path / name, pixels(4, 4))
    seen = []
    load_pictures(tmp_path, size=4, progress=lambda steps: seen.append(len(steps)) or steps)
    assert seen == [3]


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        load_pictures(tmp_path / "nowhere", size=4)
    with pytest.raises(DataError, match="no picture in this folder"):
        load_pictures(tmp_path, size=4)
    (train,) = named(1, held_out=False)
    save(tmp_path / train, pixels(64, 64))
    with pytest.raises(DataError, match="the names of its 1 pictures leave none for the split 'test'"):
        load_pictures(tmp_path, "test", size=4)
    with pytest.raises(DataError, match="split: got 'valid', want one of train, test, all"):
        load_pictures(tmp_path, "valid", size=4)
    whole = (tmp_path / train).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"no picture"):
        (tmp_path / train).write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{train}: not a whole picture"):
            load_pictures(tmp_path, size=4)
    save(tmp_path / train, pixels(4, 4).astype(np.uint16) * 200)
    with pytest.raises(DataError, match=rf"{train}: expected 8 bits a channel"):
        load_pictures(tmp_path, size=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"size": 0}, "size: expected at least 1, got 0"), ({"size": 4, "channels": 2}, "channels: expected 1, 3")],
)
def test_bad_arguments_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load_pictures(tmp_path, **options)
