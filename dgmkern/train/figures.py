"""The pictures of a run: samples in a grid, and the loss curve."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from .atomic import write_atomically

# A tile of about this many pixels is large enough to see: 8x8 digits are drawn 6 times as large, 28x28 twice.
_TILE = 48


def save_image_grid(images: Tensor, path: Path, *, columns: int | None = None) -> None:
    """Write uint8 images [N, C, H, W] (C is 1 or 3) as one PNG: a near-square grid, row by row.

    Small images are enlarged by a whole factor without smoothing, and separated by thin lines.
    """
    n, channels, height, width = images.shape
    if channels not in (1, 3):
        raise ValueError(f"images: got {channels} channels, want 1 or 3")
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    factor = max(1, _TILE // max(height, width))
    tiles = images.cpu().numpy().repeat(factor, axis=2).repeat(factor, axis=3)
    height, width, gap = height * factor, width * factor, 2
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 96, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = (gap + k * (size + gap) for k, size in zip(divmod(i, columns), (height, width), strict=True))
        canvas[top : top + height, left : left + width] = tile.transpose(1, 2, 0)
    picture = Image.fromarray(canvas[:, :, 0] if channels == 1 else canvas)
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))


def save_loss_curve(steps: list[int], losses: Mapping[str, list[float]], path: Path, *, title: str) -> None:
    """Write the losses, by name, of each step and their exponential averages (over some 2% of the run) as a PNG.

    The axis is logarithmic where all are positive.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, (name, values) in enumerate(losses.items()):
        name = "" if name == "loss" else name.replace("_", " ") + ", "
        axes.plot(steps, values, color=f"C{i}", alpha=0.25, linewidth=0.8, label=f"{name}each step")
        axes.plot(steps, smooth(values, span=max(10, len(values) // 50)), color=f"C{i}", label=f"{name}smoothed")
    positive = all(value > 0 for values in losses.values() for value in values)
    axes.set(xlabel="training step", ylabel="loss", yscale="log" if positive else "linear", title=title)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))


def smooth(values: list[float], *, span: int) -> np.ndarray:
    """Exponential moving average with weights (1 - 1/span)^k, bias-corrected at the start."""
    decay, average, weight, out = 1 - 1 / span, 0.0, 0.0, np.empty(len(values))
    for i, value in enumerate(values):
        average = decay * average + (1 - decay) * value
        weight = decay * weight + (1 - decay)
        out[i] = average / weight
    return out
