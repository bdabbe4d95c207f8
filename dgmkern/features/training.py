"""The one training of a data set's classifier: the same weights each time, kept in the user's cache folder."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import nn

from ..data import DataError, ImageDataset, batch_indices, load
from ..train.progress import progress_bar
from .cache import StaleCacheError, cache_folder, load_weights, save_weights
from .classifier import Classifier, ClassifierFeatures, to_unit

_WARM_UP = 0.15  # part of the steps over which the learning rate rises


@dataclass(frozen=True)
class Recipe:
    """All that the weights follow from, besides data set and network. `version`: count it up when that changes."""

    epochs: int
    lr: float
    dropout: float = 0.0
    version: int = 1
    seed: int = 0
    batch_size: int = 128
    weight_decay: float = 0.05
    label_smoothing: float = 0.05


RECIPES = {
    "digits": Recipe(epochs=40, lr=5e-3, dropout=0.5),
    "mnist": Recipe(epochs=3, lr=2e-3),
    "fashion-mnist": Recipe(epochs=4, lr=2e-3),
}


def trained_classifier(data: str, *, progress: bool = True) -> ClassifierFeatures:
    """The classifier of a data set, from the cache; the first time it is trained, on the train split, and kept there.

    Training takes a minute or two (digits: seconds), on one thread and by deterministic algorithms: the weights are the
    same bits whatever the number of threads, on machines of one kind (instruction set, version of torch). They are in
    `classifiers/<data>.safetensors` in the folder of the environment variable DGMKERN_CACHE, else in the user's cache
    folder. A file that is damaged, or of another recipe, is replaced, with a warning.

    Args:
        data: "digits", "mnist" or "fashion-mnist".
        progress: whether to show a bar on stderr.

    Raises:
        DataError: no classifier for such a data set, or data that cannot be read. OSError: a cache folder that cannot
            be written.
    """
    if data not in RECIPES:
        raise DataError(f"data: expected one with a classifier, {', '.join(RECIPES)}, got {data!r}")
    path = cache_folder() / "classifiers" / f"{data}.safetensors"
    record = {"data": data, **asdict(RECIPES[data])}
    test = load(data, "test")
    try:
        found = load_weights(path, record)
    except StaleCacheError as error:
        warnings.warn(f"{error}; training it anew", stacklevel=2)
        found = None
    if found is not None:
        weights, accuracy = found
        model = Classifier(test.image_shape, len(test.classes))
        model.load_state_dict(weights)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)  # an error now rather than after the training
        model = train_classifier(load(data), RECIPES[data], progress=progress)
        accuracy = accuracy_of(model, test)
        save_weights(path, model.state_dict(), record, accuracy)
    return ClassifierFeatures(model.eval(), data, test.image_shape, accuracy)


def train_classifier(train: ImageDataset, recipe: Recipe, *, progress: bool = True) -> Classifier:
    """A classifier of `train` by `recipe`: AdamW (Loshchilov and Hutter 2019), its learning rate rising over the first
    15% of the steps, then falling to 0, both linearly; cross-entropy with smoothed labels. torch's generators, threads
    and settings are the same after it as before."""
    steps = -(-len(train) * recipe.epochs // recipe.batch_size)
    rising = _WARM_UP * steps
    with _reproducible(recipe.seed):
        model = Classifier(train.image_shape, len(train.classes), dropout=recipe.dropout)
        model = model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        for step in progress_bar(range(steps), desc=f"classifier of {train.name}", unit="step", disable=not progress):
            indices = torch.from_numpy(batch_indices(len(train), recipe.batch_size, seed=recipe.seed, step=step))
            logits = model(to_unit(train.images[indices]))
            loss = nn.functional.cross_entropy(logits, train.labels[indices], label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * min((step + 1) / rising, (steps - step) / (steps - rising))
            optimizer.step()
    return model


def accuracy_of(model: Classifier, test: ImageDataset) -> float:
    """The part of `test` that the model gets right, 0 to 1."""
    model.eval()
    with torch.inference_mode():
        right = sum(
            int((model(to_unit(images)).argmax(1) == labels).sum())
            for images, labels in zip(test.images.split(500), test.labels.split(500), strict=True)
        )
    return right / len(test)


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """One thread, deterministic algorithms, a seeded generator and gradients; all as before when it ends."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        torch.set_num_threads(1)  # sums over a batch are split by thread
        torch.use_deterministic_algorithms(True)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.set_num_threads(threads)
