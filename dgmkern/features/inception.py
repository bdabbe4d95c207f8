"""Features of Inception v3, the network of FID, through packages and weights that the user has."""

import hashlib
import importlib
import importlib.util
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .cache import cache_folder
from .extractor import ExtractorError, check_images
from .module import ModuleFeatures


class InceptionFeatures:
    """Pooled features of Inception v3, float32 [N, 2048]. Nothing is downloaded.

    With the package torch-fidelity and the weights of 2015 (its file or pytorch-fid's, which are the same bytes) they
    are the features of FID (Heusel et al. 2017), `name` "inception": TensorFlow 1's bilinear resizing to 299 x 299.
    Else with torchvision and its weights, `name` "inception-torchvision": antialiased bilinear resizing to 299 x 299,
    then x / 127.5 - 1; distances in these compare with each other, not with published values of FID.

    The files are looked for in the folder `inception` of dgmkern's cache (the environment variable DGMKERN_CACHE, else
    the user's cache folder), and where the packages put them: `torch.hub.get_dir()/checkpoints`. The sha256 of a file
    must begin as its name says. Grey images are taken as RGB of equal channels.

    Args:
        weights: a file of weights, under its own name, by which its network is known; None: the first found.

    Raises:
        ExtractorError: no such package or file (the message says what to install and where to put it), or a file that
            is damaged.
    """

    def __init__(self, weights: Path | str | None = None) -> None:
        folders = (cache_folder() / "inception", Path(torch.hub.get_dir(), "checkpoints"))
        missing = []
        for network in _NETWORKS:
            paths = [folder / file for file in network.files for folder in folders]
            found = [path for path in (paths if weights is None else [Path(weights)]) if path.name in network.files]
            found = [path for path in found if path.is_file()]
            wanted = [] if importlib.util.find_spec(network.package) else [network.package.replace("_", "-")]
            wanted += [] if found else [network.files[0]]
            if not wanted:
                self.name = network.name
                self._features = ModuleFeatures(_read(network, found[0]), network.preprocess, network.name)
                return
            missing.append(" and ".join(wanted))
        where = str(weights) if weights is not None else " or ".join(map(str, folders))
        raise ExtractorError(f"inception: missing {', or '.join(missing)}; packages come by pip, files go into {where}")

    def __call__(self, images: Tensor) -> Tensor:
        """Features of images uint8 [N, C, H, W], C 1 or 3; TypeError or ValueError where they are not."""
        check_images(images)
        if images.shape[1] not in (1, 3):
            raise ValueError(f"images: expected 1 or 3 channels, got {images.shape[1]}")
        return self._features(images.expand(-1, 3, -1, -1))


@dataclass(frozen=True)
class _Network:
    name: str
    package: str
    files: tuple[str, ...]  # of weights; the digits that end a name are the first of its sha256
    build: Callable[[Path], nn.Module]
    preprocess: Callable[[Tensor], Tensor]


class _TensorFlowInception(nn.Module):
    """torch-fidelity's port of the network of 2015, which resizes and scales by itself."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        self.network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(weights))

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[0]


def _torchvision_inception(weights: Path) -> nn.Module:
    from torchvision.models import inception_v3

    network = inception_v3(weights=None, aux_logits=True, transform_input=False, init_weights=False)
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.fc = nn.Identity()
    return network


def _to_299(images: Tensor) -> Tensor:
    x = nn.functional.interpolate(images.float(), (299, 299), mode="bilinear", antialias=True)
    return x / 127.5 - 1


_NETWORKS = (
    _Network(
        "inception",
        "torch_fidelity",
        ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
        _TensorFlowInception,
        torch.clone,
    ),
    _Network(
        "inception-torchvision",
        "torchvision",
        ("inception_v3_google-0cc3c7bd.pth",),
        _torchvision_inception,
        _to_299,
    ),
)


def _read(network: _Network, path: Path) -> nn.Module:
    digits = path.stem.rpartition("-")[2]
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(digits):
        raise ExtractorError(f"{path}: damaged, its sha256 begins with {found[:8]}, not with {digits}")
    try:
        importlib.import_module(network.package)
    except Exception as error:  # built for another torch, a package of its own missing, ...
        raise ExtractorError(f"inception: {network.package} cannot be imported ({error})") from error
    try:
        torch.load(path, weights_only=True)  # torch-fidelity would run code that a file holds
        return network.build(path)
    except (RuntimeError, TypeError, pickle.UnpicklingError) as error:
        raise ExtractorError(f"{path}: not the weights of {network.name} ({error})") from error
