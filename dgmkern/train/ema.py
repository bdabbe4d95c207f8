"""The averaged weights that samples are drawn with."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged_model(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of the weights of `model`, a copy of it in `.module`.

    ema <- d ema + (1 - d) weights with d = min(decay, (1 + n) / (10 + n)) after n updates, so that the first averages
    are not held back by the initial weights. Buffers of
    floating point are averaged like weights, others copied.
    """

    def update(ema: list[Tensor], weights: list[Tensor], updates: Tensor | int) -> None:
        n = int(updates)
        if not ema[0].is_floating_point():  # counters, such as BatchNorm's; the lists hold one dtype each
            torch._foreach_copy_(ema, weights)
            return
        torch._foreach_lerp_(ema, weights, 1.0 - min(decay, (1 + n) / (10 + n)))

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)
