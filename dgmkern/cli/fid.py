"""`dgmkern fid`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from .parsing import UsageError

if TYPE_CHECKING:
    from ..features import Side


@dataclass(frozen=True)
class FID:
    """Print the Frechet distance between the features of two sets of images, A real and B generated.

    Each is a folder of pictures, an .npz of statistics (of --save-a, --save-b or pytorch-fid), or a data set as of
    `dgmkern train`, its training images, or with :test or :all behind it.
    """

    a: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="A")]
    """Real images."""
    b: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="B")]
    """Generated images."""
    features: Literal["pixels", "classifier", "inception"] | None = None
    """What is compared: pixels, the hidden layer of a small classifier (trained the first time), or Inception v3 (with
    weights that are here). By default classifier if A or B is a data set with one or --data is given, otherwise
    inception."""
    data: Literal["digits", "mnist", "fashion-mnist"] | None = None
    """The data set whose classifier it is; by default that of A or B."""
    weights: Path | None = None
    """File of Inception's weights; by default the first found."""
    batch_size: int = 64
    """Images looked at together."""
    size: int | None = None
    """Height and width to which the pictures of folders are resized (antialiased bicubic)."""
    infinity: bool = False
    """Also extrapolate to infinitely many images of B (FID at infinity)."""
    save_a: Path | None = None
    """An .npz to write the statistics of A to."""
    save_b: Path | None = None
    """An .npz to write the statistics of B to."""
    json: bool = False
    """Print one object of JSON instead."""


def run(command: FID) -> int:
    from ..features import caveats
    from ..metrics import frechet_distance, frechet_distance_infinity

    a, b, name, unnamed = _read(command)
    for side, path in ((a, command.save_a), (b, command.save_b)):
        if path is not None:
            side.stats.save(path)
    value, bound = frechet_distance(a.samples, b.samples)
    infinity = frechet_distance_infinity(a.samples, b.features) if command.infinity else None
    notes = caveats(a, b, unnamed=unnamed)
    if infinity is not None:
        notes.append(f"the value at infinity is that of infinitely many images of B: the bias by {a.source} is in it")
    if name == "inception-torchvision":
        notes.append("torchvision's weights are not those of FID: the distance does not compare with published ones")
    if command.json:
        record = {"value": value, "bound": bound, "features": name, "width": a.stats.width}
        record |= {key: {"source": side.source, "n": side.stats.count} for key, side in (("a", a), ("b", b))}
        if infinity is not None:
            record["infinity"] = infinity._asdict()
        print(json.dumps(record | {"caveats": notes}))
        return 0
    print(f"Frechet distance {value:.6g}, numerical error at most {bound:.2g}")
    if infinity is not None:
        print(
            f"at infinity {infinity.value:.6g}, standard error of the fit {infinity.standard_error:.2g}, "
            f"numerical error at most {infinity.bound:.2g}"
        )
    print(f"features {name or 'not known'}, {a.stats.width}")
    for side in (a, b):
        print(f"{side.source}: {'an unknown number of' if side.stats.count is None else side.stats.count} samples")
    for note in notes:
        print(f"caveat: {note}")
    return 0


def _read(command: FID) -> "tuple[Side, Side, str | None, list[str]]":
    """A, B, the name of the features, and which sources are files of statistics."""
    from ..features import ExtractorError, Side, load_extractor, open_source, read_side
    from ..metrics import FeatureStats

    features, data, channels = _choose(command)
    size = None if command.size is None else (command.size, command.size)
    opened = [open_source(source, size=size, channels=channels) for source in (command.a, command.b)]
    widths = [found.width for found in opened if isinstance(found, FeatureStats)]
    try:
        extractor = None if features is None else load_extractor(features, data=data, weights=command.weights)
    except ExtractorError as error:
        others = "" if command.features else "; or choose --features pixels, or the classifier of a data set by --data"
        raise ExtractorError(f"{error}{others}") from error
    sides = []
    for source, found in zip((command.a, command.b), opened, strict=True):
        if isinstance(found, FeatureStats):
            sides.append(Side(source, found))
            continue
        keep = command.infinity and len(sides) == 1
        width = widths[0] if widths else sides[0].stats.width if sides else None
        sides.append(read_side(source, found, extractor, width=width, keep=keep, batch_size=command.batch_size))
    unnamed = [side.source for side, found in zip(sides, opened, strict=True) if side.stats is found]
    if len(set(side.stats.width for side in sides)) > 1:
        raise ValueError(f"{command.b}: expected {widths[0]} features per sample, as {command.a} has, got {widths[1]}")
    return *sides, None if extractor is None else extractor.name, unnamed


def _choose(command: FID) -> tuple[str | None, str | None, int | None]:
    """Features (None: both are statistics), the data set of their classifier, and the channels that pictures need.

    Raises UsageError where options do not go together."""
    from ..data import load
    from ..features import data_set_name
    from ..features.training import RECIPES

    files = [source.endswith(".npz") for source in (command.a, command.b)]
    for option, path, is_file in (("--save-a", command.save_a, files[0]), ("--save-b", command.save_b, files[1])):
        if path is not None and is_file:
            raise UsageError(f"{option}: got {path}, but those are statistics already")
        if path is not None and (path.suffix != ".npz" or not path.parent.is_dir()):
            raise UsageError(f"{option}: got {path}, want the path of an .npz in a folder that exists")
    if command.batch_size < 1:
        raise UsageError(f"--batch-size: got {command.batch_size}, want at least 1")
    if command.size is not None and command.size < 1:
        raise UsageError(f"--size: got {command.size}, want at least 1")
    if command.infinity and files[1]:
        raise UsageError(f"--infinity: needs the images of B, got the statistics {command.b}")
    if all(files):
        if command.features or command.data or command.weights:
            raise UsageError("--features, --data, --weights: A and B are statistics of features already")
        return None, None, None
    known = [name for name in map(data_set_name, (command.a, command.b)) if name]
    features = command.features or ("classifier" if command.data or set(known) & set(RECIPES) else "inception")
    if command.size is not None and len(known) + sum(files) == 2:
        raise UsageError("--size: is for folders of pictures, and neither A nor B is one")
    if command.weights and features != "inception":
        raise UsageError(f"--weights: is for --features inception, got it for {features}")
    if command.data and features != "classifier":
        raise UsageError(f"--data: is for --features classifier, got it for {features}")
    if features == "inception":
        return features, None, 3
    if features == "classifier" and not command.data and len(set(known)) != 1:
        raise UsageError("--data: want the data set whose classifier to take, as A and B do not tell")
    data = command.data or next(iter(known), None)
    channels = load(data, "test").image_shape[0] if data else None
    return features, data if features == "classifier" else None, channels
