"""The averaged weights that samples are drawn with."""

import copy
from itertools import chain

import torch
from torch import nn


class AveragedWeights:
    """Exponential moving average of the weights of `model`, in `module`, a copy of it.

    ema <- d ema + (1 - d) weights with d = min(decay, (1 + n) / (10 + n)) after n updates, so that the first averages
    are not held back by the initial weights. Buffers of floating point are averaged like weights, others copied. The
    model must keep its tensors: they are looked up once, which for an MLP takes as long as the average itself.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model)
        self.decay = decay
        self.updates = 0
        pairs = [
            (average.detach(), own.detach()) for average, own in zip(*map(_tensors, (self.module, model)), strict=True)
        ]
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights into the average."""
        n = self.updates
        if self._averaged:
            torch._foreach_lerp_(
                *map(list, zip(*self._averaged, strict=True)), 1.0 - min(self.decay, (1 + n) / (10 + n))
            )
        for average, own in self._copied:
            average.copy_(own)
        self.updates += 1


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return list(chain(model.parameters(), model.buffers()))
