import torch


def test_fresh_memory_is_poisoned():
    assert (torch.empty(1000) == torch.full((4,), 0xFE, dtype=torch.uint8).view(torch.float32)).all()
