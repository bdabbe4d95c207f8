import pytest
import torch

from dgmkern.nn import GroupNormSiLU


@pytest.mark.parametrize("modulated", [False, True])
def test_it_is_the_formula_in_fp64(modulated):
    torch.manual_seed(0)
    norm = GroupNormSiLU(12, groups=3).double()
    torch.nn.init.normal_(norm.norm.weight)
    torch.nn.init.normal_(norm.norm.bias)
    x = torch.randn(2, 12, 5, 3, dtype=torch.float64)
    scale, shift = torch.randn(2, 2, 12, dtype=torch.float64)
    grouped = x.reshape(2, 3, -1)
    mean, variance = grouped.mean(2, keepdim=True), grouped.var(2, unbiased=False, keepdim=True)
    h = ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
    h = h * norm.norm.weight[:, None, None] + norm.norm.bias[:, None, None]
    if modulated:
        h = h * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    want = h / (1 + torch.exp(-h))
    got = norm(x, scale, shift) if modulated else norm(x)
    assert (got - want).abs().max() < 1e-12


def test_groups_have_16_channels_unless_told_otherwise():
    assert [GroupNormSiLU(c).norm.num_groups for c in (8, 16, 32, 128)] == [1, 1, 2, 8]
