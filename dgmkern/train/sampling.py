"""Images out of a trained model."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..data import to_uint8
from .config import Precision
from .products import fast_products
from .progress import progress_bar


def draw_images(
    model: nn.Module,
    n: int,
    *,
    seed: int,
    batch_size: int = 128,
    precision: Precision = "fp32",
    progress: bool = True,
    labels: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """`n` samples of `model` as uint8 [n, C, H, W], drawn `batch_size` at a time with a progress bar.

    Image i depends on `seed` and i, up to rounding not on n or `batch_size`. `labels` (int64 [n]) are the classes to
    draw; a model with classes draws each in turn without them. `options` are further arguments of `model.sample`.

    Raises ValueError: n, batch_size < 1, another number of labels, and what `model.sample` raises.
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"n, batch_size: got {n}, {batch_size}, want integers >= 1")
    if labels is not None and labels.shape != (n,):
        raise ValueError(f"labels: got shape {list(labels.shape)}, want [{n}], one of each image")
    model.eval()
    if labels is None and (classes := getattr(getattr(model, "config", None), "classes", 0)):
        labels = torch.arange(n) % classes
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    images = []
    for first in range(0, n, batch_size):
        count = min(batch_size, n - first)
        bar = partial(progress_bar, desc=f"sampling {first + 1}-{first + count} of {n}", disable=not progress)
        of_class = {} if labels is None else {"labels": labels[first : first + count].to(device)}
        with fast_products(device), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            x = model.sample(count, seed=seed, first=first, progress=bar, **of_class, **options)
            images.append(to_uint8(x).cpu())
    return torch.cat(images)
