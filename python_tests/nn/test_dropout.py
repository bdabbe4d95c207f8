"""Dropout: how much is kept, that masks do not depend on who computes them, and that each has its own."""

import math

import pytest
import torch

from dgmkern import normal
from dgmkern.nn import Dropout, Masks, UNet

SEED = torch.tensor([7])


def mask(dropout: Dropout, shape=(4, 3, 8, 8), **where) -> torch.Tensor:
    return dropout(torch.ones(shape), Masks(SEED, **({"first": 0} | where)))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_elements_are_dropped_as_often_as_asked_and_the_rest_scaled(p):
    n = 1 << 18
    kept = mask(Dropout(p), (n, 1))
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)], rel=1e-6)
    share = (kept > 0).double().mean().item()
    assert abs(share - (1 - p)) < 5 * math.sqrt(p * (1 - p) / n)
    x = normal((n, 1), 1).requires_grad_()
    y = Dropout(p)(x, Masks(SEED, 0))
    torch.testing.assert_close(y, x * kept)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, kept)


def test_a_share_of_a_batch_has_the_masks_that_it_has_in_the_batch():
    dropout = Dropout(0.4, 2)
    whole = mask(dropout, stretch=3)
    for first in (0, 1, 3):
        assert torch.equal(mask(dropout, (1, 3, 8, 8), first=first, stretch=3), whole[first : first + 1])
    nhwc = dropout(torch.ones(4, 3, 8, 8).to(memory_format=torch.channels_last), Masks(SEED, 0, 3))
    assert torch.equal(nhwc, whole)
    assert torch.equal(dropout(torch.ones(4, 3, 8, 8, dtype=torch.bfloat16), Masks(SEED, 0, 3)) > 0, whole > 0)


def test_masks_of_other_seeds_layers_and_stretches_are_independent():
    n = 1 << 16
    masks = [
        mask(Dropout(0.5), (n, 1)),
        mask(Dropout(0.5, 1), (n, 1)),
        mask(Dropout(0.5), (n, 1), stretch=5),
        Dropout(0.5)(torch.ones(n, 1), Masks(SEED + 1, 0)),
    ]
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert abs(((a - 1) * (b - 1)).mean().item()) < 5 / math.sqrt(n)


def test_without_masks_they_are_drawn_from_torchs_generator():
    dropout, x = Dropout(0.5), torch.ones(64, 64)
    torch.manual_seed(3)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)
    assert torch.equal(dropout.eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_each_block_of_a_unet_has_numbers_of_its_own():
    unet = UNet(1, 1, channels=8, multipliers=(1, 2), blocks=2, head_dim=16, dropout=0.3)
    numbers = [module.number for module in unet.modules() if isinstance(module, Dropout)]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) == 2 * 2 + 2 + 2 * 3
