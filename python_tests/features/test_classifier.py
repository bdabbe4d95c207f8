"""The classifier of a data set: how well it does, that its weights are the same each time, and its cache."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from dgmkern.data import DataError, load
from dgmkern.features import load_extractor, trained_classifier, training

TRAIN = "from dgmkern.features import trained_classifier; print(trained_classifier('digits', progress=False).name)"


def file_of(folder, data="digits"):
    return folder / "classifiers" / f"{data}.safetensors"


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "train_classifier", refuse)


@pytest.fixture
def trainings(monkeypatch, digits_classifier):
    """What was trained; a training gives the model of the cache at once."""
    done = []

    def train_classifier(train, recipe, *, progress):
        done.append(train.name)
        return digits_classifier.model

    monkeypatch.setattr(training, "train_classifier", train_classifier)
    return done


@pytest.fixture
def copied(classifier_cache, tmp_path, monkeypatch):
    """A cache folder of the test's own, with the classifier of digits in it."""
    file_of(tmp_path).parent.mkdir()
    file_of(tmp_path).write_bytes(file_of(classifier_cache).read_bytes())
    monkeypatch.setenv("DGMKERN_CACHE", str(tmp_path))
    return tmp_path


def right(extractor, data):
    """Accuracy on the test split, by NumPy."""
    test = load(data, "test")
    predicted = np.concatenate([extractor.logits(x).numpy().argmax(1) for x in test.images.split(777)])
    return (predicted == test.labels.numpy()).mean()


def test_digits_are_recognized(digits_classifier):
    assert right(digits_classifier, "digits") == pytest.approx(digits_classifier.accuracy, abs=1e-12)
    assert digits_classifier.accuracy >= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("data", "least"), [("mnist", 0.99), ("fashion-mnist", 0.90)])
def test_mnist_and_fashion_mnist_are_recognized(data, least, tmp_path, monkeypatch):
    monkeypatch.setenv("DGMKERN_CACHE", str(tmp_path))
    extractor = load_extractor("classifier", data=data)
    assert right(extractor, data) == pytest.approx(extractor.accuracy, abs=1e-12)
    assert extractor.accuracy >= least


def test_features_are_what_the_last_layer_sees(digits_classifier):
    images = load("digits", "test").images[:50]
    features, last = digits_classifier(images), digits_classifier.model.classes
    want = features.numpy().astype(np.float64) @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    assert features.shape == (50, 128)
    assert features.min() >= 0
    assert np.allclose(digits_classifier.logits(images).numpy(), want, atol=1e-5)
    odds = np.exp(want - want.max(1, keepdims=True))
    probabilities = digits_classifier.probabilities(images)
    assert probabilities.dtype == torch.float64
    assert np.allclose(probabilities.numpy(), odds / odds.sum(1, keepdims=True), atol=1e-5)


def test_features_of_an_image_depend_on_no_other(digits_classifier):
    images = load("digits", "test").images[:20]
    alone = torch.cat([digits_classifier(image[None]) for image in images])
    assert torch.allclose(digits_classifier(images), alone, atol=1e-5)


def test_images_of_another_shape_are_refused(digits_classifier):
    with pytest.raises(ValueError, match=r"expected \[N, 1, 8, 8\], got the shape \(2, 3, 8, 8\)"):
        digits_classifier(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("threads", [1, 2])
def test_two_trainings_in_two_processes_give_the_same_bytes_for_any_thread_count(threads, classifier_cache, tmp_path):
    environment = os.environ | {"DGMKERN_CACHE": str(tmp_path), "OMP_NUM_THREADS": str(threads)}
    code = f"import torch; assert torch.get_num_threads() == {threads}; {TRAIN}"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    assert file_of(tmp_path).read_bytes() == file_of(classifier_cache).read_bytes()


def test_training_leaves_torch_as_it_was():
    torch.set_num_threads(2)
    state = torch.get_rng_state()
    with torch.no_grad():
        training.train_classifier(load("digits"), replace(training.RECIPES["digits"], epochs=1), progress=False)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == 2
    assert not torch.are_deterministic_algorithms_enabled()


def test_another_seed_gives_other_weights():
    recipes = (replace(training.RECIPES["digits"], epochs=1, seed=seed) for seed in (0, 0, 1))
    models = [training.train_classifier(load("digits"), recipe, progress=False) for recipe in recipes]
    assert torch.equal(models[0].classes.weight, models[1].classes.weight)
    assert not torch.equal(models[0].classes.weight, models[2].classes.weight)


def test_only_the_train_split_is_trained_on(tmp_path, monkeypatch, digits_classifier):
    blank = replace(load("digits", "test"), images=torch.zeros(360, 1, 8, 8, dtype=torch.uint8))
    monkeypatch.setattr(training, "load", lambda name, split="train": blank if split == "test" else load(name, split))
    monkeypatch.setenv("DGMKERN_CACHE", str(tmp_path))
    found = trained_classifier("digits", progress=False)
    assert found.name == digits_classifier.name  # the same weights
    assert found.accuracy < 0.2


def test_a_classifier_is_trained_once(copied, no_training):
    assert trained_classifier("digits").name.startswith("classifier:digits:")


def test_the_name_tells_weights_apart(digits_classifier):
    name = digits_classifier.name
    digits_classifier.model.classes.bias.data[0] += 1e-3
    again = type(digits_classifier)(digits_classifier.model, "digits", (1, 8, 8), 0.9)
    assert again.name != name


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file[:-1], "damaged"),
        (lambda file: file[:-400] + bytes([file[-400] ^ 1]) + file[-399:], "its tensors have another checksum"),
        (lambda file: b"", "damaged"),
        (lambda file: b"something else", "damaged"),
        (lambda file: file.replace(b'\\"version\\": 1', b'\\"version\\": 0'), "another recipe"),
        (lambda file: file.replace(b'\\"recipe\\"', b'\\"recape\\"'), "damaged"),
        (lambda file: file.replace(b'"dgmkern"', b'"dgmcorn"'), "damaged"),
    ],
)
def test_a_damaged_or_stale_file_is_said_and_replaced(trainings, copied, classifier_cache, damage, message):
    whole = file_of(classifier_cache).read_bytes()
    assert damage(whole) != whole
    file_of(copied).write_bytes(damage(whole))
    with pytest.warns(UserWarning, match=f"{file_of(copied)}: .*{message}.*; training it anew"):
        trained_classifier("digits", progress=False)
    assert trainings == ["digits"]
    assert file_of(copied).read_bytes() == whole
    assert [path.name for path in file_of(copied).parent.iterdir()] == ["digits.safetensors"]


def test_a_cache_folder_that_cannot_be_written_is_an_error_before_the_training(tmp_path, monkeypatch, no_training):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DGMKERN_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="file"):
        trained_classifier("digits")


def test_a_data_set_without_a_classifier_is_refused():
    with pytest.raises(DataError, match=r"data: expected one with a classifier, digits, mnist, .*, got 'svhn'"):
        trained_classifier("svhn")
