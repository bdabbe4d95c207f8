"""The measured classifiers: the record is of the present recipes, and is what the script writes."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import perf
from dgmkern.features import training
from dgmkern.features.training import RECIPES
from perf.quality import classifiers

RECORD = Path(perf.__file__).parent / "results" / "quality" / "classifiers.json"
LEAST = {"digits": 0.97, "mnist": 0.99, "fashion-mnist": 0.90}


def test_the_record_is_of_the_present_recipes_and_good_enough():
    found = json.loads(RECORD.read_text())["classifiers"]
    assert {data: entry["recipe"] for data, entry in found.items()} == {
        data: asdict(recipe) for data, recipe in RECIPES.items()
    }
    for data, least in LEAST.items():
        assert found[data]["test_accuracy"] >= least


def test_data_are_nearer_to_themselves_than_to_noise(monkeypatch):
    monkeypatch.setitem(training.RECIPES, "digits", replace(RECIPES["digits"], epochs=4))
    entry = classifiers.measured("digits")
    assert 0.5 < entry["test_accuracy"] <= 1
    distances = entry["frechet_distances"]
    assert [distances[name]["n"] for name in distances] == [[719, 718], [180, 180], [1437, 360]]
    # by what their numbers of samples make of one distribution, about, as features are not Gaussian
    for name in ("halves of train", "halves of test"):
        assert distances[name]["value"] == pytest.approx(distances[name]["expected_bias"], rel=0.7)
