"""Inception: which network and file are taken, what is said where none is there; both networks where packages are.

The weights here are random: the real ones are the user's to have.
"""

import hashlib
from dataclasses import replace

import pytest
import torch
from torch import nn

from dgmkern.features import ExtractorError, InceptionFeatures, inception, load_extractor


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """Empty folders for weights: dgmkern's and torch.hub's."""
    monkeypatch.setenv("DGMKERN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    ours, hub = tmp_path / "cache" / "inception", tmp_path / "hub" / "checkpoints"
    ours.mkdir(parents=True)
    hub.mkdir(parents=True)
    return ours, hub


def save(folder, content, name="weights"):
    """`content` in a file whose name ends as the sha256 of it begins."""
    path = folder / "new"
    torch.save(content, path)
    return path.rename(folder / f"{name}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")


class Sums(nn.Module):
    """Stands in for a network: channel sums times a weight out of the file."""

    def __init__(self, path):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(()))
        self.load_state_dict(torch.load(path, weights_only=False))  # as torch-fidelity does

    def forward(self, x):
        return x.float().sum((2, 3)) * self.weight


@pytest.fixture
def known(monkeypatch):
    """Make the networks know these file names; their packages are ones that are installed."""

    def know(first, second="none.pth"):
        one, two = inception._NETWORKS
        networks = (
            replace(one, package="torch", files=("also.pth", first), build=Sums),
            replace(two, package="numpy", files=(second,), build=Sums),
        )
        monkeypatch.setattr(inception, "_NETWORKS", networks)

    return know


def images(channels=3):
    return torch.randint(0, 256, (4, channels, 20, 20), dtype=torch.uint8)


def test_without_packages_or_files_the_message_says_what_to_get_and_where(folders, monkeypatch):
    missing = [replace(network, package="no_such_package") for network in inception._NETWORKS]
    monkeypatch.setattr(inception, "_NETWORKS", missing)
    with pytest.raises(ExtractorError) as raised:
        load_extractor("inception")
    message = str(raised.value)
    assert "missing no-such-package and weights-inception-2015-12-05-6726825d.pth, or no-such-package and" in message
    assert "inception_v3_google-0cc3c7bd.pth" in message
    assert str(folders[0]) in message
    assert str(folders[1]) in message


def test_files_are_found_in_both_folders_and_fids_come_first(folders, known):
    ours, hub = folders
    second = save(hub, {"weight": torch.tensor(2.0)})
    known("none.pth", second.name)
    assert InceptionFeatures().name == "inception-torchvision"
    first = save(ours, {"weight": torch.tensor(3.0)})
    known(first.name, second.name)
    extractor = InceptionFeatures()
    assert extractor.name == "inception"
    x = images()
    assert torch.equal(extractor(x), 3.0 * x.float().sum((2, 3)))


def test_a_file_given_is_taken_by_its_name(folders, known, tmp_path):
    path = save(tmp_path, {"weight": torch.tensor(2.0)})
    known("none.pth", path.name)
    assert InceptionFeatures(path).name == "inception-torchvision"
    for wrong in (tmp_path / "missing" / path.name, tmp_path / "other.pth"):
        with pytest.raises(ExtractorError, match=f"missing also.pth, or {path.name}; .* go into {wrong}"):
            InceptionFeatures(wrong)


def test_grey_is_rgb_of_equal_channels_and_others_are_refused(folders, known):
    known(save(folders[0], {"weight": torch.tensor(1.0)}).name)
    extractor, grey = InceptionFeatures(), images(1)
    assert torch.equal(extractor(grey), extractor(grey.repeat(1, 3, 1, 1)))
    with pytest.raises(ValueError, match="images: expected 1 or 3 channels, got 4"):
        extractor(images(4))


def test_a_damaged_file_is_named(folders, known):
    path = save(folders[0], {"weight": torch.tensor(1.0)})
    known(path.name)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ExtractorError, match=rf"{path}: damaged, its sha256 begins with \w{{8}}, not with"):
        InceptionFeatures()


class Code:
    """A pickle that calls something when it is read."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code of a file was run')",)


def test_a_file_that_holds_code_or_other_weights_is_refused(folders, known):
    path = save(folders[0], {"weight": Code()})
    known(path.name)
    with pytest.raises(ExtractorError, match=f"{path}: not the weights of inception"):
        InceptionFeatures()
    for content in ({"bias": torch.tensor(1.0)}, [torch.tensor(1.0)]):
        path = save(folders[0], content)
        known(path.name)
        with pytest.raises(ExtractorError, match=f"{path}: not the weights of inception"):
            InceptionFeatures()


def test_a_package_that_does_not_import_is_named(folders, known, tmp_path, monkeypatch):
    known(save(folders[0], {"weight": torch.tensor(1.0)}).name)
    (tmp_path / "broken_package.py").write_text("raise RuntimeError('built for another torch')")
    monkeypatch.syspath_prepend(tmp_path)
    networks = [replace(inception._NETWORKS[0], package="broken_package")]
    monkeypatch.setattr(inception, "_NETWORKS", networks)
    with pytest.raises(ExtractorError, match=r"broken_package cannot be imported \(built for another torch\)"):
        InceptionFeatures()


def test_torch_fidelitys_network_gives_its_own_features(folders, monkeypatch, peer):
    theirs = peer("torch_fidelity.feature_extractor_inceptionv3")
    with monkeypatch.context() as patch:
        patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: None)
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = theirs.FeatureExtractorInceptionV3("x", ["2048"])
    path = save(folders[1], network.state_dict())
    monkeypatch.setattr(inception, "_NETWORKS", [replace(inception._NETWORKS[0], files=(path.name,))])
    x = images()
    features = InceptionFeatures()(x)
    assert features.shape == (4, 2048)
    assert features.std() > 0
    assert torch.equal(features, network(x)[0])


def test_torchvisions_network_gives_its_own_features(folders, monkeypatch):
    torchvision = pytest.importorskip("torchvision", exc_type=Exception)
    network = torchvision.models.inception_v3(weights=None, aux_logits=True, init_weights=False, transform_input=True)
    path = save(folders[1], network.state_dict())
    monkeypatch.setattr(inception, "_NETWORKS", [replace(inception._NETWORKS[1], files=(path.name,))])
    x = images()
    features = InceptionFeatures()(x)
    network.eval().fc = nn.Identity()
    # torchvision's own scaling: by ImageNet's statistics, undone in the network
    resized = nn.functional.interpolate(x.float(), (299, 299), mode="bilinear", antialias=True) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        want = network((resized - mean[:, None, None]) / std[:, None, None])
    assert features.shape == (4, 2048)
    assert (features - want).abs().max() <= 1e-4 * want.abs().max()
