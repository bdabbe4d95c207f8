"""What a trained model is worth on images it has not seen: figures of its likelihood, and of its samples."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .data import ImageDataset, to_signed
from .features import ClassifierFeatures, PixelFeatures, caveats, load_extractor, read_side
from .features.training import RECIPES
from .metrics import active_units, class_coverage, frechet_distance, mutual_information
from .models.ddpm import DDPM
from .models.vae import VAE
from .train import draw_images
from .train.progress import progress_bar

Figures = dict[str, float]  # a mean beside its `..._standard_error`


def evaluate_samples(
    model: nn.Module, dataset: ImageDataset, n: int, *, seed: int, precision: str = "fp32", progress: bool = True
) -> dict[str, Any]:
    """Frechet distance of `n` samples of `model` from `dataset`, with the bound on its numerical error and what the
    numbers of samples do to it; in features of the data set's classifier, with the classes it sees and their reverse KL
    (nats), or in pixels where there is no classifier. A model with classes draws those of the data set, in its shares.

    The floor to compare with is the distance of other real images: `dgmkern fid mnist:train mnist:test`.
    """
    if dataset.fingerprint is None and dataset.name in RECIPES:  # not a folder of that name
        extractor = load_extractor("classifier", data=dataset.name, progress=progress)
    else:
        extractor = PixelFeatures()
    labels = labels_to_draw(model, dataset, n, seed=seed)
    images = draw_images(model, n, seed=seed, precision=precision, progress=progress, labels=labels)
    drawn = ImageDataset(dataset.name, "samples", images, torch.zeros(n, dtype=torch.int64), dataset.classes)
    real = read_side(f"{dataset.name}:{dataset.split}", dataset, extractor, progress=progress)
    generated = read_side("samples", drawn, extractor, progress=progress)
    value, bound = frechet_distance(real.samples, generated.samples)
    found = {"features": extractor.name, "frechet_distance": value, "numerical_error": bound}
    if isinstance(extractor, ClassifierFeatures):
        classes = torch.cat([extractor.probabilities(batch).argmax(1) for batch in drawn.batches(256)])
        coverage = class_coverage(classes, dataset.labels, classes=len(dataset.classes))
        found |= {"classes": coverage.modes, "reverse_kl_of_classes": coverage.reverse_kl}
    return found | {"caveats": caveats(real, generated)}


def labels_to_draw(model: nn.Module, dataset: ImageDataset, n: int, *, seed: int) -> Tensor | None:
    """Classes of `n` samples, int64 [n], drawn from those of `dataset`; None for a model without classes."""
    if not (isinstance(model, DDPM) and model.config.classes):
        return None
    return dataset.labels[torch.randint(len(dataset), (n,), generator=torch.Generator().manual_seed(seed))]


def evaluate_likelihood(
    model: nn.Module, dataset: ImageDataset, n: int, *, samples: int, seed: int, progress: bool = True
) -> Figures:
    """Figures of the likelihood of `n` images, drawn from `dataset` without replacement: means, each with the standard
    error that so few images have. Empty for a model without a likelihood.

    - VAE, nats: the ELBO and its terms, -log p(x) by `samples` importance samples, active units, mutual information.
    - Diffusion, bits/dim: the variational bound, its L_0, L_1 + ... + L_{T-1} and L_T.
    """
    if not isinstance(model, VAE | DDPM):
        return {}
    if len(dataset) < 2:
        raise ValueError(f"dataset: got {len(dataset)} image of {dataset.name}:{dataset.split}, want at least 2")
    if not 2 <= n <= len(dataset):
        raise ValueError(f"n: expected 2 to {len(dataset)} images of {dataset.name}:{dataset.split}, got {n}")
    drawn = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:n]  # splits may be sorted
    device = next(model.parameters()).device
    x, labels = to_signed(dataset.images[drawn].to(device)), dataset.labels[drawn].to(device)
    bar = partial(progress_bar, desc="likelihood", disable=not progress)
    model.eval()
    if isinstance(model, VAE):
        return _of_vae(model, x, samples, seed, bar)
    bound = model.bits_per_dim(x, seed=seed, labels=labels if model.config.classes else None, progress=bar)
    rest = bound.terms[:, 1:].sum(1)
    return _means({"bits_per_dim": bound.total, "L_0": bound.terms[:, 0], "L_1_to_T-1": rest, "L_T": bound.prior})


def _of_vae(model: VAE, x: Tensor, samples: int, seed: int, bar: Callable[[Iterable], Iterable]) -> Figures:
    nlls, posteriors, terms = [], [], []
    with torch.no_grad():
        for first in bar(range(0, len(x), 64)):
            batch = x[first : first + 64]
            posteriors.append(model.posterior(batch))
            terms.append(model.elbo(batch, seed=seed, q=posteriors[-1], offset=first * model.config.latent))
            nlls.append(model.nll(batch, samples, seed=seed + 1 + first))
    mu, logvar = (torch.cat(parts) for parts in zip(*posteriors, strict=True))
    log_likelihood, kl = (torch.cat(parts).double() for parts in zip(*terms, strict=True))
    parts = {"nll": torch.cat(nlls), "elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl}
    information = mutual_information(mu, logvar, seed=seed).information
    return _means(parts) | {"active_units": active_units(mu).count, "mutual_information": information}


def _means(parts: dict[str, Tensor]) -> Figures:
    figures = {}
    for name, values in parts.items():
        figures[name] = values.mean().item()
        figures[f"{name}_standard_error"] = values.std().item() / math.sqrt(len(values))
    return figures
