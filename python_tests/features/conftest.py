"""One thread, and a cache folder of the test run's own."""

import pytest

from dgmkern.features import trained_classifier


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass


@pytest.fixture(scope="session")
def cached(tmp_path_factory):
    """A cache folder with the classifier of digits."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGMKERN_CACHE", str(folder))
        trained_classifier("digits", progress=False)
    return folder


@pytest.fixture
def digits_classifier(cached, monkeypatch):
    monkeypatch.setenv("DGMKERN_CACHE", str(cached))
    return trained_classifier("digits")
