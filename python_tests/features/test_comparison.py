"""Sources by name, their features in batches, and what is said of too few samples."""

import numpy as np
import pytest
import torch
from PIL import Image

from dgmkern.data import DataError, load
from dgmkern.data.folder import ImageFolder
from dgmkern.features import PixelFeatures, Side, caveats, features_of, open_source, read_side
from dgmkern.metrics import FeatureStats, frechet_distance


def statistics(x):
    stats = FeatureStats()
    stats.update(x)
    return stats


def test_sources_are_data_sets_statistics_and_folders(tmp_path, monkeypatch):
    for source, split in (("digits", "train"), ("digits:test", "test"), ("digits:all", "all")):
        assert torch.equal(open_source(source).images, load("digits", split).images)
    statistics(torch.randn(9, 3)).save(tmp_path / "x.npz")
    assert open_source(str(tmp_path / "x.npz")).count == 9
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "x.png")
    folder = open_source(str(tmp_path), size=(5, 6), channels=1)
    assert next(folder.batches(1)).shape == (1, 1, 5, 6)
    monkeypatch.chdir(tmp_path.parent)
    assert isinstance(open_source(tmp_path.name), ImageFolder)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("nowhere", DataError, r"nowhere: no such folder; expected one of pictures, an .npz .* \(digits, mnist"),
        ("digits:valid", DataError, "split: got 'valid', want one of train, test, all"),
        ("nowhere.npz", FileNotFoundError, "nowhere.npz"),
    ],
)
def test_a_source_that_is_not_there_is_named(source, error, message):
    with pytest.raises(error, match=message):
        open_source(source)


def test_statistics_do_not_depend_on_the_batch_size():
    images = load("digits", "test")
    one, two = (read_side("digits", images, PixelFeatures(), batch_size=size, progress=False) for size in (7, 500))
    want = np.cov(images.images.flatten(1).numpy() / 255, rowvar=False)
    for side in (one, two):
        assert side.stats.count == 360
        assert np.abs(side.stats.covariance.numpy() - want).max() <= 1e-15 * 360 * want.max()


def test_features_are_kept_where_they_are_few_or_asked_for():
    images, extractor = load("digits", "test"), PixelFeatures()
    features = images.images.flatten(1).double() / 255
    few = load("digits", "test").images[:40]
    assert read_side("x", images, extractor, batch_size=50, progress=False).features is None
    kept = read_side("x", images, extractor, keep=True, batch_size=50, progress=False)
    assert torch.equal(kept.features, features)
    some = type(images)("x", "test", few, images.labels[:40], images.classes)
    side = read_side("x", some, extractor, batch_size=7, progress=False)
    assert torch.equal(side.features, features[:40])
    # in sample space the distance of a set from itself loses no digits, though the covariance is of rank 39
    assert frechet_distance(side.samples, side.samples).bound < 1e-10


def test_other_widths_and_too_few_images_are_named():
    images = load("digits", "test")
    with pytest.raises(ValueError, match=r"gen: expected 3 features per image, as of what .* got 64 \(pixels\)"):
        read_side("gen", images, PixelFeatures(), width=3, progress=False)
    one = type(images)("x", "test", images.images[:1], images.labels[:1], images.classes)
    with pytest.raises(ValueError, match="gen: expected at least 2 images, got 1"):
        read_side("gen", one, PixelFeatures(), progress=False)


def test_progress_goes_to_stderr(capfd):
    assert sum(len(x) for x in features_of(load("digits", "test"), PixelFeatures(), batch_size=100, desc="here")) == 360
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "here: 100%" in captured.err


def test_caveats_by_number_of_samples(tmp_path):
    many, few = Side("many", statistics(torch.randn(400, 8))), Side("few", statistics(torch.randn(8, 8)))
    arrays = {"mu": np.zeros(8), "sigma": np.eye(8)}
    np.savez(tmp_path / "x.npz", **arrays)
    unknown = Side("x.npz", FeatureStats.load(tmp_path / "x.npz"))

    both = caveats(many, many)
    assert len(both) == 1
    # I of 8 dimensions: (8 + (64 / 2 + 8 / 2) / 2) / 400 on either side
    assert "too few samples alone make a distance of about 0.1" in both[0]
    text = "\n".join(caveats(many, few))
    assert "few: 8 samples of 8 features; the covariance has a rank of 7 at most" in text
    assert "too few samples alone make a distance of more than" in text
    assert "400 and 8 samples; distances compare only at equal numbers of samples" in text
    text = "\n".join(caveats(unknown, many, unnamed=["x.npz"]))
    assert "x.npz: the file does not say of how many samples; its bias is not known" in text
    assert "x.npz: does not say which features it is of" in text
    assert "make a distance" not in text
