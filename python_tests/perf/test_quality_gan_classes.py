"""Mode collapse on real classes: the record is of the present settings, and what the script writes, end to end."""

import base64
import io
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import perf
from dgmkern.data import load
from dgmkern.features import training
from dgmkern.features.training import RECIPES
from perf.quality import gan_classes, gan_runs
from perf.quality.means import means

RECORD = Path(perf.__file__).parent / "results" / "quality" / "gan_classes.json"


@pytest.fixture(scope="module")
def record():
    return json.loads(RECORD.read_text())


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The reference of the digits, with a classifier of few epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGMKERN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setitem(training.RECIPES, "digits", replace(RECIPES["digits"], epochs=10))
        yield gan_classes.Reference.of("digits")


def test_the_record_is_of_the_present_settings_and_its_means_are_those_of_its_runs(record):
    assert gan_runs.are_present(record["settings"], gan_classes.TRAIN, gan_classes.VARIANTS)
    assert list(record["runs"]) == list(gan_classes.VARIANTS)
    for name, runs in record["runs"].items():
        assert [run["seed"] for run in runs] == list(range(len(runs)))
        assert record["means"][name] == means(runs, gan_classes.FIGURES)


def test_figures_of_the_record_follow_from_its_counts(record):
    for run in (record["test_images"], *(run for runs in record["runs"].values() for run in runs)):
        counts = np.array(run["counts"])
        assert counts.sum() == gan_classes.SAMPLES
        assert run["classes"] == (counts > 0).sum()
        assert run["rarest_class"] == counts.min() / counts.sum()
        share = counts[counts > 0] / counts.sum()
        # MNIST's classes are within 13% of a tenth
        assert run["reverse_kl"] == pytest.approx((share * np.log(share * 10)).sum(), abs=0.13)
        assert 1 <= run["inception_score"] <= 10


def test_no_variant_is_better_than_the_data_and_the_flat_discriminator_draws_all_classes(record):
    perfect, means = record["test_images"], record["means"]
    assert perfect["classes"] == 10
    assert all(found["frechet_distance"] > perfect["frechet_distance"] for found in means.values())
    assert means["flat"]["classes"] == 10
    assert means["flat"]["rarest_class"] > 0.02


def test_figures_tell_data_from_a_collapsed_generator(digits):
    test = load("digits", "test")
    found = digits.figures(test.images)
    assert found["classes"] == 10
    assert sum(found["counts"]) == len(test)
    assert found["reverse_kl"] < 0.05
    assert found["inception_score"] > 6
    threes = test.images[test.labels == 3]
    collapsed = digits.figures(threes)
    assert np.argmax(collapsed["counts"]) == 3
    assert collapsed["rarest_class"] == 0
    assert collapsed["reverse_kl"] > 0.7 * math.log(10)
    assert collapsed["inception_score"] < 2
    assert collapsed["frechet_distance"] > 5 * found["frechet_distance"]


def test_a_row_of_the_record_is_the_images():
    images = torch.randint(256, (3, 1, 4, 5), dtype=torch.uint8)
    row = np.asarray(Image.open(io.BytesIO(base64.b64decode(gan_classes.row_of(images)))))
    assert row.shape == (4, 15)
    for i, image in enumerate(images):
        assert np.array_equal(row[:, 5 * i : 5 * i + 5], image[0].numpy())


def test_a_second_call_goes_on_where_the_first_stopped(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gan_classes, "DATA", "digits")
    monkeypatch.setattr(gan_classes, "SAMPLES", 200)
    monkeypatch.setattr(gan_classes, "TRAIN", replace(gan_classes.TRAIN, steps=3, batch_size=8))
    monkeypatch.setattr(gan_classes.Reference, "of", lambda data: digits)
    calls, sound = [], gan_classes.measured

    def measured(reference, config, train, seed):
        calls.append((config.kind, seed))
        return sound(reference, config, train, seed)

    monkeypatch.setattr(gan_classes, "measured", measured)

    def run(seeds: int) -> dict:
        argv = ["gan_classes", str(tmp_path / "new"), "--seeds", str(seeds), "--variants", "flat, conv", "wgan-gp"]
        monkeypatch.setattr(sys, "argv", argv)
        gan_classes.main()
        return json.loads((tmp_path / "new" / "gan_classes.json").read_text())

    first, second = run(1), run(2)
    assert calls == [("nonsaturating", 0), ("wasserstein", 0), ("nonsaturating", 1), ("wasserstein", 1)]
    assert [runs[:1] for runs in second["runs"].values()] == list(first["runs"].values())
    assert second["test_images"]["classes"] == 10
    for runs in second["runs"].values():
        assert sum(runs[0]["counts"]) == 200
        assert runs[0]["samples"] != runs[1]["samples"]
    assert (tmp_path / "new" / "gan_classes.png").stat().st_size > 1000
    assert capsys.readouterr().out.splitlines()[-1].split()[:2] == ["wgan-gp", "2"]
    monkeypatch.setattr(gan_classes, "TRAIN", replace(gan_classes.TRAIN, lr=1.0))
    with pytest.raises(SystemExit, match="other settings"):
        run(2)


def test_a_run_is_a_function_of_its_seed():
    train = replace(gan_classes.TRAIN, steps=3, batch_size=8)
    torch.set_num_threads(1)
    config, digits = gan_classes.VARIANTS["packed-2"], load("digits")
    a, b, c = (gan_classes.trained(digits, config, train, seed).sample(4, seed=1) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
