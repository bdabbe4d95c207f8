"""What a run is: dataclasses that the command line fills, and that every checkpoint carries as JSON."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ..data import NAMES as DATA_NAMES
from ..data import ImageDataset, load
from ..data.pictures import load_pictures
from ..models import model_classes

Precision = Literal["fp32", "bf16"]
LRSchedule = Literal["cosine", "constant"]
Device = Literal["auto", "cpu", "cuda"]


class ConfigError(ValueError):
    """A setting that is out of range, unknown, or may not change when a run is resumed."""


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained; nothing in it depends on which model."""

    steps: int = 2000
    """Training steps. The learning rate falls over all of them: more of them, on resuming, raise it again."""
    batch_size: int = 128
    """Images a step."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    lr_schedule: LRSchedule = "cosine"
    """Learning rate after the warm-up: falling to 0 along half a cosine, or constant."""
    warmup: int = 100
    """Steps over which the learning rate rises linearly to its peak."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's averages of the gradient and of its square; GANs want a first one of 0 to 0.5."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW."""
    clip_grad: float = 1.0
    """Largest norm of a player's whole gradient; a longer one is scaled down to it."""
    ema_decay: float = 0.995
    """Decay of the averaged weights that samples are drawn with; smaller in the first steps."""
    precision: Precision = "fp32"
    """bf16 runs the network under autocast; weights, optimizer and loss stay fp32."""
    channels_last: bool = False
    """Hold convolution weights and images as NHWC."""
    device: Device = "auto"
    """Where to train; auto: on a GPU if there is one."""
    cuda_graphs: bool = True
    """On one GPU, replay whole steps as CUDA graphs."""
    compile: bool = False
    """Run the networks through torch.compile: some tens of seconds at the start, on a CPU with a C++ compiler."""
    seed: int = 0
    """Seed of the whole run: weights, batches, time steps and noise follow from it."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep_last: int = 3
    """How many checkpoints are kept."""
    sample_every: int = 0
    """Steps between grids of samples, in the folder samples/ of the run; 0 draws none."""
    tensorboard: bool = False
    """Also write the log and the grids of samples for TensorBoard, in the folder tensorboard/ of the run (needs the
    package tensorboardX)."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every", "keep_last"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}, want an integer >= 1")
        for name in ("warmup", "seed", "sample_every"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: got {getattr(self, name)}, want an integer >= 0")
        for name in ("lr", "clip_grad"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ConfigError(f"{name}: got {getattr(self, name)}, want a finite number > 0")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas: got {self.betas}, want two numbers with 0 <= beta < 1")
        if not self.weight_decay >= 0:
            raise ConfigError(f"weight_decay: got {self.weight_decay}, want a number >= 0")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay: got {self.ema_decay}, want 0 <= ema_decay < 1")
        for name, kind in (("precision", Precision), ("lr_schedule", LRSchedule), ("device", Device)):
            choices = get_args(kind)
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name}: got {getattr(self, name)!r}, want one of {', '.join(choices)}")


# What may be changed when a run is resumed. `steps` sets the learning rate of every step to come, and on another device
# sums round otherwise; the rest changes no bit.
CHANGEABLE = frozenset(
    f"train.{name}"
    for name in ("steps", "checkpoint_every", "keep_last", "sample_every", "tensorboard", "device", "cuda_graphs")
)


@dataclass(frozen=True)
class RunConfig:
    """All that a run follows from, besides the code: model, its config, data set with its (C, H, W), training.

    `data` is the name of a data set, or the path of a folder of pictures whose `fingerprint` is given.
    """

    model: str
    model_config: Any
    data: str
    image_shape: tuple[int, int, int]
    train: TrainConfig
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        if self.fingerprint is None and self.data not in DATA_NAMES:
            raise ConfigError(f"data: unknown data set {self.data!r}, want one of {', '.join(DATA_NAMES)}")

    @property
    def title(self) -> str:
        """The model and what it learns, in few words."""
        return f"{self.model} on {Path(self.data).name}"

    def load(
        self,
        split: str = "train",
        *,
        folder: Path | None = None,
        progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    ) -> ImageDataset:
        """A split of the data; of a folder of pictures, those that the run was begun with, read as it read them.

        `folder` is where that folder is now, by default where it was. Raises DataError as `data.load` and
        `data.pictures.load_pictures` do, ConfigError for a folder where there was none.
        """
        if self.fingerprint is None:
            if folder is not None:
                raise ConfigError(f"data: got {folder}, but the run is on {self.data}, which is no folder of pictures")
            return load(self.data, split)
        channels, size, _ = self.image_shape
        how = {"size": size, "channels": channels, "fingerprint": self.fingerprint, "progress": progress}
        return load_pictures(folder.absolute() if folder else self.data, split, **how)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "RunConfig":
        """Inverse of `to_json`. Raises ConfigError where a key is unknown or missing or a value is out of range.

        A setting of the model or of the training may be missing where it has a default, which is what a run did that is
        older than the setting.
        """
        try:
            record = json.loads(text)
            keys = {field.name for field in dataclasses.fields(cls)}
            if not keys - {"fingerprint"} <= set(record) <= keys:  # older than folders of pictures, it has none
                raise ConfigError(f"config: got keys {sorted(record)}, want {sorted(keys)}")
            _, config_class = model_classes(record["model"])
            return cls(
                model=record["model"],
                model_config=_build(config_class, record["model_config"]),
                data=record["data"],
                image_shape=tuple(record["image_shape"]),
                train=_build(TrainConfig, record["train"]),
                fingerprint=record.get("fingerprint"),
            )
        except ConfigError:
            raise
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"config: {error}") from error

    def check_resumes(self, stored: "RunConfig") -> None:
        """Raise ConfigError if this config asks for another computation than `stored`, whose run it is to continue.

        A folder of pictures may have moved: it is the fingerprint that must be the same.
        """
        ours, theirs = _flatten(dataclasses.asdict(self)), _flatten(dataclasses.asdict(stored))
        changeable = CHANGEABLE if self.fingerprint is None else CHANGEABLE | {"data"}
        for name in sorted(set(ours) | set(theirs)):
            if ours.get(name) != theirs.get(name) and name not in changeable:
                raise ConfigError(
                    f"{name}: got {ours.get(name)!r}, but the run to resume has {theirs.get(name)!r} "
                    f"(only {', '.join(sorted(CHANGEABLE))} may change)"
                )


def learning_rate(config: TrainConfig, step: int) -> float:
    """Learning rate of step `step` (0-based): linear warm-up over `warmup` steps, then cosine to 0 or constant."""
    if step < config.warmup:
        return config.lr * (step + 1) / (config.warmup + 1)
    if config.lr_schedule == "constant":
        return config.lr
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _build(config_class: type, record: dict[str, Any]) -> Any:
    fields = dataclasses.fields(config_class)
    required = {f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING}
    names = {field.name for field in fields}
    if not required <= set(record) <= names:
        odd = sorted(set(record) ^ names)
        raise ConfigError(f"config: {config_class.__name__} has other fields ({', '.join(odd)})")
    return config_class(**{key: tuple(value) if isinstance(value, list) else value for key, value in record.items()})


def _flatten(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in record.items():
        flat.update(_flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat
