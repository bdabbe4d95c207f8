"""Diffusion steps drawn in proportion to how large their losses were."""

import torch
from torch import Tensor, nn

PAST = 10  # losses kept of each step
UNIFORM = 0.001  # share of the draws that stays uniform, so that no step is forgotten


class LossSecondMoment(nn.Module):
    """Steps t with p_t proportional to sqrt(mean of the last 10 L_t^2) (Nichol & Dhariwal 2021, section 3.3).

    The loss (1/N) sum L_t / (T p_t) has the mean of the loss over uniform t, and the least variance where L_t does not
    vary. Until every step has 10 losses, t is uniform. The losses are buffers, so that they are in checkpoints.
    Nothing waits for the device.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.register_buffer("losses", torch.zeros(steps, PAST, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(steps, dtype=torch.int64))

    def probabilities(self) -> Tensor:
        """p_t, float64 [T]."""
        steps = len(self.seen)
        size = self.losses.square().mean(1).sqrt()
        total = size.sum()
        informed = (self.seen >= PAST).all() & (total > 0)
        return torch.where(informed, (1 - UNIFORM) * size / total + UNIFORM / steps, 1 / steps)

    def draw(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Steps t, int64 [n], and the weights 1 / (T p_t) of their losses, float64 [n], by `u` uniform in [0, 1)."""
        p = self.probabilities()
        t = torch.searchsorted(p.cumsum(0), u.double(), right=True).clamp(max=len(p) - 1)
        return t, 1 / (len(p) * p[t])

    @torch.no_grad()
    def update(self, t: Tensor, losses: Tensor) -> None:
        """Add the losses [N] of steps t [N], not weighted, in their order; each step keeps its last 10."""
        t, order = t.sort(stable=True)
        place = torch.arange(len(t), device=t.device)
        first, end = torch.searchsorted(t, t), torch.searchsorted(t, t, right=True)
        slot = (self.seen[t] + place - first) % PAST
        # of more than 10 losses of one step, those that share a slot all write the last of them
        last = place + (end - 1 - place) // PAST * PAST
        self.losses[t, slot] = losses.to(self.losses.dtype)[order[last]]
        self.seen.index_add_(0, t, torch.ones_like(t))
