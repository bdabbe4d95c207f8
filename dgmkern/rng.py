"""Seeds: where the noise of an op comes from.

A normal of dgmkern is a function of (seed, element), so a seed is all the state there is. It lives in an int64 tensor
of one element on the op's device: nothing syncs with the host, and CUDA graphs replay with fresh seeds.
"""

import torch
from torch import Tensor


def draw_seed(device: torch.device | str = "cpu", generator: torch.Generator | None = None) -> Tensor:
    """Draw a seed from torch's generator of `device` (or from `generator`): int64 tensor [1], uniform in [0, 2^63 - 1).

    `torch.manual_seed`, `torch.random.fork_rng`, activation checkpointing and CUDA graphs act on it as on any torch
    draw. Under `torch.compile` and activation checkpointing pass no `generator`: torch restores its own ones only.
    """
    # an explicit generator=None makes Inductor call ATen, so that compiled code draws what eager code draws
    return torch.randint(0, 2**63 - 1, (1,), dtype=torch.int64, device=device, generator=generator)


def seed_tensor(seed: int | Tensor, device: torch.device | str) -> Tensor:
    """`seed` as the ops want it: int64 tensor [1] on `device`. An int is taken modulo 2^64.

    Raises TypeError for anything but an int or an int64 tensor, ValueError for a tensor of more than one element or
    on another device.
    """
    if isinstance(seed, Tensor):
        if seed.dtype is not torch.int64:
            raise TypeError(f"seed: expected an int64 tensor, got dtype {seed.dtype}")
        if seed.numel() != 1:
            raise ValueError(f"seed: expected a tensor of one element, got shape {tuple(seed.shape)}")
        if seed.device != torch.device(device) and seed.device.type != torch.device(device).type:
            raise ValueError(f"seed: expected a tensor on {device}, got one on {seed.device}")
        return seed
    if isinstance(seed, bool) or not isinstance(seed, (int, torch.SymInt)):
        raise TypeError(f"seed: expected an int or an int64 tensor of one element, got {type(seed).__name__}")
    if isinstance(seed, int) and not -(2**63) <= seed < 2**63:
        seed = (seed + 2**63) % 2**64 - 2**63
    return torch.full((1,), seed, dtype=torch.int64, device=device)
