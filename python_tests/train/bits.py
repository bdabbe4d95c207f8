"""All that a trainer carries from step to step, bit for bit."""

import torch

from dgmkern.train import Trainer


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    tensors = {f"model.{k}": v for k, v in trainer.model.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in trainer.ema.module.state_dict().items()}
    for i, optimizer in enumerate(trainer.optimizers.values()):
        for j, parameter in enumerate(optimizer.param_groups[0]["params"]):
            tensors |= {f"optimizer.{i}.{j}.{k}": v for k, v in optimizer.state[parameter].items()}
    return tensors


def assert_same_bits(a: Trainer, b: Trainer) -> None:
    left, right = state(a), state(b)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []
