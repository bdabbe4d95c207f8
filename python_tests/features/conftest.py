"""One thread, and the classifier of digits."""

import pytest

from dgmkern.features import trained_classifier


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass


@pytest.fixture
def digits_classifier(classifier_cache, monkeypatch):
    monkeypatch.setenv("DGMKERN_CACHE", str(classifier_cache))
    return trained_classifier("digits")
