"""The short way to the fused AdamW kernel is torch's own step, to the bit."""

import copy

import pytest
import torch
from torch import nn

from dgmkern.train.adamw import adamw_step


@pytest.mark.parametrize("seed", range(3))
def test_a_step_has_the_bits_of_torch(seed):
    torch.manual_seed(seed)
    ours = nn.Sequential(nn.Linear(7, 33), nn.Conv2d(3, 5, 3), nn.Linear(3, 2)).to(memory_format=torch.channels_last)
    ours[2].bias.requires_grad_(False)
    theirs = copy.deepcopy(ours)
    optimizers = []
    for network in (ours, theirs):
        first, *others = network.children()
        groups = [
            {"params": first.parameters(), "weight_decay": 0.1},
            {"params": [p for module in others for p in module.parameters()], "betas": (0.5, 0.9), "eps": 1e-6},
        ]
        optimizers.append(torch.optim.AdamW(groups, lr=1e-2, fused=True))
    begin = copy.deepcopy(ours.state_dict())
    for step in range(6):
        for group_a, group_b in zip(*(optimizer.param_groups for optimizer in optimizers), strict=True):
            group_a["lr"] = group_b["lr"] = 1e-2 / (step + 1)
        for i, (a, b) in enumerate(zip(ours.parameters(), theirs.parameters(), strict=True)):
            # one comes late, one not always, one never
            there = a.requires_grad and not (i == 1 and step < 2) and not (i == 2 and step % 2)
            a.grad = torch.randn_like(a) if there else None
            b.grad = a.grad.clone() if there else None
        adamw_step(optimizers[0])
        optimizers[1].step()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)
            states = [optimizer.state.get(p, {}) for optimizer, p in zip(optimizers, (a, b), strict=True)]
            assert states[0].keys() == states[1].keys()
            assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert torch.equal(ours[2].bias, begin["2.bias"])
    assert not torch.equal(ours[0].weight, begin["0.weight"])
