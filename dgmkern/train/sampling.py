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
    label: int | None = None,
    **options: Any,
) -> Tensor:
    """`n` samples of `model` as uint8 [n, C, H, W], drawn `batch_size` at a time with a progress bar.

    Image i depends on `seed` and i, up to rounding not on n or `batch_size`. `label` is the class of all, `options` are
    further arguments of `model.sample`.
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"n, batch_size: got {n}, {batch_size}, want integers >= 1")
    model.eval()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    images = []
    for first in range(0, n, batch_size):
        count = min(batch_size, n - first)
        bar = partial(progress_bar, desc=f"sampling {first + 1}-{first + count} of {n}", disable=not progress)
        with fast_products(device), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            labels = {} if label is None else {"labels": torch.full((count,), label, device=device)}
            x = model.sample(count, seed=seed, first=first, progress=bar, **labels, **options)
            images.append(to_uint8(x).cpu())
    return torch.cat(images)
