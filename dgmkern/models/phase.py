"""What a training step consists of: one phase for a model that plays alone, several for the players of a game."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Phase:
    """One optimizer step of one player.

    `loss(x, *, seed, step, labels, share)` is a scalar whose gradient reaches no parameter but those of `module`, all
    of which the step may change; `after`, where given, is called when it has. On a GPU a recording of both is replayed
    with other values in the tensors x, seed, step and labels. The losses of phases of one name are logged together, as
    `<name>_loss` (those named "loss" as "loss").
    """

    name: str
    module: nn.Module
    loss: Callable[..., Tensor]
    after: Callable[[], None] | None = None

    @property
    def prefix(self) -> str:
        """What the names of its figures start with in the log."""
        return "" if self.name == "loss" else f"{self.name}_"


def phases_of(model: nn.Module, step: int) -> tuple[Phase, ...]:
    """The phases of training step `step` (0-based): `model.phases(step)`, or the whole model under `model.loss`."""
    if hasattr(model, "phases"):
        return model.phases(step)
    return (Phase("loss", model, model.loss),)
