"""The averaged weights that samples are drawn with."""

import copy
from itertools import chain

import torch
from torch import Tensor, nn


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
        floating, others = _tensors(model)
        averages, copies = _tensors(self.module)
        self._averaged, self._copied = (averages, floating), (copies, others)

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights into the average."""
        n = self.updates
        if self._averaged[0]:
            torch._foreach_lerp_(*self._averaged, 1.0 - min(self.decay, (1 + n) / (10 + n)))
        for copied, own in zip(*self._copied, strict=True):
            copied.copy_(own)
        self.updates += 1


def _tensors(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Those of floating point, and the others."""
    found = [x.detach() for x in chain(model.parameters(), model.buffers())]
    return [x for x in found if x.is_floating_point()], [x for x in found if not x.is_floating_point()]
