"""Folders of pictures."""

import numpy as np
import pytest
import torch
from picture_files import bicubic, pixels, save
from PIL import Image

from dgmkern.data import DataError
from dgmkern.data.folder import ImageFolder


def everything(folder, batch_size=64):
    return torch.cat(list(folder.batches(batch_size)))


def test_pictures_of_folders_within_come_sorted_in_batches(tmp_path):
    arrays = {
        name: pixels(4, 5, 3, seed=i) for i, name in enumerate(("b.png", "a/z.PNG", "a/y.bmp", "c/d/x.tiff", "c.webp"))
    }
    for name, array in arrays.items():
        save(tmp_path / name, array, **({"lossless": True} if name.endswith("webp") else {}))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    folder = ImageFolder(tmp_path)
    assert len(folder) == 5
    batches = list(folder.batches(2))
    assert [tuple(batch.shape) for batch in batches] == [(2, 3, 4, 5), (2, 3, 4, 5), (1, 3, 4, 5)]
    want = [arrays[name].transpose(2, 0, 1) for name in ("a/y.bmp", "a/z.PNG", "b.png", "c/d/x.tiff", "c.webp")]
    assert np.array_equal(torch.cat(batches).numpy(), np.stack(want))


def test_one_batch_is_held_at_a_time(tmp_path):
    for i in range(4):
        save(tmp_path / f"{i}.png", pixels(3, 3))
    batches = ImageFolder(tmp_path).batches(2)
    next(batches)
    (tmp_path / "3.png").write_bytes(b"damaged after the first batch was read")
    with pytest.raises(DataError, match=r"3\.png: not a whole picture"):
        next(batches)


def test_jpeg_is_decoded_as_pillow_decodes_it(tmp_path):
    save(tmp_path / "x.jpg", pixels(16, 16, 3), quality=90)
    want = np.asarray(Image.open(tmp_path / "x.jpg").convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(everything(ImageFolder(tmp_path))[0].numpy(), want)


def test_grey_stays_grey_unless_asked_for(tmp_path):
    grey = pixels(4, 4)
    save(tmp_path / "x.png", grey)
    assert np.array_equal(everything(ImageFolder(tmp_path)).numpy(), grey[None, None])
    assert np.array_equal(everything(ImageFolder(tmp_path, channels=3)).numpy(), np.stack([grey] * 3)[None])


def test_colours_become_grey_by_luma_and_lose_alpha(tmp_path):
    colours = pixels(6, 6, 4)
    save(tmp_path / "x.png", colours)
    assert np.array_equal(everything(ImageFolder(tmp_path))[0].numpy(), colours[..., :3].transpose(2, 0, 1))
    luma = colours[..., :3] @ np.array([0.299, 0.587, 0.114])
    assert np.abs(everything(ImageFolder(tmp_path, channels=1))[0, 0].numpy() - luma).max() <= 1


def test_a_palette_and_one_bit_are_looked_up(tmp_path):
    colours = pixels(4, 4, 3)
    Image.fromarray(colours).quantize(16).save(tmp_path / "p.png")
    want = np.asarray(Image.open(tmp_path / "p.png").convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(everything(ImageFolder(tmp_path))[0].numpy(), want)
    (tmp_path / "p.png").unlink()
    bits = pixels(4, 4) > 127
    save(tmp_path / "b.png", bits)
    assert np.array_equal(everything(ImageFolder(tmp_path))[0, 0].numpy(), bits * 255)


@pytest.mark.parametrize("size", [(7, 5), (30, 41)])
def test_resizing_is_antialiased_bicubic(tmp_path, size):
    array = (pixels(20, 24).astype(float) * 0.4 + 70).astype(np.uint8)  # no overshoot to clip
    save(tmp_path / "x.png", array)
    got = everything(ImageFolder(tmp_path, size=size))
    assert got.shape == (1, 1, *size)
    want = bicubic(array, size)
    assert np.abs(got[0, 0].numpy() - want).max() <= 1.01  # rounded twice, once a direction


def test_sizes_may_differ_where_all_are_resized(tmp_path):
    for i, shape in enumerate(((4, 4), (5, 6))):
        save(tmp_path / f"{i}.png", pixels(*shape))
    assert everything(ImageFolder(tmp_path, size=(4, 4))).shape == (2, 1, 4, 4)
    with pytest.raises(DataError, match=r"1\.png: expected grey 4x4 like 0\.png, got grey 5x6; give size"):
        everything(ImageFolder(tmp_path))
    with pytest.raises(DataError, match=r"1\.png: expected grey 4x4 like 0\.png, got grey 5x6"):
        everything(ImageFolder(tmp_path), batch_size=1)


def test_grey_among_colours_is_named(tmp_path):
    save(tmp_path / "0.png", pixels(4, 4, 3))
    save(tmp_path / "1.png", pixels(4, 4))
    with pytest.raises(DataError, match=r"1\.png: expected RGB 4x4 like 0\.png, got grey 4x4; give channels"):
        everything(ImageFolder(tmp_path))
    assert everything(ImageFolder(tmp_path, channels=1)).shape == (2, 1, 4, 4)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff"])
def test_a_file_cut_short_is_named(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    save(path, pixels(32, 32, 3))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"x\.{suffix}: not a whole picture"):
        everything(ImageFolder(tmp_path))


def test_more_than_8_bits_are_refused(tmp_path):
    save(tmp_path / "x.png", pixels(4, 4).astype(np.uint16) * 200)
    with pytest.raises(DataError, match=r"x\.png: expected 8 bits a channel, got a picture of Pillow's mode I;16"):
        everything(ImageFolder(tmp_path))


def test_bad_folders_and_arguments_are_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no picture in this folder"):
        ImageFolder(tmp_path)
    save(tmp_path / "x.png", pixels(4, 4))
    with pytest.raises(DataError, match="no such folder"):
        ImageFolder(tmp_path / "x.png")
    for options, message in (
        ({"size": (0, 4)}, r"size: expected \(H, W\)"),
        ({"channels": 2}, "channels: expected 1, 3"),
    ):
        with pytest.raises(ValueError, match=message):
            ImageFolder(tmp_path, **options)
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        next(ImageFolder(tmp_path).batches(0))
