"""`dgmkern fid`: what it prints for folders, files and data sets, against the library and NumPy."""

import json
import os
import subprocess
import sys
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image

from dgmkern.cli import fid, main
from dgmkern.data import NAMES, load
from dgmkern.features import NAMES as FEATURES
from dgmkern.features import training
from dgmkern.metrics import FeatureStats


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch, cache):
    torch.set_num_threads(1)
    monkeypatch.setenv("DGMKERN_CACHE", str(cache))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The test split of digits as pictures, in RGB."""
    path = tmp_path_factory.mktemp("pictures")
    for i, image in enumerate(load("digits", "test").images[:, 0].numpy()):
        Image.fromarray(np.stack([image] * 3, 2)).save(path / f"{i:03}.png")
    return path


def printed(capfd, *argv):
    """The object that `dgmkern fid ... --json` prints."""
    assert main(["fid", *map(str, argv), "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def fails(capfd, *argv):
    assert main(["fid", *map(str, argv)]) == 2
    captured = capfd.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("dgmkern: ")]
    assert captured.out == ""
    assert len(lines) == 1
    assert lines[0].startswith("dgmkern: error: ")
    assert "Traceback" not in captured.err
    return lines[0]


def test_pixels_of_two_splits_are_at_numpys_distance(capfd):
    record = printed(capfd, "digits", "digits:test", "--features", "pixels")
    x, y = (load("digits", split).images.flatten(1).numpy() / 255 for split in ("train", "test"))
    s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = np.linalg.eigh(s1)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ s2 @ root), 0, None)).sum()
    want = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * cross
    assert abs(record["value"] - want) <= record["bound"] + 1e-6
    assert record["features"] == "pixels"
    assert record["width"] == 64
    assert record["a"] == {"source": "digits", "n": 1437}
    assert record["b"] == {"source": "digits:test", "n": 360}


def test_a_data_set_takes_its_classifier_and_a_folder_of_it_is_at_0(capfd, folder):
    record = printed(capfd, "digits:test", folder)
    assert record["features"].startswith("classifier:digits:")
    assert record["width"] == 128
    assert abs(record["value"]) <= record["bound"] < 0.01
    other = printed(capfd, "digits:test", "digits")
    assert other["value"] > 100 * record["bound"]


def test_equal_folders_are_at_0_in_pixels_and_by_the_classifier_of_data(capfd, folder):
    for options in (["--features", "pixels"], ["--data", "digits"], ["--data", "digits", "--size", "8"]):
        record = printed(capfd, folder, folder, *options)
        assert abs(record["value"]) <= record["bound"] < 0.01


def test_saved_statistics_stand_in_for_images(capfd, folder, tmp_path):
    a, b = tmp_path / "a.npz", tmp_path / "b.npz"
    images = printed(capfd, "digits", folder, "--save-a", a, "--save-b", b)
    assert FeatureStats.load(a).count == 1437
    for argv in ((a, folder, "--data", "digits"), ("digits", b), (a, b)):
        record = printed(capfd, *argv)
        assert abs(record["value"] - images["value"]) <= record["bound"] + images["bound"]
        assert any("does not say which features" in caveat for caveat in record["caveats"])
    assert record["features"] is None
    assert record["a"]["n"] == 1437


def test_a_file_of_pytorch_fid_says_no_count(capfd, tmp_path):
    images = load("digits").images.flatten(1).numpy() / 255
    np.savez(tmp_path / "x.npz", mu=images.mean(0), sigma=np.cov(images, rowvar=False))
    record = printed(capfd, tmp_path / "x.npz", "digits", "--features", "pixels")
    assert abs(record["value"]) <= record["bound"]
    assert record["a"]["n"] is None
    assert any("does not say of how many samples" in caveat for caveat in record["caveats"])


def test_infinity_takes_the_bias_of_few_images_off(capfd, tmp_path):
    rng = np.random.default_rng(0)
    stats = FeatureStats()
    for split in ("few", "many"):
        pixels = rng.normal(128, 20, (250 if split == "few" else 20000, 4, 4)).clip(0, 255).astype(np.uint8)
        if split == "many":
            stats.update(torch.from_numpy(pixels).flatten(1).double() / 255)
        else:
            for i, image in enumerate(pixels):
                Image.fromarray(image).save(tmp_path / f"{i}.png")
    stats.save(tmp_path / "real.npz")
    record = printed(capfd, tmp_path / "real.npz", tmp_path, "--features", "pixels", "--infinity")
    infinity = record["infinity"]
    assert abs(infinity["value"]) < record["value"] / 3  # both are of one distribution
    assert infinity["points"][-1] == [250, pytest.approx(record["value"], rel=1e-9)]
    assert infinity["standard_error"] > 0
    assert infinity["bound"] < 1e-6


def test_the_text_has_value_bound_counts_and_caveats(capfd, folder):
    argv = ["fid", "digits", str(folder), "--features", "pixels", "--infinity"]
    assert main(argv) == 0
    captured = capfd.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("Frechet distance 0.27")
    assert "numerical error at most" in lines[0]
    assert lines[1].startswith("at infinity ")
    assert lines[2] == "features pixels, 64"
    assert lines[3:5] == ["digits: 1437 samples", f"{folder}: 360 samples"]
    assert any("1437 and 360 samples" in line for line in lines)
    assert "caveat: the value at infinity is that of infinitely many images of B: the bias by digits is in it" in lines
    assert f"{folder}: 100%" in captured.err


def test_few_images_are_compared_in_sample_space_and_said(capfd, folder, tmp_path):
    for file in sorted(folder.iterdir())[:50]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    record = printed(capfd, tmp_path, tmp_path, "--features", "pixels")
    assert abs(record["value"]) <= record["bound"] < 1e-9
    assert any("50 samples of 192 features; the covariance has a rank of 49" in line for line in record["caveats"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere", "digits"], "nowhere: no such folder"),
        (["nowhere.npz", "digits"], "nowhere.npz: No such file"),
        (["digits", "digits:valid"], "split: got 'valid'"),
        (["digits", "digits", "--features", "vgg"], "invalid choice 'vgg'"),
        (["digits", "digits", "--size", "8"], "--size: is for folders of pictures, and neither A nor B is one"),
        (["{folder}", "{folder}", "--features", "classifier"], "--data: want the data set"),
        (["{folder}", "{folder}", "--size", "0", "--features", "pixels"], "--size: got 0, want at least 1"),
        (
            ["digits", "{folder}", "--size", "9"],
            "{folder}: images: expected [N, 1, 8, 8], got the shape",
        ),
        (["digits", "{folder}", "--size", "9", "--features", "pixels"], "{folder}: expected 64 features per image"),
        (["digits", "digits", "--data", "digits", "--features", "pixels"], "--data: is for --features classifier"),
        (["digits", "digits", "--weights", "x.pth"], "--weights: is for --features inception, got it for classifier"),
        (["digits", "digits", "--batch-size", "0"], "--batch-size: got 0, want at least 1"),
        (["digits", "digits", "--save-a", "x.txt"], "--save-a: got x.txt, want the path of an .npz"),
        (["digits", "digits", "--save-b", "no/folder/x.npz"], "--save-b: got no/folder/x.npz"),
        (["x.npz", "digits", "--save-a", "y.npz"], "--save-a: got y.npz, but those are statistics already"),
        (["digits", "x.npz", "--infinity"], "--infinity: needs the images of B, got the statistics x.npz"),
        (["x.npz", "y.npz", "--features", "pixels"], "A and B are statistics of features already"),
    ],
)
def test_bad_command_lines_and_sources_are_one_line(capfd, folder, argv, message):
    argv = [part.format(folder=folder) for part in argv]
    assert message.format(folder=folder) in fails(capfd, *argv)


def test_without_inception_the_choices_are_named(capfd, folder):
    message = fails(capfd, folder, folder)
    assert "inception: missing" in message
    assert message.endswith("; or choose --features pixels, or the classifier of a data set by --data")
    assert "or choose" not in fails(capfd, folder, folder, "--features", "inception")


def test_a_data_set_without_a_classifier_asks_for_inception(capfd, monkeypatch):
    for module in ("dgmkern.data", "dgmkern.features.source"):
        monkeypatch.setattr(f"{module}.load", lambda name, split="train": load("digits", split))
    assert "inception: missing" in fails(capfd, "binarized-mnist", "binarized-mnist:test")
    assert printed(capfd, "cifar10:test", "cifar10", "--features", "pixels")["width"] == 64


def test_a_damaged_picture_and_widths_that_differ_are_named(capfd, folder, tmp_path):
    (tmp_path / "x.png").write_bytes(b"no picture")
    assert f"{tmp_path / 'x.png'}: not a whole picture" in fails(capfd, "digits", tmp_path)
    for width in (3, 4):
        np.savez(tmp_path / f"{width}.npz", mu=np.zeros(width), sigma=np.eye(width))
    message = fails(capfd, tmp_path / "3.npz", tmp_path / "4.npz")
    assert f"{tmp_path / '4.npz'}: expected 3 features per sample, as {tmp_path / '3.npz'} has, got 4" in message


def test_the_options_are_those_of_the_library():
    hints = get_type_hints(fid.FID)
    assert get_args(get_args(hints["features"])[0]) == FEATURES
    assert get_args(get_args(hints["data"])[0]) == tuple(training.RECIPES)
    assert set(training.RECIPES) <= set(NAMES)


def test_as_a_process_json_is_all_of_stdout(folder):
    done = subprocess.run(
        [sys.executable, "-m", "dgmkern", "fid", str(folder), str(folder), "--features", "pixels", "--json"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0
    assert abs(json.loads(done.stdout)["value"]) < 1e-6
    assert "100%" in done.stderr
